//! Trust domain names and SPIFFE IDs (SPIFFE-ID standard, section 2).
//!
//! Both are read strictly, as go-spiffe and SPIRE do: lower-case scheme and
//! trust domain, no percent-encoding, no query, fragment, port or user info.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest trust domain name, in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Longest SPIFFE ID, scheme included, in bytes (SPIFFE-ID section 2.3).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

const SCHEME: &str = "spiffe://";
const SERVER_PATH: &str = "/spire/server";
const RESERVED_PATH: &str = "/spire";
const AGENT_PREFIX: &str = "/spire/agent/";

/// Why a text is not a trust domain name or SPIFFE ID. The texts of the
/// standard's own rules are those SPIRE sends on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text has no characters.
    #[error("cannot be empty")]
    Empty,
    /// The text does not begin with `spiffe://`.
    #[error("scheme is missing or invalid")]
    Scheme,
    /// Nothing stands between the scheme and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// A character outside `a-z 0-9 . - _`.
    #[error("trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores")]
    TrustDomainCharacter,
    /// More than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes; use a shorter name")]
    TrustDomainTooLong,
    /// More than [`MAX_SPIFFE_ID_BYTES`].
    #[error("SPIFFE ID is longer than {MAX_SPIFFE_ID_BYTES} bytes; use a shorter path")]
    TooLong,
    /// A path that does not begin with `/`.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// A path that ends with `/`.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// A character outside `A-Z a-z 0-9 . - _`.
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    PathCharacter,
}

/// The name of a trust domain, such as `cloud.example`: 1 to 255 characters of
/// `a-z 0-9 . - _` (SPIFFE-ID section 2.1). Clones share one allocation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a bare name.
    ///
    /// # Errors
    /// [`IdError`] naming the rule that is broken.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// Reads a bare name or the name in a SPIFFE ID (`spiffe://td`, with or
    /// without a path, which must then be valid), as the SPIRE API takes them
    /// (SPIRE 1.15).
    ///
    /// # Errors
    /// [`IdError`] naming the rule that is broken.
    pub fn from_name_or_id(text: &str) -> Result<Self, IdError> {
        if text.contains(":/") { SpiffeId::parse(text).map(|id| id.trust_domain) } else { Self::parse(text) }
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain as text: `spiffe://` and the name.
    pub fn id_string(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// The SPIFFE ID of the trust domain, which has no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: Arc::from(self.id_string()), trust_domain: self.clone() }
    }

    /// The ID of the trust domain's issuer, `spiffe://td/spire/server`.
    pub fn server_id(&self) -> SpiffeId {
        SpiffeId { text: Arc::from(format!("{SCHEME}{}{SERVER_PATH}", self.0)), trust_domain: self.clone() }
    }
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::MissingTrustDomain);
    }
    if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        return Err(IdError::TrustDomainCharacter);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(IdError::TrustDomainTooLong);
    }
    Ok(())
}

/// A path is empty, or one or more `/segment`.
fn check_path(path: &str) -> Result<(), IdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return if path.is_empty() { Ok(()) } else { Err(IdError::NoLeadingSlash) };
    };
    let last = segments.matches('/').count();
    for (index, segment) in segments.split('/').enumerate() {
        match segment {
            "" if index == last => return Err(IdError::TrailingSlash),
            "" => return Err(IdError::EmptySegment),
            "." | ".." => return Err(IdError::DotSegment),
            _ if segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) => {}
            _ => return Err(IdError::PathCharacter),
        }
    }
    Ok(())
}

