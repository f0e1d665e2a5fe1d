//! `entente gateway relationship approve|reject|freeze|unfreeze|restore`.

use federation_specs::id::TrustDomain;
use gateway::api::{ApproveRequest, Decided, ReasonRequest, Relationship, RestoreRequest};
use serde::Serialize;

use super::path;
use super::show::waiting_text;
use crate::failure::Failure;
use crate::gateway::address::GatewayAddress;
use crate::gateway::table::short;
use crate::identifiers;
use crate::output::{self, Format, OutputArguments};

#[derive(Debug, clap::Args)]
pub(crate) struct Reasoned {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The partner
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    #[command(flatten)]
    reasoned: Reasoned,
    /// The bundle the decision is about, by at least eight digits of its SHA-256; without it, the one that waits now
    #[arg(long, value_name = "SHA-256")]
    digest: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    reasoned: Reasoned,
    /// The bundle: its number in the history, or at least eight digits of its SHA-256
    #[arg(value_name = "BUNDLE")]
    bundle: String,
}

/// Sends one decision.
async fn decide(
    arguments: &Reasoned,
    verb: &str,
    body: &impl Serialize,
    text: impl FnOnce(&Relationship) -> String,
) -> Result<(), Failure> {
    let partner = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let decided: Decided = client.post(&format!("{}/{verb}", path(&partner)), body).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&decided),
        Format::Pretty => output::to_stdout_in_colour(&text(&decided.relationship)),
    }
}

/// Looks up what waits, shows it, and says which one the decision is about, so that it meets no other one.
async fn looked_at(arguments: &Named) -> Result<ApproveRequest, Failure> {
    let why = arguments.reasoned.why.clone();
    if let Some(digest) = &arguments.digest {
        return Ok(ApproveRequest { digest: Some(digest.clone()), why });
    }
    let partner: TrustDomain = identifiers::trust_domain(&arguments.reasoned.trust_domain)?;
    let relationship: Relationship = arguments.reasoned.gateway.client().await?.get(&path(&partner)).await?;
    let waiting = relationship.waiting.filter(|waiting| waiting.rejected_at.is_none());
    if let (Some(waiting), Format::Pretty) = (&waiting, arguments.reasoned.output.format) {
        output::to_stdout_in_colour(&waiting_text(waiting))?;
    }
    let Some(waiting) = waiting else {
        return Err(Failure::new(format!("no change of {partner} waits for a decision")));
    };
    Ok(ApproveRequest { digest: Some(waiting.digest), why })
}

fn in_force(relationship: &Relationship) -> String {
    let held = relationship.held.as_ref();
    let digest = held.map_or_else(|| "none".to_owned(), |held| short(&held.digest).to_owned());
    format!("{}, SHA-256 {digest}", relationship.trust_domain)
}

pub(super) async fn approve(arguments: &Named) -> Result<(), Failure> {
    let request = looked_at(arguments).await?;
    let text = |relationship: &Relationship| format!("Approved, in force now: {}\n", in_force(relationship));
    decide(&arguments.reasoned, "approve", &request, text).await
}

pub(super) async fn reject(arguments: &Named) -> Result<(), Failure> {
    let request = looked_at(arguments).await?;
    let text = |relationship: &Relationship| format!("Rejected; still in force: {}\n", in_force(relationship));
    decide(&arguments.reasoned, "reject", &request, text).await
}

pub(super) async fn freeze(arguments: &Reasoned) -> Result<(), Failure> {
    let request = ReasonRequest { why: arguments.why.clone() };
    let text = |relationship: &Relationship| format!("Frozen; it stays in force: {}\n", in_force(relationship));
    decide(arguments, "freeze", &request, text).await
}

pub(super) async fn unfreeze(arguments: &Reasoned) -> Result<(), Failure> {
    let request = ReasonRequest { why: arguments.why.clone() };
    let text =
        |relationship: &Relationship| format!("{} goes on; its bundle is fetched now\n", relationship.trust_domain);
    decide(arguments, "unfreeze", &request, text).await
}

pub(super) async fn restore(arguments: &Restore) -> Result<(), Failure> {
    let request = RestoreRequest { bundle: arguments.bundle.clone(), why: arguments.reasoned.why.clone() };
    let text = |relationship: &Relationship| {
        let how =
            if relationship.frozen.is_some() { "the relationship is frozen" } else { "the relationship is pinned" };
        format!("Restored, in force now: {} ({how})\n", in_force(relationship))
    };
    decide(&arguments.reasoned, "restore", &request, text).await
}
