//! `entente gateway relationship list|show|refresh|history`; decisions are in [`super::decision`], what creates, changes
//! and removes relationships in [`super::managed`].

use std::path::Path;

use anstyle::AnsiColor;
use comfy_table::Color;
use federation_specs::id::TrustDomain;
use gateway::api::{
    Health, OfferReason, Origin, RefreshRequest, RefreshResult, Relationship, RelationshipList, RelationshipState,
    WaitingBundle,
};

use super::address::GatewayAddress;
use super::client::Client;
use super::pages::{self, Limit};
use super::table::{NOTHING, cell, coloured, line, number, short, table, time};
use super::{bundle, decision, managed};
use crate::failure::Failure;
use crate::identifiers;
use crate::notation::counted;
use crate::output::{self, Format, OutputArguments};

/// A first key that expires within a week is shown in colour.
const SOON: i64 = 7 * 86_400;

/// The commands of `entente gateway relationship`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put the bundle that waits in force
    Approve(decision::Named),
    /// Create a relationship that is managed here
    Create(managed::Change),
    /// Remove a managed relationship; its bundle is taken from the issuers
    Delete(managed::Delete),
    /// Stop a relationship in place: polling goes on, nothing is accepted
    Freeze(decision::Reasoned),
    /// The bundles that were in force, newest first
    History(bundle::History),
    /// Every relationship in a line
    List(List),
    /// Fetch the partner's bundle now
    Refresh(Refresh),
    /// Turn the bundle that waits down
    Reject(decision::Named),
    /// Put an earlier bundle, or the one that waits, in force by its name, and freeze the relationship
    #[command(visible_alias = "pin")]
    Restore(decision::Restore),
    /// One relationship in full
    Show(One),
    /// Let a frozen relationship go on
    Unfreeze(decision::Reasoned),
    /// Change what is given of a managed relationship and keep the rest
    Update(managed::Change),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Only those of this health, or of several with commas between them: degraded,failing,expired
    #[arg(long, value_name = "HEALTH")]
    health: Option<String>,
    /// Only those of this mode: auto, hold or pinned
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Only those in this state: frozen, waiting, rejected, drift or conflict
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only those whose bundle this local trust domain receives
    #[arg(long = "local", value_name = "TRUST_DOMAIN")]
    local: Option<String>,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The partner
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Refresh {
    #[command(flatten)]
    one: One,
    /// Accept a bundle older than the one held, this once: the partner was rebuilt
    #[arg(long = "accept-rollback")]
    accept_rollback: bool,
    /// Accept a bundle without keys, this once: it revokes all trust in the partner
    #[arg(long = "accept-emptied")]
    accept_emptied: bool,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Approve(arguments) => decision::approve(&arguments).await,
        Command::Create(arguments) => managed::create(&arguments).await,
        Command::Delete(arguments) => managed::delete(&arguments).await,
        Command::Freeze(arguments) => decision::freeze(&arguments).await,
        Command::History(arguments) => bundle::history(&arguments).await,
        Command::Reject(arguments) => decision::reject(&arguments).await,
        Command::Restore(arguments) => decision::restore(&arguments).await,
        Command::Unfreeze(arguments) => decision::unfreeze(&arguments).await,
        Command::Update(arguments) => managed::update(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
        Command::Refresh(arguments) => refresh(&arguments).await,
    }
}

pub(super) fn path(trust_domain: &TrustDomain) -> String {
    format!("/v1/relationships/{trust_domain}")
}

/// One relationship of the gateway at `socket`.
pub(crate) async fn get(socket: &Path, trust_domain: &TrustDomain) -> anyhow::Result<Relationship> {
    let relationship = Client::new(socket.to_owned()).get(&path(trust_domain)).await;
    relationship.map_err(|failure| anyhow::anyhow!(failure.into_text()))
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let filters = [
        ("health", arguments.health.clone()),
        ("mode", arguments.mode.clone()),
        ("state", arguments.state.clone()),
        ("local_trust_domain", arguments.local.clone()),
    ];
    let filtered = filters.iter().any(|(_, value)| value.is_some());
    let list: RelationshipList = pages::read(&client, "/v1/relationships", &filters, arguments.limit.limit).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty if filtered && list.relationships.is_empty() => output::to_stdout("No such relationships\n"),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

async fn show(arguments: &One) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let relationship: Relationship = client.get(&path(&trust_domain)).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&relationship),
        Format::Pretty => output::to_stdout_in_colour(&show_text(&relationship)),
    }
}

