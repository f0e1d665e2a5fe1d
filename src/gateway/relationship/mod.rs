//! `entente gateway relationship`: one kind of command a file.

mod decision;
mod list;
mod managed;
mod refresh;
mod show;

use std::path::Path;

use anstyle::AnsiColor;
use comfy_table::Color;
use federation_specs::id::TrustDomain;
use gateway::api::{Health, Relationship};

use super::bundle;
use super::client::Client;
use crate::failure::Failure;

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
    List(list::List),
    /// Fetch the partner's bundle now
    Refresh(refresh::Refresh),
    /// Turn the bundle that waits down
    Reject(decision::Named),
    /// Put an earlier bundle, or the one that waits, in force by its name, and freeze the relationship
    #[command(visible_alias = "pin")]
    Restore(decision::Restore),
    /// One relationship in full
    Show(show::One),
    /// Let a frozen relationship go on
    Unfreeze(decision::Reasoned),
    /// Change what is given of a managed relationship and keep the rest
    Update(managed::Change),
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
        Command::List(arguments) => list::list(&arguments).await,
        Command::Show(arguments) => show::show(&arguments).await,
        Command::Refresh(arguments) => refresh::refresh(&arguments).await,
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

/// The colour of a health, in tables and in lines.
fn health_colours(health: Health) -> (Color, AnsiColor) {
    match health {
        Health::Pending => (Color::Cyan, AnsiColor::Cyan),
        Health::Healthy => (Color::Green, AnsiColor::Green),
        Health::Degraded => (Color::Yellow, AnsiColor::Yellow),
        Health::Failing | Health::Expired => (Color::Red, AnsiColor::Red),
    }
}

/// Receivers that have the bundle, of all.
fn delivered(relationship: &Relationship) -> String {
    let done = relationship.deliveries.iter().filter(|delivery| delivery.delivered).count();
    format!("{done}/{}", relationship.deliveries.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A relationship that is not quite well.
    pub(super) fn relationship() -> Relationship {
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

    /// A text without its colours.
    pub(super) fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    /// One with everything an operator should look at.
    pub(super) fn held_back() -> Relationship {
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
}
