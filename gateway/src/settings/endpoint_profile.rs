//! The profile of a bundle endpoint that is asked, a partner's or a source's: one check for both.

use federation_specs::{id::SpiffeId, profile::EndpointProfile};

use super::error::{SettingsError, error};
use crate::config::ProfileName;

/// Keys that say how a bundle endpoint is authenticated, as partners and sources have them.
pub(super) struct Endpoint<'a> {
    pub(super) profile: ProfileName,
    pub(super) endpoint_spiffe_id: Option<&'a str>,
    /// The key that names certificate authorities, if one does.
    pub(super) ca: Option<&'static str>,
    /// The key that names a first bundle, if one does.
    pub(super) bootstrap: Option<&'static str>,
}

/// The profile, when every key given belongs to it.
pub(super) fn profile(key: &str, endpoint: &Endpoint<'_>) -> Result<EndpointProfile, SettingsError> {
    let refuse = |name: &str, problem: &str| Err(error(format!("{key}.{name}"), problem));
    match (endpoint.profile, endpoint.endpoint_spiffe_id) {
        (ProfileName::HttpsWeb, Some(_)) => {
            refuse("endpoint_spiffe_id", "belongs to profile https_spiffe; remove it or change the profile")
        }
        (ProfileName::HttpsWeb, None) => match endpoint.bootstrap {
            Some(name) => refuse(name, "belongs to profile https_spiffe; remove it"),
            None => Ok(EndpointProfile::HttpsWeb),
        },
        (ProfileName::HttpsSpiffe, _) if endpoint.ca.is_some() => refuse(
            endpoint.ca.unwrap_or_default(),
            "belongs to profile https_web; with https_spiffe use bootstrap_bundle_file",
        ),
        (ProfileName::HttpsSpiffe, None) => refuse(
            "endpoint_spiffe_id",
            "is missing; ask the partner for it, for example spiffe://partner.example/spire/server",
        ),
        (ProfileName::HttpsSpiffe, Some(text)) => {
            let endpoint_id =
                SpiffeId::parse(text).map_err(|cause| error(format!("{key}.endpoint_spiffe_id"), cause.to_string()))?;
            Ok(EndpointProfile::HttpsSpiffe { endpoint_id })
        }
    }
}
