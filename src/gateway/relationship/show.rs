//! `entente gateway relationship show`.

use anstyle::AnsiColor;
use gateway::api::{Document, OfferReason, Origin, Profile, Relationship, WaitingBundle};

use super::{health_colours, path};
use crate::failure::Failure;
use crate::gateway::address::GatewayAddress;
use crate::gateway::difference::difference_text;
use crate::gateway::table::{NOTHING, coloured, line, number, one_line, short, span, time};
use crate::identifiers;
use crate::notation::counted;
use crate::output::{self, Format, OutputArguments};

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    pub(super) gateway: GatewayAddress,
    /// The partner
    #[arg(value_name = "TRUST_DOMAIN")]
    pub(super) trust_domain: String,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

pub(super) async fn show(arguments: &One) -> Result<(), Failure> {
    let trust_domain = identifiers::trust_domain(&arguments.trust_domain)?;
    let client = arguments.gateway.client().await?;
    let relationship: Relationship = client.get(&path(&trust_domain)).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&relationship),
        Format::Pretty => output::to_stdout_in_colour(&show_text(&relationship)),
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Config => "config",
        Origin::Managed => "managed",
        Origin::Issuer => "issuer",
    }
}

fn show_text(relationship: &Relationship) -> String {
    let mut text = line("Trust domain", &relationship.trust_domain);
    text.push_str(&line("Health", &coloured(relationship.health.as_str(), health_colours(relationship.health).1)));
    text.push_str(&line("Bundle endpoint URL", &relationship.url));
    for url in &relationship.failover_urls {
        let in_use = if relationship.url_in_use.as_ref() == Some(url) { " (in use)" } else { "" };
        text.push_str(&line("Failover URL", &format!("{url}{in_use}")));
    }
    text.push_str(&line("Profile", relationship.profile.as_str()));
    if let Some(id) = &relationship.endpoint_spiffe_id {
        text.push_str(&line("Endpoint SPIFFE ID", id));
    }
    if let Some(bundle) = &relationship.bootstrap_bundle {
        text.push_str(&line("Bootstrap bundle", &document(bundle)));
    }
    if relationship.profile == Profile::HttpsWeb {
        let authorities = relationship.ca.as_ref().map_or_else(|| "the system's".to_owned(), document);
        text.push_str(&line("Authorities", &authorities));
    }
    if !relationship.allow_addresses.is_empty() {
        text.push_str(&line("Allowed addresses", &relationship.allow_addresses.join(", ")));
    }
    text.push_str(&line("Received by", &list(&relationship.local_trust_domains)));
    let set = relationship.managed.as_ref().and_then(|managed| managed.set.as_ref());
    let set = set.map(|set| format!(", set {set}")).unwrap_or_default();
    text.push_str(&line("Defined by", &format!("{}{set}", origin(relationship.origin))));
    if let Some(replica) = &relationship.replica {
        text.push_str(&line("Worked on by", replica));
    }
    text.push_str(&line("Mode", relationship.mode.as_str()));
    text.push_str(&line("If emptied", relationship.emptied.as_str()));
    text.push_str(&line("If changed at issuer", relationship.drift.as_str()));
    if let Some(frozen) = &relationship.frozen {
        let words = format!("since {} by {}{}", time(Some(frozen.at)), one_line(&frozen.by), because(&frozen.why));
        text.push_str(&line("Frozen", &coloured(&words, AnsiColor::Yellow)));
    }
    if let Some(age) = relationship.maximum_age_seconds {
        text.push_str(&line("Maximum age", &span(age.try_into().ok())));
    }
    if relationship.expired_at.is_some() {
        let words = format!("since {}; the issuers do not have it any more", time(relationship.expired_at));
        text.push_str(&line("Expired", &coloured(&words, AnsiColor::Red)));
    }
    if let Some(waiting) = &relationship.waiting {
        text.push_str(&waiting_text(waiting));
    }
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
        if let Some(drift) = &delivery.drift {
            let what = match &drift.content_digest {
                Some(digest) => format!("another bundle (content {})", short(digest)),
                None => "no bundle".to_owned(),
            };
            let words = format!("{} holds {what} since {}", delivery.local_trust_domain, time(Some(drift.since)));
            text.push_str(&line("Drift", &coloured(&words, AnsiColor::Yellow)));
        }
    }
    for conflict in &relationship.conflicts {
        let words = format!("{conflict}'s issuer names another endpoint for this partner and receives nothing");
        text.push_str(&line("Conflict", &coloured(&words, AnsiColor::Red)));
    }
    text
}

