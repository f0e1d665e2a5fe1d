//! Entity tags (RFC 9110, 8.8.3), and requests that depend on them.
//!
//! A tag covers what an operator may change or decide upon. It is a strong one, so that `If-Match` takes it, although
//! counters and ages may differ between two answers that carry the same tag.

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use serde::Serialize;
use serde_json::Value;

use crate::{api::Relationship, audit::chain::canonical, http::problem::AdminError, served::rendered::digest_hex};

/// Digits of a digest that make a tag.
const DIGITS: usize = 32;

/// Most tags of one `If-Match`.
const MAX_TAGS: usize = 16;

/// Fields of a relationship that go by themselves and that nobody decides about.
const MOVING: [&str; 10] = [
    "health",
    "last_error",
    "last_attempt",
    "last_success",
    "bundle_age_seconds",
    "next_refresh_seconds",
    "first_expiry_seconds",
    "next_refresh",
    "consecutive_failures",
    "deliveries",
];

/// The entity tag of one state of a resource, quotation marks included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(String);

impl Tag {
    /// The tag of this content.
    pub(crate) fn of(content: &impl Serialize) -> Self {
        let content = serde_json::to_value(content).unwrap_or_default();
        Self::of_bytes(canonical(&content).as_bytes())
    }

    /// The tag of these bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut digits = digest_hex(bytes);
        digits.truncate(DIGITS);
        Self(format!("\"{digits}\""))
    }

    /// The tag of a relationship.
    pub(crate) fn of_relationship(relationship: &Relationship) -> Self {
        Self::of(&decided(relationship))
    }

    /// The tag of a version.
    pub(crate) fn of_version(version: i64) -> Self {
        Self(format!("\"{version}\""))
    }

    /// The tag of a page of relationships.
    pub(super) fn of_relationships(relationships: &[Relationship], next: Option<&str>) -> Self {
        Self::of(&(relationships.iter().map(decided).collect::<Vec<_>>(), next))
    }

    fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

fn decided(relationship: &Relationship) -> Value {
    let mut value = serde_json::to_value(relationship).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !MOVING.contains(&name.as_str()));
    }
    value
}

/// An answer with its tag.
#[derive(Debug)]
pub(crate) struct Tagged<T>(pub(crate) Tag, pub(crate) T);

impl<T: Serialize> Tagged<T> {
    /// An answer whose tag covers all of it.
    pub(crate) fn whole(answer: T) -> Self {
        Self(Tag::of(&answer), answer)
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.1).into_response();
        set(&self.0, &mut response);
        response
    }
}

/// Puts the tag on an answer.
pub(super) fn set(tag: &Tag, response: &mut Response) {
    if let Some(value) = tag.header() {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// Which state of the resource a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Any, as long as there is one.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

/// The `If-Match` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IfMatch(Option<Condition>);

impl IfMatch {
    /// Whether the request says which state it is about.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self.0, Some(Condition::OneOf(_)))
    }

    /// Whether the resource, whose tag is `tag` now, is as the request expects. `None` if there is no such resource.
    pub(crate) fn holds(&self, tag: Option<&Tag>) -> bool {
        match (&self.0, tag) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Condition::Any), Some(_)) => true,
            // Strong comparison: a weak tag equals none (RFC 9110, 8.8.3.2).
            (Some(Condition::OneOf(tags)), Some(Tag(now))) => tags.contains(now),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        if !parts.headers.contains_key(header::IF_MATCH) {
            return Ok(Self(None));
        }
        listed(&parts.headers, header::IF_MATCH).map(|condition| Self(Some(condition))).ok_or(AdminError::Condition)
    }
}

/// The tags a header names; `None` if it cannot be read.
fn listed(headers: &HeaderMap, name: HeaderName) -> Option<Condition> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let text = value.to_str().ok()?.trim();
        if text == "*" {
            return Some(Condition::Any);
        }
        for tag in text.split(',').map(str::trim) {
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
            if inner.contains('"') || tags.len() == MAX_TAGS {
                return None;
            }
            tags.push(tag.to_owned());
        }
    }
    Some(Condition::OneOf(tags))
}

/// Answers 304 where the client's copy is still good.
pub(super) async fn conditional(request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    let copies = listed(request.headers(), header::IF_NONE_MATCH)
        .filter(|_| reads && request.headers().contains_key(header::IF_NONE_MATCH));
    let response = next.run(request).await;
    let Some(copies) = copies.filter(|_| response.status() == StatusCode::OK) else { return response };
    let Some(tag) = response.headers().get(header::ETAG).cloned() else { return response };
    let known = match &copies {
        Condition::Any => true,
        Condition::OneOf(tags) => tags.iter().any(|copy| copy.trim_start_matches("W/").as_bytes() == tag.as_bytes()),
    };
    if !known {
        return response;
    }
    let mut unchanged = Response::new(Body::empty());
    *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
    unchanged.headers_mut().insert(header::ETAG, tag);
    unchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn if_match(values: &[&str]) -> Result<IfMatch, AdminError> {
        let mut request = http::Request::builder();
        for value in values {
            request = request.header("if-match", *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        IfMatch::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn a_request_meets_the_state_it_names_and_no_other() {
        let (one, other) = (Tag::of(&1), Tag::of(&2));
        let given = if_match(&[&format!("\"x\", {}", one.0)]).await.unwrap();
        assert!(given.holds(Some(&one)) && !given.holds(Some(&other)) && !given.holds(None));
        let weak = if_match(&[&format!("W/{}", one.0)]).await.unwrap();
        assert!(!weak.holds(Some(&one)), "strong comparison");
        let any = if_match(&["*"]).await.unwrap();
        assert!(any.holds(Some(&one)) && !any.holds(None) && !any.is_given());
        let none = if_match(&[]).await.unwrap();
        assert!(none.holds(None) && !none.is_given());
        for bad in ["", "x", "\"x", "\"a\"b\"", "\"a\",,\"b\""] {
            assert!(matches!(if_match(&[bad]).await, Err(AdminError::Condition)), "{bad}");
        }
        assert!(if_match(&["\"x\""; MAX_TAGS + 1]).await.is_err());
    }
}
