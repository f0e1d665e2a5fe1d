//! `entente issuer agent list|show|ban|evict|count|purge`.

use std::time::Duration;

use federation_specs::proto::server::agent::{
    BanAgentRequest, CountAgentsRequest, CountAgentsResponse, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, count_agents_request, list_agents_request,
};
use federation_specs::proto::types;
use serde_json::{Map, Value, json};
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::config::HumanDuration;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::connect::{self, Api, IssuerSocket};
use crate::failure::{Failure, status_text};
use crate::identifiers::{self, Match, id_text};
use crate::notation::{self, counted, quote};
use crate::output::{self, Format, OutputArguments};

const AGENT: &str = "spire.api.types.Agent";
const PACKAGE: &str = "spire.api.server.agent.v1";
/// Agents asked for at a time.
const PAGE: i32 = 1000;
/// How `-expiresBefore` is written.
const TIME_LAYOUT: &str = "2006-01-02 15:04:05 -0700 -07";

/// The commands of `entente issuer agent`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Ban an agent: it can neither work nor attest again
    Ban(One),
    /// Count attested agents
    Count(Count),
    /// Forget an agent: it has to attest again
    Evict(One),
    /// List attested agents
    List(List),
    /// Delete agents that expired and could attest again
    Purge(Purge),
    /// One agent with its selectors
    Show(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The agent's SPIFFE ID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Count {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    socket: IssuerSocket,
    /// Only agents expired at least this long ago
    #[arg(long = "expiredFor", value_name = "DURATION", default_value = "720h")]
    expired_for: HumanDuration,
    /// Only say which
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, Default, clap::Args)]
struct Filter {
    /// Agents with this selector (type:value); may be repeated
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How the selectors are compared: exact, subset, superset or any
    #[arg(long = "matchSelectorsOn", value_name = "HOW", default_value = "superset")]
    match_selectors_on: String,
    /// Agents attested this way, like join_token
    #[arg(long = "attestationType", value_name = "TYPE")]
    attestation_type: Option<String>,
    /// true or false: agents that can, or cannot, attest again
    #[arg(long = "canReattest", value_name = "BOOL")]
    can_reattest: Option<String>,
    /// true or false: agents that are, or are not, banned
    #[arg(long, value_name = "BOOL")]
    banned: Option<String>,
    /// Agents that expire before this time, like "2027-01-31 15:04:05 +0000 +00"
    #[arg(long = "expiresBefore", value_name = "TIME")]
    expires_before: Option<String>,
}

impl Filter {
    fn request(&self) -> Result<list_agents_request::Filter, Failure> {
        let mut filter = list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone().unwrap_or_default(),
            by_banned: tristate(self.banned.as_deref()),
            by_can_reattest: tristate(self.can_reattest.as_deref()),
            by_expires_before: checked_time(self.expires_before.as_deref().unwrap_or_default())?,
            ..Default::default()
        };
        if !self.selector.is_empty() {
            let behavior = Match::parse(&self.match_selectors_on)?;
            let selectors = self.selector.iter().map(|text| {
                identifiers::selector(text)
                    .map_err(|failure| failure.context(&format!("error parsing selector {}", quote(text))))
            });
            filter.by_selector_match = Some(types::SelectorMatch {
                selectors: selectors.collect::<Result<_, _>>()?,
                r#match: behavior.selectors(),
            });
        }
        Ok(filter)
    }
}

/// Anything but true and false asks for all, as in SPIRE's commands.
fn tristate(text: Option<&str>) -> Option<bool> {
    match text {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    }
}

/// The server passes over a time it cannot read, so it is read here first.
fn checked_time(text: &str) -> Result<String, Failure> {
    if text.is_empty() || reads_as_time(text) {
        return Ok(text.to_owned());
    }
    Err(Failure::new(format!(
        "date is not valid: parsing time {} as {}: write it like \"2027-01-31 15:04:05 +0000 +00\"",
        quote(text),
        quote(TIME_LAYOUT)
    )))
}

