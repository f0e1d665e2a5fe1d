//! `spire.api.server.debug.v1.Debug`: the issuer's own state, on the Unix socket.

use std::{sync::Arc, time::Duration};

use federation_specs::{
    certificate::Certificate,
    convert, distinguished_name,
    id::SpiffeId,
    proto::server::debug::{GetInfoRequest, GetInfoResponse, debug_server, get_info_response::Cert},
};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{Shared, status};
use crate::{entry::EntryFilter, node::NodeFilter};

/// How long an answer is given again, as counting costs.
const CACHED_FOR: Duration = Duration::from_secs(5);

/// Handlers of the Debug service.
#[derive(Debug)]
pub(super) struct DebugService {
    shared: Arc<Shared>,
    cached: Mutex<Option<(OffsetDateTime, GetInfoResponse)>>,
}

impl DebugService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, cached: Mutex::new(None) }
    }

    async fn info(&self, now: OffsetDateTime) -> Result<GetInfoResponse, Status> {
        let count = |count: u64| i32::try_from(count).unwrap_or(i32::MAX);
        let agents = self.shared.store.count_nodes(&NodeFilter::default()).await;
        let agents = agents.map_err(|error| status::internal("failed to count agents", &error))?;
        let entries = self.shared.store.count_entries(&EntryFilter::default()).await;
        let entries = entries.map_err(|error| status::internal("failed to count entries", &error))?;
        Ok(GetInfoResponse {
            svid_chain: self.svid_chain()?,
            uptime: i32::try_from((now - self.shared.started_at).whole_seconds()).unwrap_or(i32::MAX),
            agents_count: count(agents),
            federated_bundles_count: count(self.shared.store.count_bundles()),
            entries_count: count(entries),
        })
    }

    /// The issuer's own certificates, leaf first, with the authority of the bundle that they lead to.
    fn svid_chain(&self) -> Result<Vec<Cert>, Status> {
        let identity = self.shared.ca.server_svid().current();
        let identity = identity.ok_or_else(|| Status::internal("the issuer has no X509-SVID"))?;
        let mut chain = Vec::new();
        for der in identity.chain() {
            let certificate = Certificate::from_der(der);
            chain.push(certificate.map_err(|error| status::internal("failed to parse server SVID", &error))?);
        }
        let bundle = self.shared.store.own_bundle().ok_or_else(|| Status::internal("bundle not found"))?;
        let root = chain.last().and_then(|last| {
            let authorities = bundle.x509_authorities().iter().map(|authority| authority.certificate());
            authorities.clone().find(|root| root.public_key().is_ok_and(|key| last.is_signed_by(key))).cloned()
        });
        let root = root.ok_or_else(|| Status::internal("failed to verify server SVID against the bundle"))?;
        Ok(chain.iter().chain([&root]).map(describe).collect())
    }
}

fn describe(certificate: &Certificate) -> Cert {
    let id = match certificate.names().uris.as_slice() {
        [uri] => SpiffeId::parse(uri).ok(),
        _ => None,
    };
    Cert {
        id: id.map(|id| convert::spiffe_id_to_proto(&id)),
        expires_at: certificate.not_after().unix_timestamp(),
        subject: distinguished_name::to_text(certificate.subject_der()),
    }
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let now = self.shared.now();
        let mut cached = self.cached.lock().await;
        if let Some((at, info)) = cached.as_ref().filter(|(at, _)| (*at..*at + CACHED_FOR).contains(&now)) {
            tracing::trace!(%at, "answering from the last count");
            return Ok(Response::new(info.clone()));
        }
        let info = self.info(now).await?;
        *cached = Some((now, info.clone()));
        Ok(Response::new(info))
    }
}