async fn refresh(arguments: &Refresh) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let client = arguments.one.gateway.client().await?;
    let request =
        RefreshRequest { accept_rollback: arguments.accept_rollback, accept_emptied: arguments.accept_emptied };
    let result: RefreshResult = client.post(&format!("{}/refresh", path(&trust_domain)), &request).await?;
    match arguments.one.output.format {
        Format::Json => output::print_json(&result),
        Format::Pretty => output::to_stdout_in_colour(&refresh_text(&result)),
    }
}

fn health_colours(health: Health) -> (Color, AnsiColor) {
    match health {
        Health::Pending => (Color::Cyan, AnsiColor::Cyan),
        Health::Healthy => (Color::Green, AnsiColor::Green),
        Health::Degraded => (Color::Yellow, AnsiColor::Yellow),
        Health::Failing | Health::Expired => (Color::Red, AnsiColor::Red),
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Config => "config",
        Origin::Managed => "managed",
        Origin::Issuer => "issuer",
    }
}

fn delivered(relationship: &Relationship) -> String {
    let done = relationship.deliveries.iter().filter(|delivery| delivery.delivered).count();
    format!("{done}/{}", relationship.deliveries.len())
}

fn list_text(list: &RelationshipList) -> String {
    if list.relationships.is_empty() {
        return "No relationships: name partners in the configuration, apply them (`entente gateway apply`), or create \
                them at the issuer (`entente issuer federation create`)\n"
            .to_owned();
    }
    // Where several gateways share a database.
    let shared = list.relationships.iter().any(|relationship| relationship.replica.is_some());
    let rows = list.relationships.iter().map(|relationship| {
        let expiry = relationship.first_expiry_seconds;
        let expiry_colour = match expiry {
            Some(left) if left <= 0 => Some(Color::Red),
            Some(left) if left < SOON => Some(Color::Yellow),
            _ => None,
        };
        let state = state(relationship);
        let state_colour = (state != NOTHING).then_some(Color::Yellow);
        let failures = relationship.consecutive_failures;
        let mut row = vec![
            cell(&relationship.trust_domain, None),
            cell(relationship.health.as_str(), Some(health_colours(relationship.health).0)),
            cell(relationship.mode.as_str(), None),
            cell(state, state_colour),
            cell(number(relationship.held.as_ref().and_then(|held| held.sequence)), None),
            cell(span(relationship.bundle_age_seconds.and_then(|age| age.try_into().ok())), None),
            cell(span(relationship.next_refresh_seconds.and_then(|next| next.try_into().ok())), None),
            cell(span(expiry), expiry_colour),
            cell(failures, (failures > 0).then_some(Color::Red)),
            cell(delivered(relationship), None),
            cell(relationship.last_error.as_deref().map_or_else(|| NOTHING.to_owned(), one_line), None),
        ];
        if shared {
            row.insert(1, cell(relationship.replica.as_deref().unwrap_or(NOTHING), None));
        }
        row
    });
    let mut header = vec![
        "TRUST DOMAIN",
        "HEALTH",
        "MODE",
        "STATE",
        "SEQUENCE",
        "AGE",
        "NEXT",
        "EXPIRES IN",
        "FAILURES",
        "DELIVERED",
        "LAST ERROR",
    ];
    if shared {
        header.insert(1, "GATEWAY");
    }
    table(&header, rows.collect())
}

/// What an operator did or has to do, in a word each.
fn state(relationship: &Relationship) -> String {
    let words: Vec<_> = relationship.states().into_iter().map(RelationshipState::as_str).collect();
    if words.is_empty() { NOTHING.to_owned() } else { words.join(",") }
}

