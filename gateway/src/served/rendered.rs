//! Documents rendered once, in each encoding, with the headers that let clients and caches avoid fetching them again.

use std::{io::Write as _, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// `Last-Modified` and `If-Modified-Since` (RFC 9110 §5.6.7, IMF-fixdate).
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Longest `If-None-Match` that is looked at.
const MAX_CONDITION_BYTES: usize = 4096;

/// Longest `Accept-Encoding` that is looked at; a longer one gets the document as it is.
const MAX_ACCEPT_BYTES: usize = 1024;

/// Smaller documents gain nothing from compression.
const MIN_COMPRESSED_BYTES: usize = 256;

/// Lowercase hex SHA-256.
pub(crate) fn digest_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One document, ready to be sent as it is and compressed.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    modified: OffsetDateTime,
    identity: Representation,
    /// `None` where compression gains nothing.
    gzip: Option<Representation>,
}

/// A document in one encoding.
///
/// Its ETag is strong and made from the content, so that every replica gives the same one. Each encoding has its own
/// (RFC 9110 §8.8.3.3), because a strong one promises the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct Representation {
    body: Bytes,
    etag: String,
    headers: HeaderMap,
}

impl Representation {
    /// The bytes.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Headers of a full answer, except `Content-Length`.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl Rendered {
    /// A JSON document that last changed at `modified` and may be kept by caches for `max_age`.
    pub(crate) fn json(body: Vec<u8>, modified: OffsetDateTime, max_age: Duration) -> Self {
        let body = Bytes::from(body);
        let modified = modified.replace_nanosecond(0).unwrap_or(modified).to_offset(time::UtcOffset::UTC);
        let tag = digest_hex(&body)[..32].to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        let mut insert = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        insert(header::CACHE_CONTROL, &format!("public, max-age={}", max_age.as_secs()));
        if let Ok(date) = modified.format(HTTP_DATE) {
            insert(header::LAST_MODIFIED, &date);
        }
        let representation = |body: Bytes, etag: String, encoding: Option<&'static str>| {
            let mut headers = headers.clone();
            if let Ok(value) = HeaderValue::from_str(&etag) {
                headers.insert(header::ETAG, value);
            }
            if let Some(encoding) = encoding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            Representation { body, etag, headers }
        };
        let gzip = compressed(&body).map(|bytes| representation(bytes, format!("\"{tag}-gzip\""), Some("gzip")));
        let identity = representation(body, format!("\"{tag}\""), None);
        Self { modified, identity, gzip }
    }

    /// When it last changed.
    pub(crate) fn modified(&self) -> OffsetDateTime {
        self.modified
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        if let Some(gzip) = &mut self.gzip {
            gzip.headers.insert(name.clone(), value.clone());
        }
        self.identity.headers.insert(name, value);
        self
    }

    /// The document as it is.
    pub(crate) fn identity(&self) -> &Representation {
        &self.identity
    }

    /// The encoding the client likes best; as it is if there is no other way, even if the client says otherwise
    /// (RFC 9110 §12.5.3 leaves that to the server).
    pub(crate) fn choose(&self, request: &HeaderMap) -> &Representation {
        match &self.gzip {
            Some(gzip) if prefers_gzip(request) => gzip,
            _ => &self.identity,
        }
    }

    /// Whether the client's copy of `chosen` is still good (RFC 9110 §13.2.2: `If-None-Match` decides alone when
    /// present).
    pub(crate) fn is_fresh_for(&self, chosen: &Representation, request: &HeaderMap) -> bool {
        let mut tags = request.get_all(header::IF_NONE_MATCH).iter().peekable();
        if tags.peek().is_some() {
            return tags.any(|value| matches_tag(value, &chosen.etag));
        }
        let since = request.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        since
            .and_then(|text| PrimitiveDateTime::parse(text, HTTP_DATE).ok())
            .is_some_and(|since| self.modified <= since.assume_utc())
    }
}

/// The bytes compressed with gzip, always the same for the same bytes; `None` if that does not make them fewer.
fn compressed(body: &[u8]) -> Option<Bytes> {
    if body.len() < MIN_COMPRESSED_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).ok()?;
    let bytes = encoder.finish().ok()?;
    (bytes.len() < body.len()).then(|| bytes.into())
}

