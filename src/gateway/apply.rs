//! `entente gateway apply`.

use anstyle::AnsiColor;
use gateway::api::managed::{ApplyRequest, ApplyResult, ChangeKind, DEFAULT_SET, FieldChange, ResourceChange};
use serde_json::Value;

use super::address::GatewayAddress;
use super::resources;
use super::table::{NOTHING, coloured, one_line};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments};

/// Exit status of a dry run that found something to change.
const DIFFERENT: u8 = 2;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 when it is done, 1 when nothing was changed because of an error. \
                        With -dry-run: 0 when nothing differs, 1 for an error, 2 when something differs.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE", action = clap::ArgAction::Append)]
    files: Vec<String>,
    /// Only show what would change
    #[arg(long = "dry-run")]
    dry_run: bool,
    /// Remove relationships of the set that are not in the files
    #[arg(long)]
    prune: bool,
    /// The set the relationships belong to
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SET)]
    set: String,
    /// Remove even more than half of the set
    #[arg(long)]
    yes: bool,
    /// Take relationships of other sets over instead of refusing to change them
    #[arg(long = "take-over")]
    take_over: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let request = ApplyRequest {
        set: arguments.set.clone(),
        relationships: resources::read(&arguments.files)?,
        dry_run: arguments.dry_run,
        prune: arguments.prune,
        confirmed: arguments.yes,
        take_over: arguments.take_over,
        why: arguments.why.clone(),
    };
    let result: ApplyResult = arguments.gateway.client().await?.post("/v1/apply", &request).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&result)?,
        Format::Pretty => output::to_stdout_in_colour(&result_text(&result))?,
    }
    let differs = result.changes.iter().any(|change| change.change != ChangeKind::Unchanged);
    if result.dry_run && differs { Err(Failure::status(DIFFERENT)) } else { Ok(()) }
}

fn result_text(result: &ApplyResult) -> String {
    let mut text: String = result.changes.iter().map(change_text).collect();
    let counts = [ChangeKind::Added, ChangeKind::Changed, ChangeKind::Removed, ChangeKind::Unchanged]
        .map(|kind| format!("{} {}", result.count(kind), word(kind)));
    let what = if result.dry_run { "Would apply" } else { "Applied" };
    text.push_str(&format!("{what} set {}: {}\n", result.set, counts.join(", ")));
    if result.dry_run && result.needs_confirmation {
        let words = "More than half of the set would be removed: that needs -yes";
        text.push_str(&format!("{}\n", coloured(words, AnsiColor::Yellow)));
    }
    text
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Unchanged => "unchanged",
        ChangeKind::Removed => "removed",
    }
}

/// A change in a line, and its keys in a line each. What is unchanged is only counted.
pub(super) fn change_text(change: &ResourceChange) -> String {
    let (sign, colour) = match change.change {
        ChangeKind::Unchanged => return String::new(),
        ChangeKind::Added => ('+', AnsiColor::Green),
        ChangeKind::Changed => ('~', AnsiColor::Yellow),
        ChangeKind::Removed => ('-', AnsiColor::Red),
    };
    let head = format!("{sign} {} {}", change.trust_domain, word(change.change));
    let mut text = format!("{}\n", coloured(&head, colour));
    let shown =
        change.fields.iter().filter(|field| change.change != ChangeKind::Removed && field.field != "trust_domain");
    for FieldChange { field, before, after } in shown {
        let values = match change.change {
            ChangeKind::Changed => format!("{} -> {}", value_text(before), value_text(after)),
            _ => value_text(after),
        };
        text.push_str(&format!("    {field}: {values}\n"));
    }
    text
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) => one_line(text),
        other => output::value_text(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_reads_like_one() {
        let result: ApplyResult = serde_json::from_value(json!({
            "set": "default", "dry_run": true, "needs_confirmation": true,
            "changes": [
                {"trust_domain": "a.example", "change": "added", "fields": [
                    {"field": "trust_domain", "after": "a.example"},
                    {"field": "url", "after": "https://a.example/"},
                ]},
                {"trust_domain": "b.example", "change": "changed", "fields": [
                    {"field": "local_trust_domains", "before": ["x"], "after": ["x", "y"]},
                    {"field": "mode", "before": null, "after": "hold"},
                ]},
                {"trust_domain": "c.example", "change": "unchanged"},
                {"trust_domain": "d.example", "change": "removed", "fields": [{"field": "url", "before": "https://d/"}]},
            ],
        }))
        .unwrap();
        let text = anstream::adapter::strip_str(&result_text(&result)).to_string();
        assert_eq!(
            text,
            "+ a.example added\n    url: https://a.example/\n\
             ~ b.example changed\n    local_trust_domains: [\"x\"] -> [\"x\",\"y\"]\n    mode: - -> hold\n\
             - d.example removed\n\
             Would apply set default: 1 added, 1 changed, 1 removed, 1 unchanged\n\
             More than half of the set would be removed: that needs -yes\n"
        );
    }
}
