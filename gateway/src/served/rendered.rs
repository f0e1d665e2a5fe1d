//! Documents rendered once, with the headers that let clients and caches avoid fetching them again.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// `Last-Modified` and `If-Modified-Since` (RFC 9110 §5.6.7, IMF-fixdate).
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Longest `If-None-Match` that is looked at.
const MAX_CONDITION_BYTES: usize = 4096;

/// Lowercase hex SHA-256.
pub(crate) fn digest_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One document, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    body: Bytes,
    modified: OffsetDateTime,
    etag: String,
    headers: HeaderMap,
}

impl Rendered {
    /// A JSON document that last changed at `modified` and may be kept by caches for `max_age`.
    ///
    /// The ETag is strong and made from the content, so that every replica gives the same one.
    pub(crate) fn json(body: Vec<u8>, modified: OffsetDateTime, max_age: Duration) -> Self {
        let body = Bytes::from(body);
        let modified = modified.replace_nanosecond(0).unwrap_or(modified).to_offset(time::UtcOffset::UTC);
        let etag = format!("\"{}\"", &digest_hex(&body)[..32]);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut insert = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        insert(header::ETAG, &etag);
        insert(header::CACHE_CONTROL, &format!("public, max-age={}", max_age.as_secs()));
        if let Ok(date) = modified.format(HTTP_DATE) {
            insert(header::LAST_MODIFIED, &date);
        }
        Self { body, modified, etag, headers }
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The bytes.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Headers of a full answer, except `Content-Length`.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the client's copy is still good (RFC 9110 §13.2.2: `If-None-Match` decides alone when present).
    pub(crate) fn is_fresh_for(&self, request: &HeaderMap) -> bool {
        let mut tags = request.get_all(header::IF_NONE_MATCH).iter().peekable();
        if tags.peek().is_some() {
            return tags.any(|value| matches_tag(value, &self.etag));
        }
        let since = request.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        since
            .and_then(|text| PrimitiveDateTime::parse(text, HTTP_DATE).ok())
            .is_some_and(|since| self.modified <= since.assume_utc())
    }
}

fn matches_tag(value: &HeaderValue, etag: &str) -> bool {
    let Ok(text) = value.to_str() else { return false };
    if text.len() > MAX_CONDITION_BYTES {
        return false;
    }
    text.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn rendered() -> Rendered {
        Rendered::json(b"{}".to_vec(), datetime!(2026-11-22 10:11:12.5 UTC), Duration::from_secs(75))
    }

    fn request(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn headers_of_a_document() {
        let rendered = rendered();
        let headers = rendered.headers();
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "public, max-age=75");
        assert_eq!(headers["last-modified"], "Sun, 22 Nov 2026 10:11:12 GMT");
        assert_eq!(headers["etag"], "\"44136fa355b3678a1146ad16f7e8649e\"");
    }

    #[test]
    fn conditions() {
        let rendered = rendered();
        let tag = rendered.etag.clone();
        let none_match = |text: &str| rendered.is_fresh_for(&request(&[(header::IF_NONE_MATCH, text)]));
        assert!(none_match(&tag));
        assert!(none_match(&format!("W/{tag}")));
        assert!(none_match(&format!("\"other\", {tag}")));
        assert!(none_match("*"));
        assert!(!none_match("\"other\""));
        assert!(!none_match(&"x".repeat(5000)));

        let since = |text: &str| rendered.is_fresh_for(&request(&[(header::IF_MODIFIED_SINCE, text)]));
        assert!(since("Sun, 22 Nov 2026 10:11:12 GMT"));
        assert!(!since("Sun, 22 Nov 2026 10:11:11 GMT"));
        assert!(!since("yesterday"));
        // The entity tag decides alone.
        let both = request(&[
            (header::IF_NONE_MATCH, "\"other\""),
            (header::IF_MODIFIED_SINCE, "Sun, 22 Nov 2026 10:11:12 GMT"),
        ]);
        assert!(!rendered.is_fresh_for(&both));
        assert!(!rendered.is_fresh_for(&HeaderMap::new()));
    }
}
