//! The bundle endpoint (SPIRE 1.15).

use axum::body::Body;
use http::{HeaderMap, Method, Response, StatusCode};

use super::answer;
use crate::served::{Document, ServedDomain};

pub(super) fn answer(domain: &ServedDomain, method: &Method, headers: &HeaderMap) -> Response<Body> {
    match domain.bundle_document() {
        Document::Rendered(rendered) => answer::document(&rendered, method, headers),
        Document::NotYet | Document::NoJwtKeys => {
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, answer::NO_BUNDLE, method)
        }
    }
}
