//! `entente gateway source list|show|accept`.

use anstyle::AnsiColor;
use comfy_table::Color;
use gateway::api::ReasonRequest;
use gateway::api::sources::{AcceptedSources, DomainSources, Source, SourceList};

use super::address::GatewayAddress;
use super::difference::difference_text;
use super::pages::{self, Limit};
use super::table::{NOTHING, cell, coloured, line, number, one_line, short, table, time};
use crate::failure::Failure;
use crate::identifiers;
use crate::output::{self, Format, OutputArguments};

/// The commands of `entente gateway source`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Publish what the held sources of a trust domain give
    Accept(Accept),
    /// Every source in a line
    List(List),
    /// The sources of one served trust domain in full
    Show(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Only those that are held back
    #[arg(long)]
    held: bool,
    /// Only those that do not answer
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

#[derive(Debug, clap::Args)]
pub(crate) struct Accept {
    #[command(flatten)]
    one: One,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Accept(arguments) => accept(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
    }
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let only = |wanted: bool| wanted.then(|| "true".to_owned());
    let filters = [("held", only(arguments.held)), ("failing", only(arguments.failing))];
    let list: SourceList = pages::read(&client, "/v1/sources", &filters, arguments.limit.limit).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

async fn show(arguments: &One) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let sources: DomainSources = client.get(&format!("/v1/sources/{trust_domain}")).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&sources),
        Format::Pretty => output::to_stdout_in_colour(&show_text(&sources)),
    }
}

/// Shows what is held and accepts exactly that.
async fn accept(arguments: &Accept) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let client = arguments.one.gateway.client().await?;
    let path = format!("/v1/sources/{trust_domain}");
    let (sources, tag): (DomainSources, _) = client.get_tagged(&path).await?;
    let pretty = arguments.one.output.format == Format::Pretty;
    if pretty {
        output::to_stdout_in_colour(&show_text(&sources))?;
    }
    if sources.sources.iter().all(|source| source.held_digest.is_none()) {
        return Err(Failure::new(format!("no source of {trust_domain} is held")));
    }
    let request = ReasonRequest { why: arguments.why.clone() };
    let accepted: AcceptedSources = client.post_if(&format!("{path}/accept"), &tag, &request).await?;
    match pretty {
        false => output::print_json(&accepted),
        true => output::to_stdout(&format!("Accepted and published: {}\n", accepted.accepted.join(", "))),
    }
}

/// How a source is, in a word and its colour.
fn state(source: &Source) -> (&'static str, Option<Color>) {
    match (source.held.is_some(), source.failing_since.is_some()) {
        (true, _) => ("held", Some(Color::Red)),
        (false, true) => ("failing", Some(Color::Yellow)),
        (false, false) => ("ok", None),
    }
}

/// What an operator should know about it.
fn reason(source: &Source) -> String {
    let reason = source.held.as_deref().or(source.last_error.as_deref());
    reason.map_or_else(|| NOTHING.to_owned(), one_line)
}

fn list_text(list: &SourceList) -> String {
    if list.sources.is_empty() {
        return "No such sources\n".to_owned();
    }
    let rows = list.sources.iter().map(|source| {
        let (word, colour) = state(source);
        vec![
            cell(&source.trust_domain, None),
            cell(&source.source, None),
            cell(word, colour),
            cell(number(source.sequence), None),
            cell(source.x509_authorities, None),
            cell(source.jwt_authorities, None),
            cell(time(source.held_since.or(source.failing_since)), None),
            cell(reason(source), None),
        ]
    });
    table(&["TRUST DOMAIN", "SOURCE", "STATE", "SEQUENCE", "X.509", "JWT", "SINCE", "REASON"], rows.collect())
}

fn show_text(sources: &DomainSources) -> String {
    let mut text = line("Trust domain", &sources.trust_domain);
    for source in &sources.sources {
        text.push_str(&line("Source", &source.source));
        text.push_str(&line("  Sequence", &number(source.sequence)));
        text.push_str(&line("  X.509 authorities", &source.x509_authorities.to_string()));
        text.push_str(&line("  JWT authorities", &source.jwt_authorities.to_string()));
        if let Some(held) = &source.held {
            let digest = source.held_digest.as_deref().map_or(NOTHING, short);
            let words = format!("since {}: {} (content {digest})", time(source.held_since), one_line(held));
            text.push_str(&line("  Held", &coloured(&words, AnsiColor::Red)));
            text.push_str(&line("  Held sequence", &number(source.held_sequence)));
            text.push_str(&source.held_difference.as_ref().map(difference_text).unwrap_or_default());
        }
        if let Some(since) = source.failing_since {
            let words = format!("since {}: {}", time(Some(since)), reason(source));
            text.push_str(&line("  Failing", &coloured(&words, AnsiColor::Yellow)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources() -> Vec<Source> {
        serde_json::from_value(json!([
            {"trust_domain": "a.example", "source": "issuer", "sequence": 5, "x509_authorities": 2, "jwt_authorities": 1},
            {"trust_domain": "a.example", "source": "file /b.json", "x509_authorities": 1, "jwt_authorities": 0,
             "held": "it went back from sequence 5 to 2", "held_digest": "0123456789abcdef",
             "held_since": "2026-11-22T10:11:06Z", "held_sequence": 2, "held_difference": {
                 "x509": {"added": ["aa"], "removed": ["bb"], "kept": []},
                 "jwt": {"added": [], "removed": [], "kept": []}, "replaces_everything": true}},
            {"trust_domain": "b.example", "source": "issuer", "x509_authorities": 0, "jwt_authorities": 0,
             "failing_since": "2026-11-22T10:11:07Z", "last_error": "connection\nrefused"},
        ]))
        .unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_source_is_in_its_line() {
        let list = SourceList { sources: sources(), next_page_token: None };
        let text = anstream::adapter::strip_str(&list_text(&list)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("a.example     issuer        ok       5         2      1    "), "{text}");
        assert!(lines[2].contains("held") && lines[2].ends_with("it went back from sequence 5 to 2"), "{text}");
        assert!(lines[3].contains("failing") && lines[3].ends_with("connection refused"), "{text}");
        let domain = DomainSources { trust_domain: "a.example".to_owned(), sources: sources() };
        let text = anstream::adapter::strip_str(&show_text(&domain)).to_string();
        assert!(
            text.contains(": since 2026-11-22T10:11:06Z: it went back from sequence 5 to 2 (content 0123456789ab)"),
            "{text}"
        );
        for change in ["no key of the bundle in force would stay", "X.509 added", "X.509 removed", "Held sequence"] {
            assert!(text.contains(change), "{change}: {text}");
        }
    }
}
