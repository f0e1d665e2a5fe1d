//! The filters `entry show` and `entry count` share.

use federation_specs::proto::server::entry::{count_entries_request, list_entries_request};
use federation_specs::proto::types;

use crate::failure::Failure;
use crate::identifiers::{self, Match};
use crate::notation::quote;

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Entries under this parent
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// Entries that give this SPIFFE ID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Entries with this selector (type:value); may be repeated
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How the selectors are compared: exact, subset, superset or any
    #[arg(long = "matchSelectorsOn", value_name = "HOW", default_value = "superset")]
    match_selectors_on: String,
    /// Entries that federate with this trust domain; may be repeated
    #[arg(long = "federatesWith", value_name = "TRUST_DOMAIN")]
    federates_with: Vec<String>,
    /// How the trust domains are compared: exact, subset, superset or any
    #[arg(long = "matchFederatesWithOn", value_name = "HOW", default_value = "superset")]
    match_federates_with_on: String,
    /// Only entries of downstream issuers
    #[arg(long)]
    downstream: bool,
    /// Entries with this hint
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
}

impl Filter {
    /// True if something that excludes `-entryID` is given.
    pub(super) fn names_entries(&self) -> bool {
        given(self.parent_id.as_deref()).is_some()
            || given(self.spiffe_id.as_deref()).is_some()
            || !self.selector.is_empty()
    }

    /// The filter as the list call carries it.
    pub(super) fn request(&self) -> Result<list_entries_request::Filter, Failure> {
        let id = |what: &str, text: Option<&str>| {
            let parsed = given(text).map(|text| {
                identifiers::spiffe_id(text)
                    .map_err(|failure| failure.context(&format!("error parsing {what} {}", quote(text))))
            });
            parsed.transpose()
        };
        let mut filter = list_entries_request::Filter {
            by_spiffe_id: id("SPIFFE ID", self.spiffe_id.as_deref())?,
            by_parent_id: id("parent ID", self.parent_id.as_deref())?,
            by_hint: given(self.hint.as_deref()).map(str::to_owned),
            by_downstream: self.downstream.then_some(true),
            ..list_entries_request::Filter::default()
        };
        if !self.selector.is_empty() {
            let behavior = Match::parse(&self.match_selectors_on)?;
            let selectors = self.selector.iter().map(|text| {
                identifiers::selector(text)
                    .map_err(|failure| failure.context(&format!("error parsing selector {}", quote(text))))
            });
            filter.by_selectors = Some(types::SelectorMatch {
                selectors: selectors.collect::<Result<_, _>>()?,
                r#match: behavior.selectors(),
            });
        }
        if !self.federates_with.is_empty() {
            let behavior = Match::parse(&self.match_federates_with_on)?;
            filter.by_federates_with = Some(types::FederatesWithMatch {
                trust_domains: self.federates_with.clone(),
                r#match: behavior.federates_with(),
            });
        }
        Ok(filter)
    }

    /// The filter as the count call carries it.
    pub(super) fn count_request(&self) -> Result<count_entries_request::Filter, Failure> {
        let filter = self.request()?;
        Ok(count_entries_request::Filter {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        })
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
