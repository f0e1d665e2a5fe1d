//! Filters of ListAgents and CountAgents.

use federation_specs::{convert, proto::types};
use time::{OffsetDateTime, macros::format_description};
use tonic::Status;

use super::status;
use crate::node::NodeFilter;

/// The parts of both requests' filters.
pub(super) struct Parts {
    pub(super) by_attestation_type: String,
    pub(super) by_selector_match: Option<types::SelectorMatch>,
    pub(super) by_banned: Option<bool>,
    pub(super) by_can_reattest: Option<bool>,
    pub(super) by_expires_before: String,
}

/// Reads a filter. `context` begins the text when the selector set is empty.
pub(super) fn read(parts: Parts, context: &str) -> Result<NodeFilter, Status> {
    let mut filter = NodeFilter {
        attestation_type: Some(parts.by_attestation_type).filter(|kind| !kind.is_empty()),
        selectors: None,
        banned: parts.by_banned,
        can_reattest: parts.by_can_reattest,
        expires_before: expires_before(&parts.by_expires_before),
    };
    if let Some(matched) = parts.by_selector_match {
        let selectors = convert::selector_set_from_proto(&matched.selectors);
        let selectors = selectors.map_err(|error| status::invalid("failed to parse selectors", error))?;
        if selectors.is_empty() {
            return Err(Status::internal(format!("{context}: cannot list by empty selectors set")));
        }
        let behavior = convert::match_behavior_from_proto(matched.r#match);
        let behavior = behavior.map_err(|error| status::invalid("failed to parse selectors", error))?;
        filter.selectors = Some((selectors, behavior));
    }
    Ok(filter)
}

/// `2006-01-02 15:04:05 -0700 -07`, as the command line sends it. What cannot be read filters nothing.
fn expires_before(text: &str) -> Option<i64> {
    let format = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let (moment, _zone_name) = text.rsplit_once(' ')?;
    match OffsetDateTime::parse(moment, format) {
        Ok(moment) => Some(moment.unix_timestamp()),
        Err(error) => {
            tracing::warn!(%error, "by_expires_before is ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_moment_with_its_offset() {
        assert_eq!(expires_before("2020-01-01 00:00:00 -0000 -00"), Some(1_577_836_800));
        assert_eq!(expires_before("2020-01-01 01:00:00 +0100 +01"), Some(1_577_836_800));
        assert_eq!(expires_before("nonsense"), None);
        assert_eq!(expires_before(""), None);
        assert_eq!(expires_before("not a time"), None);
    }
}
