//! RenewAgent: a new X509-SVID for an agent that cannot attest again.

use federation_specs::{
    convert,
    proto::{
        server::agent::RenewAgentRequest,
        types::{self, permission_denied_details::Reason},
    },
    public_key::PublicKey,
    x509_svid::CertificateRequest,
};
use tonic::Status;

use super::{Shared, caller::Caller, status};
use crate::ca::X509Svid;

/// Signs for the calling agent. The new SVID becomes the current one when the agent first uses it.
pub(super) async fn renew(
    shared: &Shared,
    caller: &Caller,
    request: RenewAgentRequest,
) -> Result<types::X509svid, Status> {
    let context = "rejecting request due to renew agent rate limiting";
    status::limited(shared.limits.x509.as_ref(), caller, 1, context).await?;
    let agent = caller.agent()?;
    if agent.can_reattest {
        return Err(status::denied("agent must reattest instead of renew", Reason::AgentMustReattest));
    }
    let params = request.params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
    if params.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    let public_key = key_of_csr(&params.csr)?;
    let signed = shared.ca.sign_agent_svid(&agent.agent_id, &public_key).await;
    let svid = signed.map_err(|error| status::internal("failed to sign X509-SVID", &error))?;
    let stored = shared.store.renew_node(&agent.agent_id, &svid.serial_decimal, svid.expires_at).await;
    stored.map_err(|error| status::from_store("failed to update agent", "agent not found", &error))?;
    tracing::info!(agent = %agent.agent_id, serial = svid.serial_decimal, "agent renewed its X509-SVID");
    Ok(svid_to_proto(&svid))
}

/// The public key of an agent's CSR, which must be signed with it.
pub(super) fn key_of_csr(der: &[u8]) -> Result<PublicKey, Status> {
    let failure = |error| status::invalid("failed to parse CSR", error);
    let csr = CertificateRequest::from_der(der).map_err(failure)?;
    csr.verify_signature().map_err(failure)?;
    Ok(csr.public_key().clone())
}

/// An X509-SVID as a message, one DER certificate an item.
pub(super) fn svid_to_proto(svid: &X509Svid) -> types::X509svid {
    types::X509svid {
        cert_chain: svid.chain.clone(),
        id: Some(convert::spiffe_id_to_proto(&svid.spiffe_id)),
        expires_at: svid.expires_at,
        hint: String::new(),
    }
}
