//! Federation relationships as stored, and as messages.

use federation_specs::{bundle::BundleSet, convert, proto::types};

use crate::store::Relationship;

/// Writes the fields named in `mask` (`None`: all), with the bundle that is held for the trust domain.
pub(super) fn to_proto(
    relationship: &Relationship,
    bundles: &BundleSet,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let everything = types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        bundle_endpoint_profile: true,
        trust_domain_bundle: true,
    };
    let mask = mask.unwrap_or(&everything);
    let url = &relationship.bundle_endpoint_url;
    let bundle = bundles.get(&relationship.trust_domain).filter(|_| mask.trust_domain_bundle);
    types::FederationRelationship {
        trust_domain: relationship.trust_domain.to_string(),
        bundle_endpoint_url: if mask.bundle_endpoint_url { url.to_string() } else { String::new() },
        bundle_endpoint_profile: mask.bundle_endpoint_profile.then(|| convert::profile_to_proto(&relationship.profile)),
        trust_domain_bundle: bundle.map(|bundle| convert::bundle_to_proto(bundle)),
    }
}
