//! The bundle endpoint (SPIRE 1.15), and the bundle map.

use axum::body::Body;
use http::{HeaderMap, Method, Response, StatusCode};
use time::OffsetDateTime;

use super::answer;
use crate::served::{Document, ServedDomain, bundle_map::BundleMap};

pub(super) fn answer(
    domain: &ServedDomain,
    method: &Method,
    headers: &HeaderMap,
    now: OffsetDateTime,
) -> Response<Body> {
    match domain.bundle_document() {
        Document::Rendered(rendered) => answer::document(&rendered, method, headers, domain.age(now)),
        Document::NotYet | Document::NoJwtKeys => {
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, answer::NO_BUNDLE, method)
        }
    }
}

pub(super) fn answer_map(map: &BundleMap, method: &Method, headers: &HeaderMap, now: OffsetDateTime) -> Response<Body> {
    match map.document() {
        Some(rendered) => answer::document(&rendered, method, headers, map.age(now)),
        None => answer::error(StatusCode::INTERNAL_SERVER_ERROR, answer::NO_BUNDLE, method),
    }
}
