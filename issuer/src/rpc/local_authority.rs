//! `spire.api.server.localauthority.v1.LocalAuthority`: the issuer's own X.509 and JWT authorities.

use std::sync::Arc;

use federation_specs::proto::server::localauthority::{
    self as api, ActivateJwtAuthorityRequest, ActivateJwtAuthorityResponse, ActivateWitAuthorityRequest,
    ActivateWitAuthorityResponse, ActivateX509AuthorityRequest, ActivateX509AuthorityResponse,
    GetJwtAuthorityStateRequest, GetJwtAuthorityStateResponse, GetWitAuthorityStateRequest,
    GetWitAuthorityStateResponse, GetX509AuthorityStateRequest, GetX509AuthorityStateResponse,
    PrepareJwtAuthorityRequest, PrepareJwtAuthorityResponse, PrepareWitAuthorityRequest, PrepareWitAuthorityResponse,
    PrepareX509AuthorityRequest, PrepareX509AuthorityResponse, RevokeJwtAuthorityRequest, RevokeJwtAuthorityResponse,
    RevokeWitAuthorityRequest, RevokeWitAuthorityResponse, RevokeX509AuthorityRequest, RevokeX509AuthorityResponse,
    RevokeX509UpstreamAuthorityRequest, RevokeX509UpstreamAuthorityResponse, TaintJwtAuthorityRequest,
    TaintJwtAuthorityResponse, TaintWitAuthorityRequest, TaintWitAuthorityResponse, TaintX509AuthorityRequest,
    TaintX509AuthorityResponse, TaintX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityResponse,
    local_authority_server,
};
use tonic::{Code, Request, Response, Status};

use super::Shared;
use crate::ca::{Authority, AuthorityError, AuthorityErrorKind};

/// Handlers of the LocalAuthority service.
#[derive(Debug)]
pub(super) struct LocalAuthorityService {
    shared: Arc<Shared>,
}

impl LocalAuthorityService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn require_jwt(&self) -> Result<(), Status> {
        if self.shared.jwt_svids_disabled {
            return Err(Status::unimplemented("JWT functionality is disabled"));
        }
        Ok(())
    }
}

fn failure(error: &AuthorityError) -> Status {
    let code = match error.kind() {
        AuthorityErrorKind::InvalidArgument => Code::InvalidArgument,
        AuthorityErrorKind::FailedPrecondition => Code::FailedPrecondition,
        AuthorityErrorKind::Internal => Code::Internal,
        AuthorityErrorKind::Unavailable => Code::Unavailable,
        AuthorityErrorKind::Unimplemented => Code::Unimplemented,
    };
    Status::new(code, error.to_string())
}

fn full(authority: Authority) -> api::AuthorityState {
    api::AuthorityState {
        authority_id: authority.authority_id,
        expires_at: authority.expires_at,
        upstream_authority_subject_key_id: authority.upstream_authority_subject_key_id,
    }
}

fn only_id(authority: Authority) -> api::AuthorityState {
    api::AuthorityState { authority_id: authority.authority_id, ..api::AuthorityState::default() }
}

fn wit<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
}

