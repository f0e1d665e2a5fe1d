//! `entente gateway webhook list|test`.

use comfy_table::Color;
use gateway::api::webhooks::{Webhook, WebhookHealth, WebhookList, WebhookTest};

use super::address::GatewayAddress;
use super::table::{NOTHING, cell, one_line, table, time};
use crate::failure::Failure;
use crate::notation::quote;
use crate::output::{self, Format, OutputArguments};

/// The commands of `entente gateway webhook`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every webhook and how delivering to it goes
    List(List),
    /// Send a test event to a webhook and tell what became of it
    Test(Test),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The webhook's name in the configuration
    #[arg(value_name = "WEBHOOK")]
    webhook: String,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(&arguments).await,
        Command::Test(arguments) => test(&arguments).await,
    }
}

async fn list(arguments: &List) -> Result<(), Failure> {
    let list: WebhookList = arguments.gateway.client().await?.get("/v1/webhooks").await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

async fn test(arguments: &Test) -> Result<(), Failure> {
    let name = &arguments.webhook;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(Failure::new(format!("{} is no name of a webhook", quote(name))));
    }
    let client = arguments.gateway.client().await?;
    let outcome: WebhookTest = client.post(&format!("/v1/webhooks/{name}/test"), &serde_json::json!({})).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&outcome)?,
        Format::Pretty if outcome.delivered => output::to_stdout(&format!("{name} took the test event\n"))?,
        Format::Pretty => {}
    }
    match outcome.error {
        None => Ok(()),
        Some(error) => Err(Failure::new(one_line(&error))),
    }
}

fn health(webhook: &Webhook) -> (&'static str, Option<Color>) {
    match webhook.health {
        WebhookHealth::Pending => ("pending", None),
        WebhookHealth::Healthy => ("healthy", Some(Color::Green)),
        WebhookHealth::Failing => ("failing", Some(Color::Yellow)),
        WebhookHealth::Disabled => ("disabled", Some(Color::Red)),
    }
}

fn list_text(list: &WebhookList) -> String {
    if list.webhooks.is_empty() {
        return "No webhooks\n".to_owned();
    }
    let rows = list.webhooks.iter().map(|webhook| {
        let (word, colour) = health(webhook);
        vec![
            cell(&webhook.name, None),
            cell(&webhook.url, None),
            cell(word, colour),
            cell(webhook.waiting, None),
            cell(time(webhook.oldest_waiting), None),
            cell(time(webhook.last_success), None),
            cell(webhook.consecutive_failures, None),
            cell(webhook.dropped, None),
            cell(webhook.last_error.as_deref().map_or_else(|| NOTHING.to_owned(), one_line), None),
        ]
    });
    let header = ["NAME", "URL", "HEALTH", "WAITING", "SINCE", "LAST SUCCESS", "FAILURES", "DROPPED", "LAST ERROR"];
    table(&header, rows.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_webhook_has_a_line() {
        let list: WebhookList = serde_json::from_value(json!({"webhooks": [
            {"name": "pager", "url": "https://hooks.example/", "events": [], "health": "failing", "waiting": 3,
             "oldest_waiting": "2026-11-22T10:11:06Z", "last_error": "no\nroute", "consecutive_failures": 2, "dropped": 0},
            {"name": "chat", "url": "https://chat.example/", "events": ["bundle.*"], "health": "healthy", "waiting": 0,
             "last_success": "2026-11-22T10:11:07Z", "consecutive_failures": 0, "dropped": 1},
        ]}))
        .unwrap();
        let text = anstream::adapter::strip_str(&list_text(&list)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("pager  https://hooks.example/  failing  3        2026-11-22T10:11:06Z"),
            "{text}"
        );
        assert!(lines[1].ends_with("no route"), "{text}");
        assert!(lines[2].contains("2026-11-22T10:11:07Z") && lines[2].ends_with('-'), "{text}");
        assert_eq!(list_text(&WebhookList { webhooks: vec![] }), "No webhooks\n");
    }
}
