//! `entente gateway publisher list|show`.

use anstyle::AnsiColor;
use comfy_table::Color;
use gateway::api::publishers::{Publisher, PublisherHealth, PublisherList};

use super::address::GatewayAddress;
use super::pages::{self, Limit};
use super::table::{NOTHING, cell, coloured, line, number, one_line, short, table, time};
use crate::failure::Failure;
use crate::identifiers;
use crate::output::{self, Format, OutputArguments};

const PATH: &str = "/v1/publishers";

/// The commands of `entente gateway publisher`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every publisher in a line
    List(List),
    /// The publishers of one served trust domain in full
    Show(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Only those that fail
    #[arg(long)]
    failing: bool,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The served trust domain
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: String,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
    }
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let filters = [("failing", arguments.failing.then(|| "true".to_owned()))];
    let list: PublisherList = pages::read(&client, PATH, &filters, arguments.limit.limit).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

async fn show(arguments: &One) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let filters = [("trust_domain", Some(trust_domain.to_string()))];
    let list: PublisherList = pages::read(&client, PATH, &filters, None).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&show_text(&list)),
    }
}

fn health_colours(health: PublisherHealth) -> (Color, AnsiColor) {
    match health {
        PublisherHealth::Pending => (Color::Cyan, AnsiColor::Cyan),
        PublisherHealth::Healthy => (Color::Green, AnsiColor::Green),
        PublisherHealth::Failing => (Color::Red, AnsiColor::Red),
    }
}

fn list_text(list: &PublisherList) -> String {
    if list.publishers.is_empty() {
        return "No such publishers\n".to_owned();
    }
    // Where several gateways share a database.
    let shared = list.publishers.iter().any(|publisher| publisher.replica.is_some());
    let rows = list.publishers.iter().map(|publisher| {
        let published = publisher.published.as_ref();
        let drifts = publisher.drift.as_ref().map_or(0, |drift| drift.count);
        let mut row = vec![
            cell(&publisher.trust_domain, None),
            cell(&publisher.name, None),
            cell(publisher.health.as_str(), Some(health_colours(publisher.health).0)),
            cell(&publisher.kind, None),
            cell(number(published.and_then(|published| published.sequence)), None),
            cell(published.map_or(NOTHING, |published| short(&published.digest)), None),
            cell(time(published.map(|published| published.confirmed_at)), None),
            cell(time(publisher.next_attempt), None),
            cell(drifts, (drifts > 0).then_some(Color::Yellow)),
            cell(publisher.consecutive_failures, (publisher.consecutive_failures > 0).then_some(Color::Red)),
            cell(publisher.last_error.as_deref().map_or_else(|| NOTHING.to_owned(), one_line), None),
        ];
        if shared {
            row.insert(2, cell(publisher.replica.as_deref().unwrap_or(NOTHING), None));
        }
        row
    });
    let mut header = vec![
        "TRUST DOMAIN",
        "NAME",
        "HEALTH",
        "KIND",
        "SEQUENCE",
        "SHA-256",
        "PUBLISHED",
        "NEXT",
        "DRIFTS",
        "FAILURES",
        "LAST ERROR",
    ];
    if shared {
        header.insert(2, "GATEWAY");
    }
    table(&header, rows.collect())
}

fn show_text(list: &PublisherList) -> String {
    let Some(first) = list.publishers.first() else { return "No such publishers\n".to_owned() };
    let mut text = line("Trust domain", &first.trust_domain);
    list.publishers.iter().for_each(|publisher| text.push_str(&one_text(publisher)));
    text
}

fn one_text(publisher: &Publisher) -> String {
    let mut text = line("Publisher", &publisher.name);
    text.push_str(&line("  Place", &publisher.place));
    if let Some(replica) = &publisher.replica {
        text.push_str(&line("  Published by", replica));
    }
    text.push_str(&line("  Health", &coloured(publisher.health.as_str(), health_colours(publisher.health).1)));
    match &publisher.published {
        None => text.push_str(&line("  Published", "nothing yet")),
        Some(published) => {
            text.push_str(&line("  Published", &time(Some(published.confirmed_at))));
            text.push_str(&line("  Sequence", &number(published.sequence)));
            text.push_str(&line("  SHA-256", &published.digest));
        }
    }
    text.push_str(&line("  Last attempt", &time(publisher.last_attempt)));
    text.push_str(&line("  Last success", &time(publisher.last_success)));
    text.push_str(&line("  Next attempt", &time(publisher.next_attempt)));
    if let Some(error) = &publisher.last_error {
        let words = format!("{} ({} in a row)", one_line(error), publisher.consecutive_failures);
        text.push_str(&line("  Last error", &coloured(&words, AnsiColor::Red)));
    }
    if let Some(drift) = &publisher.drift {
        let held = drift.digest.as_deref().map_or("nothing", short);
        let words = format!("held {held} at {}; {} times since the start", time(Some(drift.at)), drift.count);
        text.push_str(&line("  Drift", &coloured(&words, AnsiColor::Yellow)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn publishers() -> PublisherList {
        serde_json::from_value(json!({"publishers": [
            {"trust_domain": "a.example", "name": "bucket", "kind": "aws_s3", "place": "S3 object b/o in eu-west-1",
             "health": "healthy", "consecutive_failures": 0, "last_success": "2026-11-22T10:12:00Z",
             "last_attempt": "2026-11-22T10:12:00Z", "next_attempt": "2026-11-22T10:17:00Z",
             "published": {"digest": "0123456789abcdef", "sequence": 5, "confirmed_at": "2026-11-22T10:11:06Z"},
             "drift": {"at": "2026-11-22T10:11:00Z", "count": 2}},
            {"trust_domain": "a.example", "name": "map", "kind": "k8s_configmap", "place": "key b of ConfigMap n/m",
             "replica": "one", "health": "failing", "consecutive_failures": 3, "last_error": "access denied:\nno"},
        ]}))
        .unwrap()
    }

    #[test]
    fn how_each_publisher_is_doing_is_in_its_line() {
        let text = anstream::adapter::strip_str(&list_text(&publishers())).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("TRUST DOMAIN  NAME    GATEWAY  HEALTH"), "{text}");
        assert!(lines[1].contains("bucket  -        healthy  aws_s3") && lines[1].contains("0123456789ab"), "{text}");
        assert!(lines[2].contains("failing") && lines[2].ends_with("access denied: no"), "{text}");
    }

    #[test]
    fn the_publishers_of_a_domain_are_shown_in_full() {
        let text = anstream::adapter::strip_str(&show_text(&publishers())).to_string();
        for part in [
            "Trust domain        : a.example\n",
            "  Place             : S3 object b/o in eu-west-1\n",
            "  Drift             : held nothing at 2026-11-22T10:11:00Z; 2 times since the start\n",
            "  Last error        : access denied: no (3 in a row)\n",
            "  Published         : nothing yet\n",
            "  Published by      : one\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
