//! The OIDC key set (SPIRE 1.15): a trust domain's JWT keys with `alg` and `use`.

use axum::body::Body;
use http::{HeaderMap, Method, Response, StatusCode};
use time::OffsetDateTime;

use super::answer;
use crate::served::{Document, ServedDomain};

pub(super) fn answer(
    domain: &ServedDomain,
    method: &Method,
    headers: &HeaderMap,
    now: OffsetDateTime,
) -> Response<Body> {
    match domain.jwks_document() {
        Document::Rendered(rendered) => answer::document(&rendered, method, headers, domain.age(now)),
        Document::NotYet => answer::error(StatusCode::INTERNAL_SERVER_ERROR, answer::NO_DOCUMENT, method),
        Document::NoJwtKeys => answer::error(StatusCode::NOT_IMPLEMENTED, answer::NO_JWT_KEYS, method),
    }
}
