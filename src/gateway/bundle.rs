//! `entente gateway bundle list|show|history`.

use federation_specs::bundle_json;
use federation_specs::id::TrustDomain;
use gateway::api::{BundleHistory, BundleList};

use super::address::GatewayAddress;
use super::pages::{self, Limit};
use super::table::{cell, number, short, table, time};
use crate::failure::{Failure, error_chain};
use crate::identifiers;
use crate::notation::quote;
use crate::output::{self, Format, OutputArguments};

/// The commands of `entente gateway bundle`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The bundles accepted from a partner, newest first
    History(History),
    /// Every bundle served or held, in a line
    List(List),
    /// One bundle with its keys
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The trust domain
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    one: One,
    /// pem certificates or the spiffe bundle, for pretty output
    #[arg(long, value_name = "FORMAT", default_value = "spiffe")]
    format: String,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::History(arguments) => history(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
    }
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let list: BundleList = pages::read(&client, "/v1/bundles", &[], arguments.limit.limit).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

fn list_text(list: &BundleList) -> String {
    if list.bundles.is_empty() {
        return "No bundles yet\n".to_owned();
    }
    let rows = list.bundles.iter().map(|bundle| {
        vec![
            cell(&bundle.trust_domain, None),
            cell(bundle.kind.as_str(), None),
            cell(number(bundle.sequence), None),
            cell(bundle.x509_authorities, None),
            cell(bundle.jwt_authorities, None),
            cell(time(Some(bundle.changed_at)), None),
            cell(time(bundle.first_expiry), None),
            cell(short(&bundle.digest), None),
        ]
    });
    let header = ["TRUST DOMAIN", "KIND", "SEQUENCE", "X.509", "JWT", "CHANGED", "FIRST EXPIRY", "SHA-256"];
    table(&header, rows.collect())
}

async fn show(arguments: &Show) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let document = arguments.one.gateway.client().await?.get_bytes(&format!("/v1/bundles/{trust_domain}")).await?;
    match (arguments.one.output.format, arguments.format.as_str()) {
        (Format::Json, _) => {
            let value: serde_json::Value = serde_json::from_slice(&document)
                .map_err(|error| Failure::new(format!("the gateway's answer is not JSON: {error}")))?;
            output::print_json(&value)
        }
        (Format::Pretty, "spiffe") => output::to_stdout(&with_newline(&document)),
        (Format::Pretty, "pem") => output::to_stdout(&roots(&trust_domain, &document)?),
        (Format::Pretty, other) => Err(Failure::new(format!("invalid format: {}", quote(other)))),
    }
}

fn with_newline(document: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(document).into_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn roots(trust_domain: &TrustDomain, document: &[u8]) -> Result<String, Failure> {
    let parsed = bundle_json::parse(trust_domain, document)
        .map_err(|error| Failure::new(format!("the gateway's answer is not understood: {}", error_chain(&error))))?;
    Ok(parsed.bundle.to_pem())
}

pub(super) async fn history(arguments: &History) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let client = arguments.one.gateway.client().await?;
    let path = format!("/v1/bundles/{trust_domain}/history");
    let history: BundleHistory = pages::read(&client, &path, &[], arguments.limit.limit).await?;
    match arguments.one.output.format {
        Format::Json => output::print_json(&history),
        Format::Pretty => output::to_stdout_in_colour(&history_text(&history)),
    }
}

fn history_text(history: &BundleHistory) -> String {
    if history.bundles.is_empty() {
        return format!("No bundle of {} was accepted yet\n", history.trust_domain);
    }
    let rows = history.bundles.iter().map(|entry| {
        vec![
            cell(entry.id, None),
            cell(time(Some(entry.accepted_at)), None),
            cell(entry.via.as_str(), None),
            cell(number(entry.sequence), None),
            cell(format!("+{} -{}", entry.x509_added, entry.x509_removed), None),
            cell(format!("+{} -{}", entry.jwt_added, entry.jwt_removed), None),
            cell(short(&entry.digest), None),
            cell(&entry.source_url, None),
        ]
    });
    table(&["NUMBER", "IN FORCE SINCE", "BY", "SEQUENCE", "X.509", "JWT", "SHA-256", "FROM"], rows.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_histories_have_one_line_a_bundle() {
        let list: BundleList = serde_json::from_value(json!({"bundles": [{
            "trust_domain": "cloud.example", "kind": "own", "sequence": 3, "digest": "0123456789abcdef",
            "x509_authorities": 1, "jwt_authorities": 2, "changed_at": "2026-11-22T10:11:06Z"
        }]}))
        .unwrap();
        let text = list_text(&list);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["cloud.example", "own", "3", "1", "2", "2026-11-22T10:11:06Z", "-", "0123456789ab"]);
        let history: BundleHistory = serde_json::from_value(json!({"trust_domain": "onprem.example", "bundles": [{
            "id": 1, "accepted_at": "2026-11-22T10:11:06Z", "digest": "0123456789abcdef", "source_url": "https://a/",
            "x509_added": 1, "x509_removed": 0, "jwt_added": 2, "jwt_removed": 1
        }]}))
        .unwrap();
        assert!(history_text(&history).contains("+2 -1"));
        assert!(history_text(&BundleHistory { bundles: vec![], ..history }).contains("onprem.example"));
    }

    #[test]
    fn a_document_can_be_shown_as_certificates() {
        let transcripts = crate::transcripts::Transcripts::of("bundle-show");
        let document = transcripts.stdout("bundle show -format spiffe");
        let trust_domain = TrustDomain::parse("cloud.example").unwrap();
        assert_eq!(roots(&trust_domain, document.as_bytes()).unwrap(), transcripts.stdout("bundle show"));
        assert!(roots(&trust_domain, b"no").is_err());
    }
}