/// The two largest units of a time span: `3d4h`, `2m5s`; `-` before it if it is over.
fn span(seconds: Option<i64>) -> String {
    let Some(seconds) = seconds else { return NOTHING.to_owned() };
    let sign = if seconds < 0 { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    let (large, small) = match seconds {
        0..60 => return format!("{sign}{seconds}s"),
        60..3_600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    let small = if small.0 > 0 { format!("{}{}", small.0, small.1) } else { String::new() };
    format!("{sign}{}{}{small}", large.0, large.1)
}

/// A text from elsewhere as one line without control characters.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn show_text(relationship: &Relationship) -> String {
    let mut text = line("Trust domain", &relationship.trust_domain);
    text.push_str(&line("Health", &coloured(relationship.health.as_str(), health_colours(relationship.health).1)));
    text.push_str(&line("Bundle endpoint URL", &relationship.url));
    for url in &relationship.failover_urls {
        let in_use = if relationship.url_in_use.as_ref() == Some(url) { " (in use)" } else { "" };
        text.push_str(&line("Failover URL", &format!("{url}{in_use}")));
    }
    text.push_str(&line("Profile", relationship.profile.as_str()));
    if let Some(id) = &relationship.endpoint_spiffe_id {
        text.push_str(&line("Endpoint SPIFFE ID", id));
    }
    let set = relationship.managed.as_ref().and_then(|managed| managed.set.as_ref());
    let set = set.map(|set| format!(", set {set}")).unwrap_or_default();
    text.push_str(&line("Defined by", &format!("{}{set}", origin(relationship.origin))));
    if let Some(replica) = &relationship.replica {
        text.push_str(&line("Worked on by", replica));
    }
    text.push_str(&line("Mode", relationship.mode.as_str()));
    if let Some(frozen) = &relationship.frozen {
        let words = format!("since {} by {}{}", time(Some(frozen.at)), one_line(&frozen.by), because(&frozen.why));
        text.push_str(&line("Frozen", &coloured(&words, AnsiColor::Yellow)));
    }
    if let Some(age) = relationship.maximum_age_seconds {
        text.push_str(&line("Maximum age", &span(age.try_into().ok())));
    }
    if relationship.expired_at.is_some() {
        let words = format!("since {}; the issuers do not have it any more", time(relationship.expired_at));
        text.push_str(&line("Expired", &coloured(&words, AnsiColor::Red)));
    }
    if let Some(waiting) = &relationship.waiting {
        text.push_str(&waiting_text(waiting));
    }
    text.push_str(&line("Last attempt", &time(relationship.last_attempt)));
    text.push_str(&line("Last success", &time(relationship.last_success)));
    text.push_str(&line("Next refresh", &time(relationship.next_refresh)));
    if let Some(error) = &relationship.last_error {
        let failures = counted(u64::from(relationship.consecutive_failures), "failure", "failures");
        text.push_str(&line("Last error", &format!("{error} ({failures} in a row)")));
    }
    match &relationship.held {
        None => text.push_str(&line("Bundle", "none held")),
        Some(held) => {
            let keys = format!(
                "{}, {}",
                counted(held.x509_authorities as u64, "X.509 authority", "X.509 authorities"),
                counted(held.jwt_authorities as u64, "JWT authority", "JWT authorities")
            );
            text.push_str(&line("Bundle", &keys));
            text.push_str(&line("Sequence", &number(held.sequence)));
            let hint = held.refresh_hint_seconds.map_or_else(|| NOTHING.to_owned(), |hint| format!("{hint}s"));
            text.push_str(&line("Refresh hint", &hint));
            text.push_str(&line("Accepted at", &time(Some(held.changed_at))));
            text.push_str(&line("First expiry", &time(held.first_expiry)));
            text.push_str(&line("SHA-256", &held.digest));
        }
    }
    for delivery in &relationship.deliveries {
        let state = match (&delivery.last_error, delivery.delivered) {
            (Some(error), _) => coloured(&format!("failed: {error}"), AnsiColor::Red),
            (None, true) => format!("delivered {}", time(delivery.delivered_at)),
            (None, false) => "pending".to_owned(),
        };
        text.push_str(&line("Delivery", &format!("{} {state}", delivery.local_trust_domain)));
        if let Some(drift) = &delivery.drift {
            let what = match &drift.content_digest {
                Some(digest) => format!("another bundle (content {})", short(digest)),
                None => "no bundle".to_owned(),
            };
            let words = format!("{} holds {what} since {}", delivery.local_trust_domain, time(Some(drift.since)));
            text.push_str(&line("Drift", &coloured(&words, AnsiColor::Yellow)));
        }
    }
    for conflict in &relationship.conflicts {
        let words = format!("{conflict}'s issuer names another endpoint for this partner and receives nothing");
        text.push_str(&line("Conflict", &coloured(&words, AnsiColor::Red)));
    }
    text
}

/// `: why`, if somebody said why.
fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", one_line(why)) }
}

