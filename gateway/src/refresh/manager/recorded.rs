//! The text by which a start notices what the configuration changed since the last one.

use federation_specs::{id::TrustDomain, profile::EndpointProfile};
use serde_json::json;

use crate::{
    audit::chain::canonical,
    partners::content_digest,
    served::rendered::digest_hex,
    settings::{ConfiguredRelationship, Document},
};

/// A relationship of the configuration as the audit log knows it.
pub(super) fn recorded(item: &ConfiguredRelationship) -> String {
    let (profile, endpoint_id) = match &item.profile {
        EndpointProfile::HttpsWeb => ("https_web", None),
        EndpointProfile::HttpsSpiffe { endpoint_id } => ("https_spiffe", Some(endpoint_id.to_string())),
    };
    let mut definition = json!({
        "url": item.url.to_string(),
        "profile": profile,
        "endpoint_spiffe_id": endpoint_id,
        "local_trust_domains": item.local_trust_domains.iter().map(TrustDomain::as_str).collect::<Vec<_>>(),
        "ca_file": null,
        "bootstrap_bundle_file": null,
        "mode": item.policy.mode,
        "emptied": item.policy.emptied,
        "drift": item.policy.drift,
        "maximum_age_seconds": item.policy.maximum_age.map(|age| age.as_secs()),
    });
    match &item.ca {
        None => {}
        Some(Document::File(path)) => definition["ca_file"] = path.display().to_string().into(),
        Some(Document::Inline(pem)) => definition["ca_pem"] = digest_hex(pem.as_bytes()).into(),
    }
    match &item.bootstrap {
        None => {}
        Some(Document::File(path)) => definition["bootstrap_bundle_file"] = path.display().to_string().into(),
        Some(Document::Inline(bundle)) => definition["bootstrap_bundle"] = content_digest(bundle).into(),
    }
    if !item.failover_urls.is_empty() {
        definition["failover_urls"] = item.failover_urls.iter().map(ToString::to_string).collect();
    }
    if !item.allow_addresses.is_empty() {
        definition["allow_addresses"] = item.allow_addresses.iter().map(ToString::to_string).collect();
    }
    canonical(&definition)
}
