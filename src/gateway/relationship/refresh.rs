//! `entente gateway relationship refresh`.

use gateway::api::{RefreshRequest, RefreshResult};

use super::show::One;
use super::{delivered, path};
use crate::failure::Failure;
use crate::gateway::table::{NOTHING, number, short};
use crate::identifiers;
use crate::output::{self, Format};

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
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) async fn refresh(arguments: &Refresh) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.one.trust_domain)?;
    let client = arguments.one.gateway.client().await?;
    let request = RefreshRequest {
        accept_rollback: arguments.accept_rollback,
        accept_emptied: arguments.accept_emptied,
        why: arguments.why.clone(),
    };
    let result: RefreshResult = client.post(&format!("{}/refresh", path(&trust_domain)), &request).await?;
    match arguments.one.output.format {
        Format::Json => output::print_json(&result),
        Format::Pretty => output::to_stdout_in_colour(&refresh_text(&result)),
    }
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
    use super::super::tests::relationship;
    use super::*;

    #[test]
    fn a_refresh_says_whether_something_changed() {
        let result = RefreshResult { changed: true, relationship: relationship() };
        assert_eq!(
            refresh_text(&result),
            "Bundle refreshed, and it changed: onprem.example, sequence 7, SHA-256 0123456789ab, delivered 1/1\n"
        );
    }
}
