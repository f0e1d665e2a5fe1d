//! Answers of the public listeners, with SPIRE's texts for what goes wrong (SPIRE 1.15).

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::served::rendered::Rendered;

/// Text of an unknown path.
pub(crate) const NOT_FOUND: &str = "404 page not found";

/// Text of a method other than GET and HEAD.
pub(crate) const METHOD_NOT_ALLOWED: &str = "405 method not allowed";

/// Text of a request without the host HTTP/1.1 demands.
pub(crate) const NO_HOST: &str = "400 missing Host header";

/// Text of a request that names more than one host.
pub(crate) const SEVERAL_HOSTS: &str = "400 the request names several hosts";

/// Text of a host that is no text.
pub(crate) const BAD_HOST: &str = "400 the host is malformed";

/// Text of a bundle that is not there yet.
pub(crate) const NO_BUNDLE: &str = "500 unable to retrieve local bundle";

/// Text of OIDC keys that are not there yet.
pub(crate) const NO_DOCUMENT: &str = "document not available";

/// Text of a trust domain without JWT keys.
pub(crate) const NO_JWT_KEYS: &str = "jwt not supported/enabled in this service";

/// Methods the public listeners answer.
const ALLOWED: &str = "GET, HEAD";

/// The document in the encoding the client likes best, or 304 when the client's copy is still good. HEAD gets the
/// headers of GET. `age` is how long ago the document was last known to be current, if it is not now.
pub(crate) fn document(
    rendered: &Rendered,
    method: &Method,
    request: &HeaderMap,
    age: Option<Duration>,
) -> Response<Body> {
    let chosen = rendered.choose(request);
    let fresh = rendered.is_fresh_for(chosen, request);
    let mut response = if fresh {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.headers_mut() = chosen.headers().clone();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_ENCODING);
        response
    } else {
        let mut response = Response::new(body_for(method, chosen.body().clone()));
        *response.headers_mut() = chosen.headers().clone();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(chosen.body().len()));
        response
    };
    if let Some(age) = age {
        response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
    response
}

/// A plain-text error with a newline at its end, which no cache keeps: HTTP lets caches keep a 404 (RFC 9110 §15.1), and
/// a domain may be served a moment later.
pub(crate) fn error(status: StatusCode, text: &str, method: &Method) -> Response<Body> {
    let body = Bytes::from(format!("{text}\n"));
    let length = body.len();
    let mut response = Response::new(body_for(method, body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
    }
    response
}

fn body_for(method: &Method, body: Bytes) -> Body {
    if method == Method::HEAD { Body::empty() } else { Body::from(body) }
}