fn reads_as_time(text: &str) -> bool {
    let format = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let Some((time, zone)) = text.rsplit_once(' ') else { return false };
    let zone_is_read =
        zone.len() == 3 && zone.starts_with(['+', '-']) && zone.bytes().skip(1).all(|digit| digit.is_ascii_digit());
    zone_is_read && OffsetDateTime::parse(time, &format).is_ok()
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ban(arguments) => ban(&arguments).await,
        Command::Count(arguments) => count(&arguments).await,
        Command::Evict(arguments) => evict(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Purge(arguments) => purge(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
    }
}

fn required_id(arguments: &One) -> Result<types::Spiffeid, Failure> {
    let id = arguments.spiffe_id.as_deref().filter(|id| !id.is_empty());
    identifiers::spiffe_id(id.ok_or_else(|| Failure::new("a SPIFFE ID is required"))?)
}

async fn ban(arguments: &One) -> Result<(), Failure> {
    let id = Some(required_id(arguments)?);
    let api = arguments.socket.connect().await?;
    connect::agents(&api).ban_agent(BanAgentRequest { id }).await?;
    print_done(arguments.output.format, "Agent banned successfully\n")
}

async fn evict(arguments: &One) -> Result<(), Failure> {
    let id = Some(required_id(arguments)?);
    let api = arguments.socket.connect().await?;
    connect::agents(&api).delete_agent(DeleteAgentRequest { id }).await?;
    print_done(arguments.output.format, "Agent evicted successfully\n")
}

fn print_done(format: Format, text: &str) -> Result<(), Failure> {
    match format {
        Format::Json => output::to_stdout("{}\n"),
        Format::Pretty => output::to_stdout(text),
    }
}

async fn show(arguments: &One) -> Result<(), Failure> {
    let id = Some(required_id(arguments)?);
    let api = arguments.socket.connect().await?;
    let agent = connect::agents(&api).get_agent(GetAgentRequest { id, output_mask: None }).await?.into_inner();
    output::print(arguments.output.format, AGENT, &agent, show_text)
}

fn show_text(agent: &types::Agent) -> String {
    let selectors = agent.selectors.iter().map(|selector| {
        let text = format!("{}:{}", selector.r#type, selector.value);
        format!("{:<18}: {text}\n", "Selectors")
    });
    let selectors: String = selectors.collect();
    format!("Found an attested agent given its SPIFFE ID\n\n{}{selectors}", block(agent))
}

async fn count(arguments: &Count) -> Result<(), Failure> {
    let filter = arguments.filter.request()?;
    let filter = count_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    };
    let api = arguments.socket.connect().await?;
    let count = connect::agents(&api).count_agents(CountAgentsRequest { filter: Some(filter) }).await?.into_inner();
    output::print(arguments.output.format, &format!("{PACKAGE}.CountAgentsResponse"), &count, count_text)
}

fn count_text(count: &CountAgentsResponse) -> String {
    format!("{}\n", counted(count.count, "attested agent", "attested agents"))
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let filter = arguments.filter.request()?;
    let api = arguments.socket.connect().await?;
    let response = ListAgentsResponse { agents: list_all(&api, filter).await?, next_page_token: String::new() };
    output::print(arguments.output.format, &format!("{PACKAGE}.ListAgentsResponse"), &response, list_text)
}

async fn list_all(api: &Api, filter: list_agents_request::Filter) -> Result<Vec<types::Agent>, Failure> {
    let mut client = connect::agents(api);
    let mut request = ListAgentsRequest { filter: Some(filter), page_size: PAGE, ..Default::default() };
    let mut agents = Vec::new();
    loop {
        let mut page = client.list_agents(request.clone()).await?.into_inner();
        agents.append(&mut page.agents);
        if page.next_page_token.is_empty() {
            return Ok(agents);
        }
        request.page_token = page.next_page_token;
    }
}

fn list_text(response: &ListAgentsResponse) -> String {
    if response.agents.is_empty() {
        return "No attested agents found\n".to_owned();
    }
    let head = counted(response.agents.len() as u64, "attested agent", "attested agents");
    let blocks: String = response.agents.iter().map(block).collect();
    format!("Found {head}:\n\n{blocks}")
}

/// The agent's lines and the empty line after them.
fn block(agent: &types::Agent) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<18}: {value}\n"));
    line("SPIFFE ID", &id_text(agent.id.as_ref()));
    line("Attestation type", &agent.attestation_type);
    line("Expiration time", &notation::time_of(agent.x509svid_expires_at));
    if agent.banned {
        line("Banned", "true");
    } else {
        line("Serial number", &agent.x509svid_serial_number);
    }
    line("Can re-attest", if agent.can_reattest { "true" } else { "false" });
    if !agent.agent_version.is_empty() {
        line("Agent version", &agent.agent_version);
    }
    text.push('\n');
    text
}

/// What became of an expired agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expired {
    id: String,
    /// `None` in a dry run.
    outcome: Option<Result<(), String>>,
}

async fn purge(arguments: &Purge) -> Result<(), Failure> {
    let api = arguments.socket.connect().await?;
    let filter = list_agents_request::Filter { by_can_reattest: Some(true), ..Default::default() };
    let agents = list_all(&api, filter).await?;
    let limit = expiry_limit(SystemClock.now(), arguments.expired_for.get())?;
    let mut client = connect::agents(&api);
    let mut expired = Vec::new();
    for agent in agents.into_iter().filter(|agent| agent.x509svid_expires_at < limit) {
        let id = id_text(agent.id.as_ref());
        let outcome = if arguments.dry_run {
            None
        } else {
            let deleted = client.delete_agent(DeleteAgentRequest { id: agent.id }).await;
            Some(deleted.map(drop).map_err(|status| status_text(&status)))
        };
        expired.push(Expired { id, outcome });
    }
    match arguments.output.format {
        Format::Json => output::to_stdout(&purge_json(&expired)),
        Format::Pretty => output::to_stdout(&purge_text(&expired, arguments.dry_run)),
    }
}

fn expiry_limit(now: OffsetDateTime, expired_for: Duration) -> Result<i64, Failure> {
    let seconds = i64::try_from(expired_for.as_secs()).ok();
    let limit = seconds.and_then(|seconds| now.unix_timestamp().checked_sub(seconds));
    limit.ok_or_else(|| Failure::new("-expiredFor is longer than any time there was"))
}

