//! Errors of the admin API as problem details (RFC 9457).

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use federation_specs::id::{IdError, TrustDomain};
use http::{HeaderValue, StatusCode, header};

use crate::{
    api::{PROBLEM_MEDIA_TYPE, Problem},
    audit::MAX_WHY_BYTES,
    refresh::{decision_error::DecisionError, manager::RefreshError},
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
    #[error("the request body is not what is expected here: {0}")]
    Body(String),
    #[error("the query is not what is expected here: {0}")]
    Query(String),
    #[error("the reason is longer than {MAX_WHY_BYTES} bytes")]
    LongReason,
    #[error("nothing is at `{0}`")]
    NoSuchPath(String),
    #[error("this path does not take {0}")]
    Method(http::Method),
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error("what the sources give cannot be published: {0}")]
    Source(#[source] service_kit::BoxError),
    #[error("the gateway's database failed; see its log")]
    Store(#[from] StoreError),
}

impl AdminError {
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::TrustDomain(_) => (StatusCode::BAD_REQUEST, "bad trust domain"),
            Self::Format(_) => (StatusCode::BAD_REQUEST, "bad format"),
            Self::Body(_) | Self::LongReason => (StatusCode::BAD_REQUEST, "bad request body"),
            Self::Query(_) => (StatusCode::BAD_REQUEST, "bad query"),
            Self::NoRelationship(_) => (StatusCode::NOT_FOUND, "unknown relationship"),
            Self::NoBundle(_) => (StatusCode::NOT_FOUND, "unknown bundle"),
            Self::NoSuchPath(_) => (StatusCode::NOT_FOUND, "unknown path"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            Self::Refresh(RefreshError::Unknown(_)) => (StatusCode::NOT_FOUND, "unknown relationship"),
            Self::Refresh(RefreshError::Failed(_)) => (StatusCode::BAD_GATEWAY, "refresh failed"),
            Self::Refresh(RefreshError::Conflict { .. }) => (StatusCode::CONFLICT, "conflicting endpoints"),
            Self::Refresh(RefreshError::Busy(_)) => (StatusCode::TOO_MANY_REQUESTS, "too many refreshes"),
            Self::Refresh(RefreshError::Decision(error)) => decision(error),
            Self::Refresh(RefreshError::Stopped) => (StatusCode::SERVICE_UNAVAILABLE, "refresh given up"),
            Self::Source(_) => (StatusCode::INTERNAL_SERVER_ERROR, "bundle not published"),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "database failure"),
        }
    }
}

fn decision(error: &DecisionError) -> (StatusCode, &'static str) {
    match error {
        DecisionError::UnknownBundle { .. } => (StatusCode::NOT_FOUND, "unknown bundle"),
        DecisionError::Ambiguous { .. } => (StatusCode::BAD_REQUEST, "ambiguous bundle"),
        DecisionError::Damaged { .. } | DecisionError::Store(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "database failure")
        }
        DecisionError::Limit(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unacceptable bundle"),
        _ => (StatusCode::CONFLICT, "decision not possible"),
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        match &self {
            Self::Store(error) | Self::Refresh(RefreshError::Decision(DecisionError::Store(error))) => {
                tracing::error!(%error, "admin request failed");
            }
            _ => {}
        }
        let (status, title) = self.kind();
        let problem = Problem { status: status.as_u16(), title: title.to_owned(), detail: self.to_string() };
        let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        response
    }
}
