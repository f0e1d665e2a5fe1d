//! Filters of ListEntries and CountEntries.

use std::collections::BTreeSet;

use federation_specs::{convert, id::TrustDomain, proto::types};
use tonic::Status;

use super::{ids, status};
use crate::entry::EntryFilter;

/// The parts of both requests' filters.
pub(super) struct Parts {
    pub(super) by_spiffe_id: Option<types::Spiffeid>,
    pub(super) by_parent_id: Option<types::Spiffeid>,
    pub(super) by_selectors: Option<types::SelectorMatch>,
    pub(super) by_federates_with: Option<types::FederatesWithMatch>,
    pub(super) by_hint: Option<String>,
    pub(super) by_downstream: Option<bool>,
}

/// Reads a filter; each part that is present is checked.
pub(super) fn read(parts: Parts, domain: &TrustDomain) -> Result<EntryFilter, Status> {
    let mut filter = EntryFilter::default();
    if let Some(id) = &parts.by_parent_id {
        let parent = ids::member(Some(id), domain);
        filter.parent_id = Some(parent.map_err(|error| status::invalid("malformed parent ID filter", error))?);
    }
    if let Some(id) = &parts.by_spiffe_id {
        let id = ids::workload(Some(id), domain);
        filter.spiffe_id = Some(id.map_err(|error| status::invalid("malformed SPIFFE ID filter", error))?);
    }
    if let Some(matched) = parts.by_selectors {
        let context = "malformed selectors filter";
        if matched.selectors.is_empty() {
            return Err(status::invalid(context, "empty selector set"));
        }
        let selectors = convert::selector_set_from_proto(&matched.selectors);
        let selectors = selectors.map_err(|error| status::invalid(context, error))?;
        let behavior = convert::match_behavior_from_proto(matched.r#match);
        let behavior = behavior.map_err(|error| status::invalid(context, error))?;
        filter.selectors = Some((selectors, behavior));
    }
    if let Some(matched) = parts.by_federates_with {
        let context = "malformed federates with filter";
        if matched.trust_domains.is_empty() {
            return Err(status::invalid(context, "empty trust domain set"));
        }
        let domains: Result<BTreeSet<_>, _> =
            matched.trust_domains.iter().map(|name| TrustDomain::from_name_or_id(name)).collect();
        let domains = domains.map_err(|error| status::invalid(context, error))?;
        let behavior = convert::match_behavior_from_proto(matched.r#match);
        let behavior = behavior.map_err(|error| status::invalid(context, error))?;
        filter.federates_with = Some((domains, behavior));
    }
    filter.hint = parts.by_hint.unwrap_or_default();
    filter.downstream_only = parts.by_downstream.unwrap_or_default();
    Ok(filter)
}
