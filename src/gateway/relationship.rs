//! `entente gateway relationship list|show|refresh`.

use std::path::Path;

use anstyle::AnsiColor;
use comfy_table::Color;
use federation_specs::id::TrustDomain;
use gateway::api::{Health, Origin, RefreshRequest, RefreshResult, Relationship, RelationshipList};

use super::client::Client;
use super::table::{NOTHING, cell, coloured, line, number, short, table, time};
use crate::connect::GatewaySocket;
use crate::failure::Failure;
use crate::identifiers;
use crate::notation::counted;
use crate::output::{self, Format, OutputArguments};

/// The commands of `entente gateway relationship`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every relationship in a line
    List(List),
    /// One relationship in full
    Show(One),
    /// Fetch the partner's bundle now
    Refresh(Refresh),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: GatewaySocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    socket: GatewaySocket,
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
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
        Command::Refresh(arguments) => refresh(&arguments).await,
    }
}

fn path(trust_domain: &TrustDomain) -> String {
    format!("/v1/relationships/{trust_domain}")
}

/// One relationship of the gateway at `socket`.
pub(crate) async fn get(socket: &Path, trust_domain: &TrustDomain) -> anyhow::Result<Relationship> {
    let relationship = Client::new(socket.to_owned()).get(&path(trust_domain)).await;
    relationship.map_err(|failure| anyhow::anyhow!(failure.into_text()))
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let client = Client::new(arguments.socket.path()?);
    let list: RelationshipList = client.get("/v1/relationships").await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

async fn show(arguments: &One) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = Client::new(arguments.socket.path()?);
    let relationship: Relationship = client.get(&path(&trust_domain)).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&relationship),
        Format::Pretty => output::to_stdout_in_colour(&show_text(&relationship)),
    }
}

async fn refresh(arguments: &Refresh) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let client = Client::new(arguments.one.socket.path()?);
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
        Health::Failing => (Color::Red, AnsiColor::Red),
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Config => "config",
        Origin::Issuer => "issuer",
    }
}

fn delivered(relationship: &Relationship) -> String {
    let done = relationship.deliveries.iter().filter(|delivery| delivery.delivered).count();
    format!("{done}/{}", relationship.deliveries.len())
}

fn list_text(list: &RelationshipList) -> String {
    if list.relationships.is_empty() {
        return "No relationships: name partners in the configuration, or create them at the issuer \
                (`entente issuer federation create`)\n"
            .to_owned();
    }
    let rows = list.relationships.iter().map(|relationship| {
        vec![
            cell(&relationship.trust_domain, None),
            cell(relationship.health.as_str(), Some(health_colours(relationship.health).0)),
            cell(relationship.profile.as_str(), None),
            cell(number(relationship.held.as_ref().and_then(|held| held.sequence)), None),
            cell(time(relationship.last_success), None),
            cell(time(relationship.next_refresh), None),
            cell(delivered(relationship), None),
            cell(&relationship.url, None),
        ]
    });
    let header = ["TRUST DOMAIN", "HEALTH", "PROFILE", "SEQUENCE", "LAST SUCCESS", "NEXT", "DELIVERED", "URL"];
    table(&header, rows.collect())
}

fn show_text(relationship: &Relationship) -> String {
    let mut text = line("Trust domain", &relationship.trust_domain);
    text.push_str(&line("Health", &coloured(relationship.health.as_str(), health_colours(relationship.health).1)));
    text.push_str(&line("Bundle endpoint URL", &relationship.url));
    text.push_str(&line("Profile", relationship.profile.as_str()));
    if let Some(id) = &relationship.endpoint_spiffe_id {
        text.push_str(&line("Endpoint SPIFFE ID", id));
    }
    text.push_str(&line("Defined by", origin(relationship.origin)));
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
    }
    for conflict in &relationship.conflicts {
        let words = format!("{conflict}'s issuer names another endpoint for this partner and receives nothing");
        text.push_str(&line("Conflict", &coloured(&words, AnsiColor::Red)));
    }
    text
}

fn refresh_text(result: &RefreshResult) -> String {
    let relationship = &result.relationship;
    let digest = relationship.held.as_ref().map_or(NOTHING, |held| short(&held.digest));
    let sequence = number(relationship.held.as_ref().and_then(|held| held.sequence));
    let what = if result.changed { "Bundle refreshed, and it changed" } else { "Bundle refreshed, it is unchanged" };
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

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_list_has_one_line_a_partner() {
        let text = plain(&list_text(&RelationshipList { relationships: vec![relationship()] }));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("TRUST DOMAIN"));
        let cells: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "onprem.example",
                "degraded",
                "https_spiffe",
                "7",
                "2026-11-22T10:11:06Z",
                "-",
                "1/1",
                "https://localhost:8443/onprem.example"
            ]
        );
        assert!(list_text(&RelationshipList { relationships: vec![] }).contains("federation create"));
    }

    #[test]
    fn columns_stay_aligned_under_colours() {
        let mut other = relationship();
        other.health = Health::Healthy;
        let text = plain(&list_text(&RelationshipList { relationships: vec![relationship(), other] }));
        let columns: Vec<_> =
            text.lines().map(|line| line.find("PROFILE").or_else(|| line.find("https_spiffe"))).collect();
        assert!(columns.windows(2).all(|two| two[0] == two[1]), "{text}");
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