#[tonic::async_trait]
impl local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        _: Request<GetJwtAuthorityStateRequest>,
    ) -> Result<Response<GetJwtAuthorityStateResponse>, Status> {
        self.require_jwt()?;
        let state = self.shared.ca.jwt_authority_state().map_err(|error| failure(&error))?;
        Ok(Response::new(GetJwtAuthorityStateResponse {
            active: state.active.map(full),
            prepared: state.prepared.map(full),
            old: state.old.map(full),
        }))
    }

    async fn prepare_jwt_authority(
        &self,
        _: Request<PrepareJwtAuthorityRequest>,
    ) -> Result<Response<PrepareJwtAuthorityResponse>, Status> {
        self.require_jwt()?;
        let authority = self.shared.ca.prepare_jwt_authority().await.map_err(|error| failure(&error))?;
        Ok(Response::new(PrepareJwtAuthorityResponse { prepared_authority: Some(full(authority)) }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<ActivateJwtAuthorityRequest>,
    ) -> Result<Response<ActivateJwtAuthorityResponse>, Status> {
        self.require_jwt()?;
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.activate_jwt_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(ActivateJwtAuthorityResponse { activated_authority: Some(full(authority)) }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<TaintJwtAuthorityRequest>,
    ) -> Result<Response<TaintJwtAuthorityResponse>, Status> {
        self.require_jwt()?;
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.taint_jwt_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(TaintJwtAuthorityResponse { tainted_authority: Some(only_id(authority)) }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<RevokeJwtAuthorityRequest>,
    ) -> Result<Response<RevokeJwtAuthorityResponse>, Status> {
        self.require_jwt()?;
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.revoke_jwt_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(RevokeJwtAuthorityResponse { revoked_authority: Some(only_id(authority)) }))
    }

    async fn get_x509_authority_state(
        &self,
        _: Request<GetX509AuthorityStateRequest>,
    ) -> Result<Response<GetX509AuthorityStateResponse>, Status> {
        let state = self.shared.ca.x509_authority_state().map_err(|error| failure(&error))?;
        Ok(Response::new(GetX509AuthorityStateResponse {
            active: state.active.map(full),
            prepared: state.prepared.map(full),
            old: state.old.map(full),
        }))
    }

    async fn prepare_x509_authority(
        &self,
        _: Request<PrepareX509AuthorityRequest>,
    ) -> Result<Response<PrepareX509AuthorityResponse>, Status> {
        let authority = self.shared.ca.prepare_x509_authority().await.map_err(|error| failure(&error))?;
        Ok(Response::new(PrepareX509AuthorityResponse { prepared_authority: Some(full(authority)) }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<ActivateX509AuthorityRequest>,
    ) -> Result<Response<ActivateX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.activate_x509_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(ActivateX509AuthorityResponse { activated_authority: Some(full(authority)) }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<TaintX509AuthorityRequest>,
    ) -> Result<Response<TaintX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.taint_x509_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(TaintX509AuthorityResponse { tainted_authority: Some(full(authority)) }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<TaintX509UpstreamAuthorityResponse>, Status> {
        let id = request.into_inner().subject_key_id;
        let tainted = self.shared.ca.taint_x509_upstream_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id: tainted }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<RevokeX509AuthorityRequest>,
    ) -> Result<Response<RevokeX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let authority = self.shared.ca.revoke_x509_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(RevokeX509AuthorityResponse { revoked_authority: Some(only_id(authority)) }))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<RevokeX509UpstreamAuthorityResponse>, Status> {
        let id = request.into_inner().subject_key_id;
        let revoked = self.shared.ca.revoke_x509_upstream_authority(&id).await.map_err(|error| failure(&error))?;
        Ok(Response::new(RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id: revoked }))
    }

    async fn get_wit_authority_state(
        &self,
        _: Request<GetWitAuthorityStateRequest>,
    ) -> Result<Response<GetWitAuthorityStateResponse>, Status> {
        wit()
    }

    async fn prepare_wit_authority(
        &self,
        _: Request<PrepareWitAuthorityRequest>,
    ) -> Result<Response<PrepareWitAuthorityResponse>, Status> {
        wit()
    }

    async fn activate_wit_authority(
        &self,
        _: Request<ActivateWitAuthorityRequest>,
    ) -> Result<Response<ActivateWitAuthorityResponse>, Status> {
        wit()
    }

    async fn taint_wit_authority(
        &self,
        _: Request<TaintWitAuthorityRequest>,
    ) -> Result<Response<TaintWitAuthorityResponse>, Status> {
        wit()
    }

    async fn revoke_wit_authority(
        &self,
        _: Request<RevokeWitAuthorityRequest>,
    ) -> Result<Response<RevokeWitAuthorityResponse>, Status> {
        wit()
    }
}