/// The bundle that waits and what it would change.
pub(super) fn waiting_text(waiting: &WaitingBundle) -> String {
    let what = match (waiting.rejected_at, waiting.reason) {
        (Some(at), _) => format!("rejected {}", time(Some(at))),
        (None, OfferReason::Hold) => "a change waits for approve or reject".to_owned(),
        (None, OfferReason::Pinned) => "the partner serves another bundle".to_owned(),
        (None, OfferReason::Emptied) => "a bundle without keys waits for approve or reject".to_owned(),
        (None, OfferReason::SharedKey) => {
            "a bundle with a key of another partner waits for approve or reject".to_owned()
        }
        (None, OfferReason::SequenceLeap) => "a bundle with a leaping sequence waits for approve or reject".to_owned(),
    };
    let mut text = line("Waiting", &coloured(&what, AnsiColor::Yellow));
    text.push_str(&line("  SHA-256", &waiting.digest));
    text.push_str(&line("  Sequence", &number(waiting.sequence)));
    text.push_str(&line("  First seen", &time(Some(waiting.offered_at))));
    if waiting.difference.replaces_everything {
        text.push_str(&line("  Beware", &coloured("no key of the bundle in force would stay", AnsiColor::Red)));
    }
    for (kind, difference) in [("X.509", &waiting.difference.x509), ("JWT", &waiting.difference.jwt)] {
        let lists = [("added", &difference.added, AnsiColor::Green), ("removed", &difference.removed, AnsiColor::Red)];
        for (word, keys, colour) in lists {
            for key in keys {
                text.push_str(&line(&format!("  {kind} {word}"), &coloured(&one_line(key), colour)));
            }
        }
        text.push_str(&line(&format!("  {kind} kept"), &difference.kept.len().to_string()));
    }
    text
}

