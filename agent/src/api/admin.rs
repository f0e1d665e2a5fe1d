//! The administration socket: state of the agent and its log level.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use federation_specs::{
    certificate::Certificate,
    convert, distinguished_name,
    id::SpiffeId,
    proto::{
        agent::{
            debug::{
                GetInfoRequest, GetInfoResponse,
                debug_server::{self, DebugServer},
                get_info_response::Cert,
            },
            logger::{
                GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
                logger_server::{self, LoggerServer},
            },
        },
        types,
    },
};
use service_kit::{
    clock::SharedClock,
    grpc::logger::{levels, requested_level},
    telemetry::LogHandle,
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status, service::Routes};

use super::gate::{self, Gate};
use crate::{
    cache::{Cache, jwt::JwtCache},
    identity::OwnIdentity,
};

/// `spire.agent.debug.v1.Debug`.
#[derive(Debug)]
pub struct DebugService {
    /// The agent's SVID.
    pub identity: Arc<OwnIdentity>,
    /// X509-SVIDs and bundles.
    pub cache: Arc<Cache>,
    /// JWT-SVIDs.
    pub tokens: JwtCache,
    /// Unix seconds of the last successful synchronisation.
    pub last_sync: Arc<AtomicI64>,
    /// Time.
    pub clock: SharedClock,
    /// When the agent started.
    pub started_at: OffsetDateTime,
}

impl DebugService {
    /// The agent's certificates, leaf first, with the authority of the bundle that they lead to.
    fn svid_chain(&self) -> Vec<Cert> {
        let Some(svid) = self.identity.current() else { return Vec::new() };
        let mut chain: Vec<Certificate> = svid.chain.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        let snapshot = self.cache.snapshot();
        let root = chain.last().zip(snapshot.own_bundle()).and_then(|(last, bundle)| {
            let authorities = bundle.x509_authorities().iter().map(|authority| authority.certificate());
            authorities.clone().find(|root| root.public_key().is_ok_and(|key| last.is_signed_by(key))).cloned()
        });
        chain.extend(root);
        chain.iter().map(describe).collect()
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

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    #[allow(deprecated, reason = "older command lines read svids_count")]
    async fn get_info(&self, _request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let x509_svids = count(self.cache.x509_svid_count());
        let uptime = (self.clock.now() - self.started_at).whole_seconds();
        Ok(Response::new(GetInfoResponse {
            svid_chain: self.svid_chain(),
            uptime: i32::try_from(uptime).unwrap_or(i32::MAX),
            svids_count: x509_svids,
            last_sync_success: self.last_sync.load(Ordering::Relaxed),
            cached_x509_svids_count: x509_svids,
            cached_jwt_svids_count: count(self.tokens.len()),
            cached_svidstore_x509_svids_count: 0,
        }))
    }
}

/// `spire.api.agent.logger.v1.Logger`.
#[derive(Debug)]
pub struct LoggerService {
    /// The running log.
    pub log: LogHandle,
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    async fn get_logger(&self, _request: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        Ok(Response::new(levels(&self.log)))
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        let level = requested_level(request.get_ref().new_level)?;
        self.log.set_level(level);
        tracing::info!(level = level.as_str(), "log level changed");
        Ok(Response::new(levels(&self.log)))
    }

    async fn reset_log_level(
        &self,
        _request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.log.set_level(self.log.launch());
        tracing::info!(level = self.log.launch().as_str(), "log level reset");
        Ok(Response::new(levels(&self.log)))
    }
}

/// The services of the administration socket.
pub fn admin(debug: DebugService, log: LogHandle) -> Gate<Routes> {
    let routes = Routes::new(DebugServer::new(debug)).add_service(LoggerServer::new(LoggerService { log })).prepare();
    Gate::new(routes, gate::ADMIN)
}
