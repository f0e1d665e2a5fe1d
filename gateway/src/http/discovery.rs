//! The OIDC discovery document (SPIRE 1.15). Its `issuer` is the configured one whatever host was asked.

use axum::body::Body;
use http::{HeaderMap, Method, Response, StatusCode};

use super::answer;
use crate::served::{Document, ServedDomain};

pub(super) fn answer(domain: &ServedDomain, method: &Method, headers: &HeaderMap) -> Response<Body> {
    match domain.discovery_document() {
        Document::Rendered(rendered) => answer::document(&rendered, method, headers, None),
        Document::NotYet | Document::NoJwtKeys => answer::error(StatusCode::NOT_FOUND, answer::NOT_FOUND, method),
    }
}