/// A SPIFFE ID such as `spiffe://cloud.example/billing`, at most 2048 bytes;
/// the path may be absent, which makes it the ID of the trust domain itself
/// (SPIFFE-ID section 2). Clones share one allocation.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Reads a SPIFFE ID.
    ///
    /// # Errors
    /// [`IdError`] naming the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(name)?;
        check_path(path)?;
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(IdError::TooLong);
        }
        Ok(Self { text: Arc::from(text), trust_domain: TrustDomain(Arc::from(name)) })
    }

    /// Joins a trust domain and a path; the path is empty or begins with `/`.
    ///
    /// # Errors
    /// [`IdError`] naming the rule that is broken.
    pub fn from_parts(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        check_path(path)?;
        let text = format!("{SCHEME}{trust_domain}{path}");
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(IdError::TooLong);
        }
        Ok(Self { text: Arc::from(text), trust_domain: trust_domain.clone() })
    }

    /// The whole ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain the ID belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or an empty string.
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.trust_domain.0.len()..).unwrap_or_default()
    }

    /// Whether this identifies something inside `trust_domain`: same trust
    /// domain and a path (SPIRE 1.15, "Member ID").
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain == *trust_domain && !self.path().is_empty()
    }

    /// Whether the path is `/spire` or below it, which no workload may have.
    pub fn is_reserved(&self) -> bool {
        self.path().strip_prefix(RESERVED_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether the path is below `/spire/agent/`.
    pub fn is_agent(&self) -> bool {
        self.path().starts_with(AGENT_PREFIX)
    }

    /// Whether the path is `/spire/server`.
    pub fn is_server(&self) -> bool {
        self.path() == SERVER_PATH
    }

    /// Whether a workload may have this ID: it has a path outside `/spire`.
    pub fn is_workload(&self) -> bool {
        !self.path().is_empty() && !self.is_reserved()
    }

    /// Demands a member of `trust_domain` (see [`SpiffeId::is_member_of`]).
    ///
    /// # Errors
    /// [`MembershipError`] in SPIRE's words.
    pub fn require_member(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        if self.trust_domain != *trust_domain {
            return Err(MembershipError::OtherTrustDomain(self.clone(), trust_domain.clone()));
        }
        if self.path().is_empty() {
            return Err(MembershipError::MemberWithoutPath(self.clone(), trust_domain.clone()));
        }
        Ok(())
    }

    /// Demands an ID a workload of `trust_domain` may have.
    ///
    /// # Errors
    /// [`MembershipError`] in SPIRE's words.
    pub fn require_workload(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        if self.trust_domain != *trust_domain {
            return Err(MembershipError::OtherTrustDomain(self.clone(), trust_domain.clone()));
        }
        if self.path().is_empty() {
            return Err(MembershipError::WorkloadWithoutPath(self.clone(), trust_domain.clone()));
        }
        if self.is_reserved() {
            return Err(MembershipError::WorkloadReserved(self.clone(), trust_domain.clone()));
        }
        Ok(())
    }

    /// Demands an agent ID of `trust_domain`.
    ///
    /// # Errors
    /// [`MembershipError`] in SPIRE's words.
    pub fn require_agent(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        if self.trust_domain != *trust_domain {
            return Err(MembershipError::OtherTrustDomain(self.clone(), trust_domain.clone()));
        }
        if self.path().is_empty() {
            return Err(MembershipError::AgentWithoutPath(self.clone(), trust_domain.clone()));
        }
        if !self.is_agent() {
            return Err(MembershipError::NotAgent(self.clone(), trust_domain.clone()));
        }
        Ok(())
    }
}

/// Why a valid SPIFFE ID is the wrong one for its place; the texts are SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The ID belongs to another trust domain.
    #[error("\"{0}\" is not a member of trust domain \"{1}\"")]
    OtherTrustDomain(SpiffeId, TrustDomain),
    /// A member is wanted and the ID is the trust domain's own.
    #[error("\"{0}\" is not a member of trust domain \"{1}\"; path is empty")]
    MemberWithoutPath(SpiffeId, TrustDomain),
    /// A workload is wanted and the ID is the trust domain's own.
    #[error("\"{0}\" is not a workload in trust domain \"{1}\"; path is empty")]
    WorkloadWithoutPath(SpiffeId, TrustDomain),
    /// A workload is wanted and the path is under `/spire`.
    #[error("\"{0}\" is not a workload in trust domain \"{1}\"; path is in the reserved namespace")]
    WorkloadReserved(SpiffeId, TrustDomain),
    /// An agent is wanted and the ID is the trust domain's own.
    #[error("\"{0}\" is not an agent in trust domain \"{1}\"; path is empty")]
    AgentWithoutPath(SpiffeId, TrustDomain),
    /// An agent is wanted and the path is not under `/spire/agent/`.
    #[error("\"{0}\" is not an agent in trust domain \"{1}\"; path is not in the agent namespace")]
    NotAgent(SpiffeId, TrustDomain),
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

macro_rules! text_impls {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), formatter)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(|error| serde::de::Error::custom(format!("`{text}`: {error}")))
            }
        }
    };
}

text_impls!(TrustDomain);
text_impls!(SpiffeId);

#[cfg(test)]
#[path = "id_tests.rs"]
mod tests;
