//! Errors of the admin API as problem details (RFC 9457).

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use federation_specs::id::{IdError, TrustDomain};
use http::{HeaderValue, StatusCode, header};

use crate::{
    api::{PROBLEM_MEDIA_TYPE, Problem},
    refresh::manager::RefreshError,
    store::StoreError,
};

/// Why an admin request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("{0}")]
    TrustDomain(#[from] IdError),
    #[error("no relationship with trust domain `{0}`; see the list of relationships")]
    NoRelationship(TrustDomain),
    #[error("no bundle of trust domain `{0}` is served or held")]
    NoBundle(TrustDomain),
    #[error("format `{0}` is not known; use spiffe or pem")]
    Format(String),
    #[error("the request body is no refresh request: {0}")]
    Body(String),
    #[error("nothing is at `{0}`")]
    NoSuchPath(String),
    #[error("this path does not take {0}")]
    Method(http::Method),
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error("the gateway's database failed; see its log")]
    Store(#[from] StoreError),
}

impl AdminError {
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::TrustDomain(_) => (StatusCode::BAD_REQUEST, "bad trust domain"),
            Self::Format(_) => (StatusCode::BAD_REQUEST, "bad format"),
            Self::Body(_) => (StatusCode::BAD_REQUEST, "bad request body"),
            Self::NoRelationship(_) => (StatusCode::NOT_FOUND, "unknown relationship"),
            Self::NoBundle(_) => (StatusCode::NOT_FOUND, "unknown bundle"),
            Self::NoSuchPath(_) => (StatusCode::NOT_FOUND, "unknown path"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            Self::Refresh(RefreshError::Unknown(_)) => (StatusCode::NOT_FOUND, "unknown relationship"),
            Self::Refresh(RefreshError::Failed(_)) => (StatusCode::BAD_GATEWAY, "refresh failed"),
            Self::Refresh(RefreshError::Conflict { .. }) => (StatusCode::CONFLICT, "conflicting endpoints"),
            Self::Refresh(RefreshError::Busy(_)) => (StatusCode::TOO_MANY_REQUESTS, "too many refreshes"),
            Self::Refresh(RefreshError::Stopped) => (StatusCode::SERVICE_UNAVAILABLE, "refresh given up"),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "database failure"),
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "admin request failed");
        }
        let (status, title) = self.kind();
        let problem = Problem { status: status.as_u16(), title: title.to_owned(), detail: self.to_string() };
        let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        response
    }
}