/// Where a document comes from.
fn document(document: &Document) -> String {
    match document {
        Document::File(path) => format!("file {}", one_line(path)),
        Document::Digest(digest) => format!("given, SHA-256 {digest}"),
    }
}

/// Names with commas between them, or nothing.
fn list(names: &[String]) -> String {
    if names.is_empty() { NOTHING.to_owned() } else { names.join(", ") }
}

/// `: why`, if somebody said why.
fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", one_line(why)) }
}

/// The bundle that waits and what it would change.
pub(super) fn waiting_text(waiting: &WaitingBundle) -> String {
    let what = match (waiting.rejected_at, waiting.reason) {
        (Some(at), _) => format!("rejected {}", time(Some(at))),
        (None, OfferReason::Hold) => "a change waits for approve or reject".to_owned(),
        (None, OfferReason::Pinned) => "the partner serves another bundle".to_owned(),
        (None, OfferReason::Emptied) => "a bundle without keys waits for approve or reject".to_owned(),
        (None, OfferReason::SharedKey) => {
            "a bundle with a key of another partner waits for approve or reject".to_owned()
        }
        (None, OfferReason::SequenceLeap) => "a bundle with a leaping sequence waits for approve or reject".to_owned(),
    };
    let mut text = line("Waiting", &coloured(&what, AnsiColor::Yellow));
    text.push_str(&line("  SHA-256", &waiting.digest));
    text.push_str(&line("  Sequence", &number(waiting.sequence)));
    text.push_str(&line("  First seen", &time(Some(waiting.offered_at))));
    text.push_str(&difference_text(&waiting.difference));
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{held_back, plain, relationship};
    use super::*;

    #[test]
    fn what_an_operator_should_know_is_there_in_full() {
        let text = plain(&show_text(&held_back()));
        for part in [
            "Frozen              : since 2026-11-22T11:00:00Z by ada (uid 1000): their incident\n",
            "Maximum age         : 2h\n",
            "Expired             : since 2026-11-22T12:00:00Z; the issuers do not have it any more\n",
            "Waiting             : a change waits for approve or reject\n",
            "  SHA-256           : fedcba9876543210\n",
            "  Beware            : no key of the bundle in force would stay\n",
            "  X.509 added       : aa\n",
            "  X.509 removed     : bb\n",
            "  JWT removed       : k\n",
            "  JWT kept          : 0\n",
            "Drift               : cloud.example holds no bundle since 2026-11-22T11:45:00Z\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn one_relationship_is_shown_in_full() {
        let mut full = relationship();
        full.bootstrap_bundle = Some(Document::File("/etc/p.json".to_owned()));
        full.allow_addresses = vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()];
        full.failover_urls = vec!["https://b/".to_owned(), "https://c/".to_owned()];
        full.url_in_use = Some("https://c/".to_owned());
        let text = plain(&show_text(&full));
        for part in [
            "Trust domain        : onprem.example\n",
            "Health              : degraded\n",
            "Failover URL        : https://b/\nFailover URL        : https://c/ (in use)\n",
            "Endpoint SPIFFE ID  : spiffe://onprem.example/entente/gateway\n",
            "Bootstrap bundle    : file /etc/p.json\n",
            "Allowed addresses   : 10.0.0.0/8, fd00::/8\n",
            "Received by         : cloud.example\n",
            "Last error          : connection refused (2 failures in a row)\n",
            "Bundle              : 2 X.509 authorities, 1 JWT authority\n",
            "Delivery            : cloud.example delivered 2026-11-22T10:11:07Z\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
