//! `entente gateway audit list|verify|export`.

use std::io::BufRead as _;

use gateway::api::audit::{AuditEntry, AuditPage, AuditReport, Verifier, read_export_line};

use super::address::GatewayAddress;
use super::pages;
use super::table::{NOTHING, cell, one_line, short, table, time};
use crate::failure::{Failure, io_reason};
use crate::identifiers;
use crate::notation::{counted, quote};
use crate::output::{self, Format, OutputArguments};

/// Records shown unless told otherwise.
const SHOWN: u32 = 50;

/// Records read at once for an export.
const PAGE: u32 = gateway::http::admin::page::MAX_LIMIT;

/// The commands of `entente gateway audit`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write the whole log as JSON lines, each a record with its hash
    Export(Export),
    /// The newest records, oldest of them first
    List(List),
    /// Check that no record was changed, removed or moved
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// How many records
    #[arg(long, visible_alias = "last", value_name = "COUNT", default_value_t = SHOWN,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only those about this trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    subject: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Only records after this one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: i64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// A head hash printed before: check also that everything up to it is still there
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
    /// Check an export, from its first record on, instead of asking the gateway
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Export(arguments) => export(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::Verify(arguments) => verify(&arguments).await,
    }
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let subject = arguments.subject.as_deref().map(identifiers::trust_domain).transpose()?;
    let filters = [("order", Some("newest".to_owned())), ("subject", subject.map(|subject| subject.to_string()))];
    let client = arguments.gateway.client().await?;
    let mut page: AuditPage = pages::read(&client, "/v1/audit", &filters, Some(arguments.limit)).await?;
    page.records.reverse();
    match arguments.output.format {
        Format::Json => output::print_json(&page),
        Format::Pretty => output::to_stdout(&list_text(&page)),
    }
}

fn list_text(page: &AuditPage) -> String {
    if page.records.is_empty() {
        return "No records\n".to_owned();
    }
    let rows = page.records.iter().map(|entry| {
        let AuditEntry { sequence, hash, record } = entry;
        let Some(record) = record else {
            let damaged = "damaged, see `entente gateway audit verify`";
            return [&sequence.to_string(), NOTHING, NOTHING, NOTHING, NOTHING, damaged, short(hash)]
                .map(|text| cell(text, None))
                .to_vec();
        };
        vec![
            cell(sequence, None),
            cell(time(Some(record.at)), None),
            cell(one_line(&record.who.to_string()), None),
            cell(record.what.name(), None),
            cell(one_line(&record.subject), None),
            cell(if record.why.is_empty() { NOTHING.to_owned() } else { one_line(&record.why) }, None),
            cell(short(hash), None),
        ]
    });
    table(&["NUMBER", "TIME", "WHO", "WHAT", "SUBJECT", "WHY", "HASH"], rows.collect())
}

async fn export(arguments: &Export) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let mut after = arguments.after;
    loop {
        let lines = client.get_bytes(&format!("/v1/audit/export?after={after}&limit={PAGE}")).await?;
        let text = String::from_utf8_lossy(&lines);
        let last = text.lines().last().and_then(|line| {
            let record = read_export_line(line)?.1;
            serde_json::from_str::<serde_json::Value>(record).ok()?.get("sequence")?.as_i64()
        });
        output::to_stdout(&text)?;
        match last {
            Some(last) if last > after => after = last,
            None if !text.is_empty() => {
                return Err(Failure::new("a record is damaged; see `entente gateway audit verify`"));
            }
            _ => return Ok(()),
        }
    }
}

async fn verify(arguments: &Verify) -> Result<(), Failure> {
    let head = arguments.head.as_deref().map(checked_head).transpose()?;
    let report: AuditReport = match &arguments.file {
        Some(file) => verify_file(file, head.as_deref())?,
        None => {
            let query = head.map(|head| format!("?head={head}")).unwrap_or_default();
            arguments.gateway.client().await?.get(&format!("/v1/audit/verify{query}")).await?
        }
    };
    match arguments.output.format {
        Format::Json => output::print_json(&report)?,
        Format::Pretty => output::to_stdout(&report_text(&report))?,
    }
    if report.ok { Ok(()) } else { Err(Failure::new("the audit log is not as it was written")) }
}