/// Whether gzip is at least as welcome as the document as it is.
fn prefers_gzip(request: &HeaderMap) -> bool {
    let mut gzip = None;
    let mut identity = None;
    let mut any = None;
    let mut length = 0;
    for value in request.get_all(header::ACCEPT_ENCODING) {
        length += value.len();
        let Ok(text) = value.to_str() else { return false };
        if length > MAX_ACCEPT_BYTES {
            return false;
        }
        for item in text.split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let Some(weight) = weight(parameters) else { continue };
            match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "identity" => identity = Some(weight),
                "*" => any = Some(weight),
                _ => {}
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The value of `q`, 1 unless given; `None` if it is none.
fn weight(parameters: &str) -> Option<f32> {
    let mut weight = 1.0;
    for parameter in parameters.split(';').map(str::trim).filter(|parameter| !parameter.is_empty()) {
        let value = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="))?;
        weight = value.parse::<f32>().ok().filter(|value| (0.0..=1.0).contains(value))?;
    }
    Some(weight)
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

    fn rendered_from(body: Vec<u8>) -> Rendered {
        Rendered::json(body, datetime!(2026-11-22 10:11:12.5 UTC), Duration::from_secs(75))
    }

    fn rendered() -> Rendered {
        rendered_from(b"{}".to_vec())
    }

    fn request(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn headers_of_a_document() {
        let rendered = rendered();
        let headers = rendered.identity().headers();
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "public, max-age=75");
        assert_eq!(headers["last-modified"], "Sun, 22 Nov 2026 10:11:12 GMT");
        assert_eq!(headers["etag"], "\"44136fa355b3678a1146ad16f7e8649e\"");
        assert_eq!(headers["vary"], "accept-encoding");
        assert!(!headers.contains_key("content-encoding"));
    }

    #[test]
    fn conditions() {
        let rendered = rendered();
        let fresh = |headers: &HeaderMap| rendered.is_fresh_for(rendered.identity(), headers);
        let tag = rendered.identity().etag.clone();
        let none_match = |text: &str| fresh(&request(&[(header::IF_NONE_MATCH, text)]));
        assert!(none_match(&tag));
        assert!(none_match(&format!("W/{tag}")));
        assert!(none_match(&format!("\"other\", {tag}")));
        assert!(none_match("*"));
        assert!(!none_match("\"other\""));
        assert!(!none_match(&"x".repeat(5000)));

        let since = |text: &str| fresh(&request(&[(header::IF_MODIFIED_SINCE, text)]));
        assert!(since("Sun, 22 Nov 2026 10:11:12 GMT"));
        assert!(!since("Sun, 22 Nov 2026 10:11:11 GMT"));
        assert!(!since("yesterday"));
        // The entity tag decides alone.
        let both = request(&[
            (header::IF_NONE_MATCH, "\"other\""),
            (header::IF_MODIFIED_SINCE, "Sun, 22 Nov 2026 10:11:12 GMT"),
        ]);
        assert!(!fresh(&both));
        assert!(!fresh(&HeaderMap::new()));
    }

    #[test]
    fn gzip_is_made_once_and_sent_to_who_wants_it() {
        use std::io::Read as _;
        let body = b"{\"keys\": []}".repeat(100);
        let rendered = rendered_from(body.clone());
        let chosen = |accept: &str| rendered.choose(&request(&[(header::ACCEPT_ENCODING, accept)]));
        for accept in ["gzip", "GZIP, deflate, br", "br;q=1.0, gzip;q=0.8, *;q=0.1", "*", "x-gzip", "gzip;q=0.001"] {
            assert_eq!(chosen(accept).headers()["content-encoding"], "gzip", "{accept}");
        }
        let bad = "gzip, ".repeat(400);
        for accept in ["", "br", "gzip;q=0", "identity", "identity, gzip;q=0.5", "*;q=0", "gzip;q=2", "gzip;x=1", &bad]
        {
            assert!(!chosen(accept).headers().contains_key("content-encoding"), "{accept}");
        }
        assert!(!rendered.choose(&HeaderMap::new()).headers().contains_key("content-encoding"));

        let gzip = chosen("gzip");
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&gzip.body()[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text, body);
        assert!(gzip.body().len() < body.len());
        assert_eq!(rendered_from(body).choose(&request(&[(header::ACCEPT_ENCODING, "gzip")])).body(), gzip.body());
        // Other bytes, another strong tag.
        assert_ne!(gzip.etag, rendered.identity().etag);
        let mine = request(&[(header::IF_NONE_MATCH, gzip.etag.as_str())]);
        assert!(rendered.is_fresh_for(gzip, &mine));
        assert!(!rendered.is_fresh_for(rendered.identity(), &mine));
        assert!(rendered_from(b"{}".to_vec()).gzip.is_none(), "too small");
    }
}
