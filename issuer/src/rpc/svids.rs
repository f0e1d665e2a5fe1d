//! `spire.api.server.svid.v1.SVID`: signing X509- and JWT-SVIDs, and CA certificates for downstream issuers.

use std::{sync::Arc, time::Duration};

use federation_specs::{
    convert, dns_name,
    id::SpiffeId,
    proto::{
        server::svid::{
            BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
            MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
            MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
            NewJwtsvidResponse, NewX509svidParams, batch_new_witsvid_response, batch_new_x509svid_response,
            svid_server,
        },
        types,
    },
    public_key::PublicKey,
    x509_svid::CertificateRequest,
};
use tonic::{Request, Response, Status};

use super::{Shared, caller::Caller, ids, renew::svid_to_proto, status};
use crate::{
    authorized::EntrySnapshot,
    ca::{CaError, JwtSvid, JwtSvidParams, X509SvidParams},
    node::Node,
};

const X509_LIMIT: &str = "rejecting request due to certificate signing rate limiting";
const JWT_LIMIT: &str = "rejecting request due to JWT signing request rate limiting";
const DOWNSTREAM_LIMIT: &str = "rejecting request due to downstream CA signing rate limit";
const NOT_AUTHORIZED: &str = "entry not found or not authorized";

/// Handlers of the SVID service.
#[derive(Debug)]
pub(super) struct SvidService {
    shared: Arc<Shared>,
}

impl SvidService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn mint_x509(&self, request: MintX509svidRequest) -> Result<types::X509svid, Status> {
        if request.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let csr =
            CertificateRequest::from_der(&request.csr).map_err(|error| status::invalid("malformed CSR", error))?;
        csr.verify_signature().map_err(|error| status::invalid("failed to verify CSR signature", error))?;
        let spiffe_id = match csr.uri_sans() {
            [] => return Err(Status::invalid_argument("CSR URI SAN is required")),
            [uri] => self.minted_id(uri)?,
            _ => return Err(Status::invalid_argument("only one URI SAN is expected")),
        };
        for name in csr.dns_sans() {
            dns_name::check(name).map_err(|error| status::invalid("CSR DNS name is invalid", error))?;
        }
        dns_name::wildcard_overlap(csr.dns_sans()).map_err(|error| {
            status::invalid("CSR DNS name contains a wildcard that covers another non-wildcard name", error)
        })?;
        let params = X509SvidParams {
            spiffe_id,
            public_key: csr.public_key().clone(),
            dns_names: csr.dns_sans().to_vec(),
            ttl: seconds(request.ttl),
            subject_der: Some(csr.subject_der().to_vec()),
        };
        let signed = self.shared.ca.sign_x509_svid(&params).await;
        let svid = signed.map_err(|error| sign_failure("failed to sign X509-SVID", &error))?;
        Ok(svid_to_proto(&svid))
    }

    fn minted_id(&self, uri: &str) -> Result<SpiffeId, Status> {
        let context = "CSR URI SAN is invalid";
        let id = SpiffeId::parse(uri).map_err(|error| status::invalid(context, error))?;
        id.require_workload(&self.shared.trust_domain).map_err(|error| status::invalid(context, error))?;
        Ok(id)
    }

    async fn mint_jwt(&self, request: MintJwtsvidRequest) -> Result<types::Jwtsvid, Status> {
        self.require_jwt()?;
        let id = ids::workload(request.id.as_ref(), &self.shared.trust_domain);
        let spiffe_id = id.map_err(|error| status::invalid("invalid SPIFFE ID", error))?;
        let params =
            JwtSvidParams { spiffe_id, audience: request.audience, ttl: seconds(request.ttl), include_jti: false };
        self.sign_jwt(params).await
    }

    async fn sign_jwt(&self, params: JwtSvidParams) -> Result<types::Jwtsvid, Status> {
        if params.audience.is_empty() {
            return Err(Status::invalid_argument("at least one audience is required"));
        }
        match self.shared.ca.sign_jwt_svid(&params).await {
            Ok(svid) => Ok(jwt_to_proto(svid)),
            Err(CaError::JwtDisabled) => Err(jwt_disabled()),
            Err(error) => Err(sign_failure("failed to sign JWT-SVID", &error)),
        }
    }

    fn require_jwt(&self) -> Result<(), Status> {
        if self.shared.jwt_svids_disabled { Err(jwt_disabled()) } else { Ok(()) }
    }

    /// Entries of this moment.
    async fn entries(&self) -> Result<Arc<EntrySnapshot>, Status> {
        let snapshot = self.shared.index.fresh().await;
        snapshot.map_err(|error| status::internal("failed to fetch entries", &error))
    }

    async fn new_x509(
        &self,
        entries: &EntrySnapshot,
        agent: &Node,
        params: NewX509svidParams,
    ) -> Result<types::X509svid, Status> {
        if params.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let entry = entries.authorized_entry(&agent.agent_id, &params.entry_id);
        let entry = entry.ok_or_else(|| Status::not_found(NOT_AUTHORIZED))?;
        let public_key = proven_key(&params.csr)?;
        if !entry.spiffe_id.is_member_of(&self.shared.trust_domain) {
            return Err(status::internal("entry has malformed SPIFFE ID", &entry.spiffe_id));
        }
        let params = X509SvidParams {
            spiffe_id: entry.spiffe_id.clone(),
            public_key,
            dns_names: entry.dns_names.clone(),
            ttl: seconds(entry.x509_svid_ttl),
            subject_der: None,
        };
        let signed = self.shared.ca.sign_x509_svid(&params).await;
        let svid = signed.map_err(|error| sign_failure("failed to sign X509-SVID", &error))?;
        Ok(svid_to_proto(&svid))
    }

    async fn new_jwt(&self, agent: &Node, request: NewJwtsvidRequest) -> Result<types::Jwtsvid, Status> {
        let entry = self.entries().await?.authorized_entry(&agent.agent_id, &request.entry_id);
        let entry = entry.ok_or_else(|| Status::not_found(NOT_AUTHORIZED))?;
        let params = JwtSvidParams {
            spiffe_id: entry.spiffe_id.clone(),
            audience: request.audience,
            ttl: seconds(entry.jwt_svid_ttl),
            include_jti: entry.includes_jti(),
        };
        self.sign_jwt(params).await
    }
}