/// The hash as lowercase hexadecimal.
fn checked_head(head: &str) -> Result<String, Failure> {
    let head = head.trim().to_ascii_lowercase();
    if head.len() == 64 && head.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(head);
    }
    Err(Failure::new(format!("{} is no hash: 64 hexadecimal digits are expected", quote(&head))))
}

fn verify_file(path: &str, head: Option<&str>) -> Result<AuditReport, Failure> {
    let unreadable =
        |error: &std::io::Error| Failure::new(format!("cannot read {}: {}", quote(path), io_reason(error)));
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let mut verifier = Verifier::new(head);
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| unreadable(&error))?;
        let (hash, record) = read_export_line(&line)
            .ok_or_else(|| Failure::new(format!("line {} of {} is no record of an export", index + 1, quote(path))))?;
        let sequence =
            serde_json::from_str::<serde_json::Value>(record).ok().and_then(|it| it.get("sequence")?.as_i64());
        let place = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
        verifier.record(sequence.unwrap_or(place), record, hash);
    }
    Ok(verifier.finish(None))
}

fn report_text(report: &AuditReport) -> String {
    let records = counted(report.records, "record", "records");
    let mut text = String::new();
    for problem in &report.problems {
        text.push_str(&one_line(&problem.problem));
        text.push('\n');
    }
    if report.ok {
        text.push_str(&format!("The audit log is whole: {records}, head {}\n", report.head));
    }
    if let Some(at) = report.copy_found_at {
        text.push_str(&format!("The head given is record {at}; everything up to it is as it was\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_has_one_line_a_record() {
        let page: AuditPage = serde_json::from_value(json!({"records": [
            {"sequence": 7, "hash": "0123456789abcdef", "record": {
                "sequence": 7, "at": "2026-11-22T10:11:06Z", "who": {"kind": "user", "uid": 1000, "name": "ada"},
                "what": "relationship.frozen", "subject": "onprem.example", "before": null, "after": null,
                "why": "their\nincident",
            }},
            {"sequence": 8, "hash": "fedcba9876543210"},
        ]}))
        .unwrap();
        let text = list_text(&page);
        let lines: Vec<&str> = text.lines().collect();
        let start =
            "7       2026-11-22T10:11:06Z  ada (uid 1000)  relationship.frozen  onprem.example  their incident  ";
        assert!(lines[1].starts_with(start) && lines[1].ends_with("  0123456789ab"), "{text}");
        assert_eq!(lines[0].find("HASH"), lines[1].find("0123456789ab"));
        assert!(lines[2].contains("damaged"), "{text}");
        assert_eq!(list_text(&AuditPage { records: vec![], next_page_token: None }), "No records\n");
    }

    #[test]
    fn an_export_is_verified_without_the_gateway() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let path = file.display().to_string();
        let record = "{\"sequence\":1}";
        // sha256 of 32 zero bytes and the record.
        let hash = gateway::audit::chain::link(gateway::audit::chain::GENESIS, record);
        std::fs::write(&file, gateway::audit::chain::export_line(record, &hash)).unwrap();
        let report = verify_file(&path, Some(&hash)).unwrap();
        assert!(report.ok && report.copy_found_at == Some(1), "{report:?}");
        assert!(report_text(&report).starts_with("The audit log is whole: 1 record, head "));
        std::fs::write(&file, gateway::audit::chain::export_line("{\"sequence\":1,\"x\":2}", &hash)).unwrap();
        let report = verify_file(&path, None).unwrap();
        assert!(report_text(&report).contains("record 1 was changed"));
        std::fs::write(&file, "no\n").unwrap();
        assert!(verify_file(&path, None).unwrap_err().text().starts_with("line 1 of "));
    }

    #[test]
    fn a_head_is_a_hash() {
        assert!(checked_head(&"A".repeat(64)).is_ok());
        assert!(checked_head("12").is_err());
    }
}
