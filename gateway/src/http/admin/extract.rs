//! What requests carry, checked: every rejection is a problem of this API.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::IntoResponse as _,
};
use federation_specs::id::TrustDomain;
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;

use crate::http::problem::AdminError;

/// The trust domain a path names, bare or as SPIFFE ID.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) TrustDomain);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| AdminError::Path(rejection.body_text()))?;
        Ok(Self(TrustDomain::from_name_or_id(&name)?))
    }
}

/// The parameters of the query.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| AdminError::Query(rejection.body_text()))
    }
}

/// The body as JSON.
#[derive(Debug)]
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        parse(&bytes(request, state).await?).map(Self)
    }
}

/// The body as JSON, or its default where none was sent.
#[derive(Debug)]
pub(crate) struct InputOrDefault<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for InputOrDefault<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(bytes).map_err(|cause| AdminError::Body(cause.to_string()))
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, AdminError> {
    let declared = media_type(request.headers());
    let body = Bytes::from_request(request, state).await.map_err(|rejection| {
        let text = rejection.body_text();
        match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => AdminError::LargeBody,
            _ => AdminError::Body(text),
        }
    })?;
    match declared {
        // A body without a type is taken as JSON; one that says it is something else is not looked at.
        Some(other) if !body.is_empty() && !other.eq_ignore_ascii_case("application/json") => {
            Err(AdminError::MediaType(other.chars().take(64).collect()))
        }
        _ => Ok(body),
    }
}

/// The declared media type without its parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(text.split(';').next().unwrap_or_default().trim().to_owned())
}