fn purge_json(expired: &[Expired]) -> String {
    let items = expired.iter().map(|agent| {
        let mut item = Map::new();
        item.insert("agent_id".to_owned(), agent.id.clone().into());
        item.insert("deleted".to_owned(), matches!(agent.outcome, Some(Ok(()))).into());
        if let Some(Err(error)) = &agent.outcome {
            item.insert("error".to_owned(), error.clone().into());
        }
        Value::Object(item)
    });
    output::value_line(&json!({"expired_agents": items.collect::<Vec<_>>()}))
}

fn purge_text(expired: &[Expired], dry_run: bool) -> String {
    if expired.is_empty() {
        return "No agents to purge.\n".to_owned();
    }
    let line = |agent: &Expired| format!("{:<18}: {}\n", "SPIFFE ID", agent.id);
    let mut text = format!("Found {}\n", counted(expired.len() as u64, "expired agent", "expired agents"));
    if dry_run {
        text.push_str("\n\nAgents that can be purged:\n");
        text.extend(expired.iter().map(line));
        return text;
    }
    let (purged, kept): (Vec<_>, Vec<_>) = expired.iter().partition(|agent| matches!(agent.outcome, Some(Ok(()))));
    if !purged.is_empty() {
        text.push_str("\nAgents purged:\n");
        text.extend(purged.into_iter().map(line));
    }
    if !kept.is_empty() {
        text.push_str("\nAgents not purged:\n");
        for agent in kept {
            text.push_str(&line(agent));
            if let Some(Err(error)) = &agent.outcome {
                text.push_str(&format!("{:<18}: {error}\n", "Error"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn lists_are_spires() {
        let transcripts = Transcripts::of("agent-list");
        let name = format!("{PACKAGE}.ListAgentsResponse");
        for command in ["agent list", "agent list -attestationType x509pop", "agent list -banned true"] {
            for (text, json) in transcripts.pairs(command) {
                let response: ListAgentsResponse = Transcripts::decode(&name, &json);
                assert_eq!(output::json_line(&name, &response).unwrap(), json);
                assert_eq!(list_text(&response), text);
            }
        }
        assert_eq!(list_text(&ListAgentsResponse::default()), "No attested agents found\n");
    }

    #[test]
    fn one_agent_is_shown_as_spires() {
        let transcripts = Transcripts::of("agent-show");
        let agent = "spiffe://cloud.example/spire/agent/x509pop/65d6b2c6e8466d227dc9ac8e32bb47c8ed0c8517";
        for (text, json) in transcripts.pairs(&format!("agent show -spiffeID {agent}")) {
            let agent: types::Agent = Transcripts::decode(AGENT, &json);
            assert_eq!(output::json_line(AGENT, &agent).unwrap(), json);
            assert_eq!(show_text(&agent), text);
        }
    }

    #[test]
    fn purges_are_spires() {
        let transcripts = Transcripts::of("agent-purge");
        let id = "spiffe://cloud.example/spire/agent/x509pop/a0a88f783df1343afc23aadbaa6585cdda7aa698".to_owned();
        let found = Expired { id: id.clone(), outcome: None };
        let dry = "agent purge -expiredFor 1s -dryRun";
        assert_eq!(purge_text(&[], true), transcripts.all(dry)[0].stdout);
        assert_eq!(purge_text(std::slice::from_ref(&found), true), transcripts.all(dry)[1].stdout);
        assert_eq!(purge_json(&[found]), transcripts.stdout(&format!("{dry} -output json")));
        assert_eq!(purge_json(&[]), transcripts.stdout("agent purge -expiredFor 1s -output json"));
        let gone = Expired { id: id.clone(), outcome: Some(Ok(())) };
        assert_eq!(purge_text(&[gone], false), transcripts.stdout("agent purge -expiredFor 1s"));
        let kept = Expired { id, outcome: Some(Err("no".to_owned())) };
        assert!(purge_text(std::slice::from_ref(&kept), false).contains("\nAgents not purged:\nSPIFFE ID"));
        assert!(purge_json(&[kept]).contains("\"deleted\":false,\"error\":\"no\""));
    }

    #[test]
    fn filters_are_checked() {
        let filter = |text: &str| Filter { expires_before: Some(text.to_owned()), ..Filter::default() };
        assert!(filter("2030-01-01 00:00:00 -0000 -00").request().is_ok());
        let refusal = filter("2020-01-01").request().unwrap_err();
        assert!(
            refusal
                .text()
                .starts_with("date is not valid: parsing time \"2020-01-01\" as \"2006-01-02 15:04:05 -0700 -07\": ")
        );
        let filter =
            Filter { selector: vec!["bad".to_owned()], match_selectors_on: "superset".to_owned(), ..Filter::default() };
        let expected = Transcripts::of("agent-list").stderr("agent list -selector bad").to_owned();
        assert_eq!(format!("Error: {}\n", filter.request().unwrap_err().text()), expected);
        assert_eq!(tristate(Some("maybe")), None);
        assert_eq!(tristate(Some("false")), Some(false));
    }
}