/// The public key of a CSR that is signed with it.
fn proven_key(csr: &[u8]) -> Result<PublicKey, Status> {
    let csr = CertificateRequest::from_der(csr).map_err(|error| status::invalid("malformed CSR", error))?;
    csr.verify_signature().map_err(|error| status::invalid("invalid CSR signature", error))?;
    Ok(csr.public_key().clone())
}

/// A lifetime; zero and negative mean the default.
fn seconds(ttl: i32) -> Option<Duration> {
    u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs)
}

/// Causes in the request are named, the issuer's own are not.
fn sign_failure(context: &str, error: &CaError) -> Status {
    if error.is_internal() { status::internal(context, error) } else { status::invalid(context, error) }
}

fn jwt_disabled() -> Status {
    Status::unimplemented("JWT functionality is disabled")
}

fn jwt_to_proto(svid: JwtSvid) -> types::Jwtsvid {
    types::Jwtsvid {
        id: Some(convert::spiffe_id_to_proto(&svid.spiffe_id)),
        token: svid.token,
        expires_at: svid.expires_at,
        issued_at: svid.issued_at,
        hint: String::new(),
    }
}

#[tonic::async_trait]
impl svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let svid = self.mint_x509(request.into_inner()).await?;
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let svid = self.mint_jwt(request.into_inner()).await?;
        Ok(Response::new(MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(&self, _: Request<MintWitsvidRequest>) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        let tokens = u32::try_from(params.len()).unwrap_or(u32::MAX);
        status::limited(self.shared.limits.x509.as_ref(), &caller, tokens, X509_LIMIT).await?;
        let agent = caller.agent()?;
        let entries = self.entries().await?;
        let mut results = Vec::with_capacity(params.len());
        for params in params {
            results.push(match self.new_x509(&entries, agent, params).await {
                Ok(svid) => batch_new_x509svid_response::Result { status: Some(status::item_ok()), svid: Some(svid) },
                Err(failure) => {
                    batch_new_x509svid_response::Result { status: Some(status::item_failed(&failure)), svid: None }
                }
            });
        }
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(&self, request: Request<NewJwtsvidRequest>) -> Result<Response<NewJwtsvidResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        status::limited(self.shared.limits.jwt.as_ref(), &caller, 1, JWT_LIMIT).await?;
        self.require_jwt()?;
        let svid = self.new_jwt(caller.agent()?, request.into_inner()).await?;
        Ok(Response::new(NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        let tokens = u32::try_from(params.len()).unwrap_or(u32::MAX);
        status::limited(self.shared.limits.wit.as_ref(), &caller, tokens, X509_LIMIT).await?;
        let unavailable = Status::internal("failed to sign WIT-SVID: WIT key is not available for signing");
        let result = batch_new_witsvid_response::Result { status: Some(status::item_failed(&unavailable)), svid: None };
        Ok(Response::new(BatchNewWitsvidResponse { results: vec![result; params.len()] }))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        status::limited(self.shared.limits.x509.as_ref(), &caller, 1, DOWNSTREAM_LIMIT).await?;
        let request = request.into_inner();
        let public_key = proven_key(&request.csr)?;
        let signed = self.shared.ca.sign_downstream_ca(&public_key, seconds(request.preferred_ttl)).await;
        let ca = signed.map_err(|error| status::internal("failed to sign downstream X.509 CA", &error))?;
        tracing::info!(caller = caller.label(), "signed a downstream CA certificate");
        Ok(Response::new(NewDownstreamX509caResponse { ca_cert_chain: ca.chain, x509_authorities: ca.roots }))
    }
}
