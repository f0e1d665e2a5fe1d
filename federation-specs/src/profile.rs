//! Bundle endpoint profiles and URLs (SPIFFE Federation sections 5.2;
//! SPIRE 1.15).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::id::SpiffeId;

/// Longest bundle endpoint URL, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// How a bundle endpoint proves that it may speak for its trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointProfile {
    /// `https_web`: by a Web PKI certificate for its host name.
    HttpsWeb,
    /// `https_spiffe`: by an X509-SVID with exactly this SPIFFE ID.
    HttpsSpiffe {
        /// The ID the endpoint must present.
        endpoint_id: SpiffeId,
    },
}

impl EndpointProfile {
    /// The name of the profile: `https_web` or `https_spiffe`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe { .. } => "https_spiffe",
        }
    }
}

/// Why a text is not a bundle endpoint URL; most texts are those of the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointUrlError {
    /// More than [`MAX_URL_BYTES`].
    #[error("bundle endpoint URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not a URL.
    #[error("failed to parse bundle endpoint URL: {0}")]
    Malformed(String),
    /// Another scheme, or none.
    #[error("bundle endpoint URL must use the https scheme")]
    Scheme,
    /// No host.
    #[error("bundle endpoint URL must specify the host")]
    Host,
    /// A user name or password.
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    /// A `#` part.
    #[error("bundle endpoint URL must not contain a fragment")]
    Fragment,
}

/// A bundle endpoint URL: `https`, with a host, without user info or fragment,
/// at most [`MAX_URL_BYTES`]. It is shown as it was given.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    text: String,
    url: Url,
}

impl EndpointUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`EndpointUrlError`] naming the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(EndpointUrlError::TooLong);
        }
        // The URL library repairs what it can: it drops spaces and control
        // characters, turns backslashes round and skips slashes before the
        // host. Nothing is repaired here.
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(EndpointUrlError::Scheme);
        };
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(EndpointUrlError::Scheme);
        }
        let rest = rest.strip_prefix("//").ok_or(EndpointUrlError::Host)?;
        if let Some(found) = text.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '\\') {
            return Err(EndpointUrlError::Malformed(format!("invalid character {found:?}")));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(EndpointUrlError::UserInfo);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(EndpointUrlError::Host);
        }
        let url = Url::parse(text).map_err(|error| EndpointUrlError::Malformed(error.to_string()))?;
        if !url.has_host() {
            return Err(EndpointUrlError::Host);
        }
        if url.fragment().is_some() {
            return Err(EndpointUrlError::Fragment);
        }
        if url.port() == Some(0) {
            return Err(EndpointUrlError::Malformed("port 0".to_owned()));
        }
        Ok(Self { text: text.to_owned(), url })
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL divided into its parts.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The host, without brackets if it is an IPv6 address.
    pub fn host(&self) -> &str {
        let host = self.url.host_str().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, 443 if none is given.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, formatter)
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, EndpointUrlError> {
        Self::parse(text)
    }
}

impl Serialize for EndpointUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for EndpointUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kept_as_given() {
        for (text, host, port) in [
            ("https://127.0.0.1:28443", "127.0.0.1", 28443),
            ("https://bundle.example/a/b?c=d", "bundle.example", 443),
            ("HTTPS://Bundle.example/", "bundle.example", 443),
            ("https://[::1]:8443/x", "::1", 8443),
        ] {
            let url = EndpointUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.host(), url.port()), (text, host, port));
        }
    }

    #[test]
    fn each_fault_has_its_words() {
        let text = |url: &str| EndpointUrl::parse(url).unwrap_err().to_string();
        for url in ["", "http://x/", "x/y", "spiffe://td/a", "ftp://x"] {
            assert_eq!(text(url), "bundle endpoint URL must use the https scheme", "{url}");
        }
        for url in ["https:///x", "https://", "https:x", "https:/x", "https://:80/", "https://?q", "https://#f"] {
            assert_eq!(text(url), "bundle endpoint URL must specify the host", "{url}");
        }
        for url in ["https://u:p@x/", "https://@x/", "https://u@x"] {
            assert_eq!(text(url), "bundle endpoint URL must not contain user info", "{url}");
        }
        assert_eq!(text("https://x/#f"), "bundle endpoint URL must not contain a fragment");
        assert_eq!(text("https://x/#"), "bundle endpoint URL must not contain a fragment");
        for url in ["https://a b/", "https://x/\n", " https://x/", "https://x\\y/", "https://x:0/", "https://x:99999/"]
        {
            assert!(EndpointUrl::parse(url).is_err(), "{url:?}");
        }
        assert!(text("https://a b/%zz").starts_with("failed to parse bundle endpoint URL: "));
        assert_eq!(EndpointUrl::parse(&format!("https://x/{}", "y".repeat(2048))), Err(EndpointUrlError::TooLong));
    }

    #[test]
    fn profiles_have_the_standard_names() {
        let endpoint_id = SpiffeId::parse("spiffe://td/bundle").unwrap();
        assert_eq!(EndpointProfile::HttpsSpiffe { endpoint_id }.name(), "https_spiffe");
        assert_eq!(EndpointProfile::HttpsWeb.name(), "https_web");
    }
}