fn refresh_text(result: &RefreshResult) -> String {
    let relationship = &result.relationship;
    let digest = relationship.held.as_ref().map_or(NOTHING, |held| short(&held.digest));
    let sequence = number(relationship.held.as_ref().and_then(|held| held.sequence));
    let waits = relationship.waiting.as_ref().is_some_and(|waiting| waiting.rejected_at.is_none());
    let what = match (result.changed, relationship.frozen.is_some(), waits) {
        (true, ..) => "Bundle refreshed, and it changed",
        (false, true, _) => "Bundle refreshed; the relationship is frozen, so nothing changes",
        (false, false, true) => "Bundle refreshed, a change waits for a decision",
        (false, false, false) => "Bundle refreshed, it is unchanged",
    };
    let trust_domain = &relationship.trust_domain;
    format!("{what}: {trust_domain}, sequence {sequence}, SHA-256 {digest}, delivered {}\n", delivered(relationship))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn relationship() -> Relationship {
        serde_json::from_value(json!({
            "trust_domain": "onprem.example",
            "local_trust_domains": ["cloud.example"],
            "url": "https://localhost:8443/onprem.example",
            "profile": "https_spiffe",
            "endpoint_spiffe_id": "spiffe://onprem.example/entente/gateway",
            "origin": "config",
            "health": "degraded",
            "last_error": "connection refused",
            "last_success": "2026-11-22T10:11:06Z",
            "bundle_age_seconds": 3725,
            "next_refresh_seconds": 12,
            "first_expiry_seconds": 273_600,
            "consecutive_failures": 2,
            "held": {
                "trust_domain": "onprem.example", "kind": "partner", "sequence": 7,
                "digest": "0123456789abcdef", "x509_authorities": 2, "jwt_authorities": 1,
                "changed_at": "2026-11-22T10:11:06Z"
            },
            "deliveries": [
                {"local_trust_domain": "cloud.example", "delivered": true, "delivered_at": "2026-11-22T10:11:07Z"}
            ],
        }))
        .unwrap()
    }

    fn listed(relationships: Vec<Relationship>) -> RelationshipList {
        RelationshipList { relationships, next_page_token: None }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_list_has_one_line_a_partner() {
        let text = plain(&list_text(&listed(vec![relationship()])));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("TRUST DOMAIN"));
        assert_eq!(
            text,
            "TRUST DOMAIN    HEALTH    MODE  STATE  SEQUENCE  AGE   NEXT  EXPIRES IN  FAILURES  DELIVERED  LAST ERROR\n\
             onprem.example  degraded  auto  -      7         1h2m  12s   3d4h        2         1/1        connection \
             refused\n"
        );
        assert!(list_text(&listed(vec![])).contains("federation create"));
    }

    #[test]
    fn columns_stay_aligned_under_colours() {
        let mut other = relationship();
        other.health = Health::Healthy;
        let text = plain(&list_text(&listed(vec![relationship(), other])));
        let columns: Vec<_> = text.lines().map(|line| line.find("MODE").or_else(|| line.find("auto"))).collect();
        assert!(columns.windows(2).all(|two| two[0] == two[1]), "{text}");
    }

    fn held_back() -> Relationship {
        let mut value = serde_json::to_value(relationship()).unwrap();
        value["mode"] = json!("hold");
        value["health"] = json!("expired");
        value["expired_at"] = json!("2026-11-22T12:00:00Z");
        value["maximum_age_seconds"] = json!(7200);
        value["first_expiry_seconds"] = json!(-61);
        value["frozen"] = json!({"at": "2026-11-22T11:00:00Z", "by": "ada (uid 1000)", "why": "their\nincident"});
        value["waiting"] = json!({
            "digest": "fedcba9876543210", "sequence": 8, "offered_at": "2026-11-22T11:30:00Z",
            "source_url": "https://localhost:8443/onprem.example", "reason": "hold",
            "difference": {
                "x509": {"added": ["aa"], "removed": ["bb"], "kept": []},
                "jwt": {"added": [], "removed": ["k"], "kept": []},
                "replaces_everything": true,
            },
        });
        value["deliveries"][0]["drift"] = json!({"since": "2026-11-22T11:45:00Z"});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_an_operator_should_know_is_in_the_list_and_in_full_below() {
        let text = plain(&list_text(&listed(vec![held_back()])));
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "onprem.example  expired  hold  frozen,waiting,drift  7         1h2m  12s   -1m1s       2         1/1        \
             connection refused"
        );
        let text = plain(&show_text(&held_back()));
        for part in [
            "Frozen              : since 2026-11-22T11:00:00Z by ada (uid 1000): their incident\n",
            "Maximum age         : 2h\n",
            "Expired             : since 2026-11-22T12:00:00Z; the issuers do not have it any more\n",
            "Waiting             : a change waits for approve or reject\n",
            "  SHA-256           : fedcba9876543210\n",
            "  Beware            : no key of the bundle in force would stay\n",
            "  X.509 added       : aa\n",
            "  X.509 removed     : bb\n",
            "  JWT removed       : k\n",
            "  JWT kept          : 0\n",
            "Drift               : cloud.example holds no bundle since 2026-11-22T11:45:00Z\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let cases =
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m59s"), (7_200, "2h"), (90_000, "1d1h"), (-5, "-5s")];
        for (seconds, text) in cases {
            assert_eq!(span(Some(seconds)), text);
        }
        assert_eq!(span(None), "-");
    }

    #[test]
    fn one_relationship_is_shown_in_full() {
        let text = plain(&show_text(&relationship()));
        for part in [
            "Trust domain        : onprem.example\n",
            "Health              : degraded\n",
            "Endpoint SPIFFE ID  : spiffe://onprem.example/entente/gateway\n",
            "Last error          : connection refused (2 failures in a row)\n",
            "Bundle              : 2 X.509 authorities, 1 JWT authority\n",
            "Delivery            : cloud.example delivered 2026-11-22T10:11:07Z\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_refresh_says_whether_something_changed() {
        let result = RefreshResult { changed: true, relationship: relationship() };
        assert_eq!(
            refresh_text(&result),
            "Bundle refreshed, and it changed: onprem.example, sequence 7, SHA-256 0123456789ab, delivered 1/1\n"
        );
    }
}
