//! SPIFFE IDs in requests: parsed and checked for the role they play.

use federation_specs::{
    convert::{self, ConvertError},
    id::{MembershipError, SpiffeId, TrustDomain},
    proto::types,
};

/// Why an ID in a request is not accepted. The texts are part of the API.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestIdError {
    #[error(transparent)]
    Malformed(#[from] ConvertError),
    #[error(transparent)]
    Misplaced(#[from] MembershipError),
}

/// An ID of the trust domain with a path.
pub(super) fn member(id: Option<&types::Spiffeid>, domain: &TrustDomain) -> Result<SpiffeId, RequestIdError> {
    let id = convert::spiffe_id_from_proto(id)?;
    id.require_member(domain)?;
    Ok(id)
}

/// An ID that a workload may have.
pub(super) fn workload(id: Option<&types::Spiffeid>, domain: &TrustDomain) -> Result<SpiffeId, RequestIdError> {
    let id = convert::spiffe_id_from_proto(id)?;
    id.require_workload(domain)?;
    Ok(id)
}

/// The ID of an agent.
pub(super) fn agent(id: Option<&types::Spiffeid>, domain: &TrustDomain) -> Result<SpiffeId, RequestIdError> {
    let id = convert::spiffe_id_from_proto(id)?;
    id.require_agent(domain)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        check: fn(Option<&types::Spiffeid>, &TrustDomain) -> Result<SpiffeId, RequestIdError>,
        trust_domain: &str,
        path: &str,
    ) -> String {
        let domain = TrustDomain::parse("cloud.example").expect("domain");
        let id = types::Spiffeid { trust_domain: trust_domain.into(), path: path.into() };
        check(Some(&id), &domain).map_or_else(|error| error.to_string(), |id| id.to_string())
    }

    #[test]
    fn each_role_names_what_is_wrong() {
        let cases = [
            (parse(agent, "cloud.example", "/spire/agent/x"), "spiffe://cloud.example/spire/agent/x"),
            (
                parse(agent, "cloud.example", ""),
                "\"spiffe://cloud.example\" is not an agent in trust domain \"cloud.example\"; path is empty",
            ),
            (
                parse(agent, "cloud.example", "/foo"),
                "\"spiffe://cloud.example/foo\" is not an agent in trust domain \"cloud.example\"; path is not in the \
                 agent namespace",
            ),
            (
                parse(agent, "other.example", "/spire/agent/x"),
                "\"spiffe://other.example/spire/agent/x\" is not a member of trust domain \"cloud.example\"",
            ),
            (parse(workload, "spiffe://cloud.example", "/spirex"), "spiffe://cloud.example/spirex"),
            (
                parse(workload, "cloud.example", "/spire"),
                "\"spiffe://cloud.example/spire\" is not a workload in trust domain \"cloud.example\"; path is in the \
                 reserved namespace",
            ),
            (parse(member, "cloud.example", "/spire/server"), "spiffe://cloud.example/spire/server"),
            (
                parse(member, "cloud.example", ""),
                "\"spiffe://cloud.example\" is not a member of trust domain \"cloud.example\"; path is empty",
            ),
            (parse(member, "", ""), "trust domain is missing"),
        ];
        for (actual, expected) in cases {
            assert_eq!(actual, expected);
        }
        let domain = TrustDomain::parse("cloud.example").expect("domain");
        assert_eq!(member(None, &domain).expect_err("nil").to_string(), "request must specify SPIFFE ID");
    }
}
