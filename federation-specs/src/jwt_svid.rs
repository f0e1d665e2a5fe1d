//! JWT-SVIDs: verifying them as SPIRE's agent does, and laying one out for
//! signing (JWT-SVID standard; SPIRE 1.15).

mod claims;
mod signature;
mod signing;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use time::OffsetDateTime;

pub use signing::{SigningError, SigningInput, raw_ecdsa_from_der, signing_input};

use crate::bundle::BundleSet;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::public_key::JwsAlgorithm;
use crate::strict_json;
use claims::RegisteredClaims;

/// Longest token read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Deepest nesting of claims.
pub const MAX_DEPTH: usize = 32;
/// How far clocks may be apart when `exp`, `nbf` and `iat` are compared.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Why a token does not prove a SPIFFE ID. The texts travel in
/// InvalidArgument of the Workload API and are SPIRE's, spelling included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidError {
    /// Not a JWT in compact form with JSON header and claims.
    #[error("unable to parse JWT token: {0}")]
    Parse(String),
    /// `alg` is none of the nine.
    #[error("unable to parse JWT token: unexpected signature algorithm {0:?}; expected {expected}", expected = expected_algorithms())]
    Algorithm(String),
    /// `typ` is there and neither `JWT` nor `JOSE` (JWT-SVID section 2.3).
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// No `kid`.
    #[error("token header missing key id")]
    MissingKeyId,
    /// No `sub`.
    #[error("token missing subject claim")]
    MissingSubject,
    /// No `exp`.
    #[error("token missing exp claim")]
    MissingExpiry,
    /// `sub` is no SPIFFE ID.
    #[error("token has in invalid subject claim: {0}")]
    Subject(IdError),
    /// `sub` is the ID of a trust domain.
    #[error("token has in invalid subject claim: path is empty")]
    SubjectWithoutPath,
    /// No bundle is held for the subject's trust domain.
    #[error("no keys found for trust domain \"{0}\"")]
    NoBundle(TrustDomain),
    /// The bundle of the subject's trust domain has no such key.
    #[error("public key {key_id:?} not found in trust domain \"{trust_domain}\"")]
    KeyNotFound {
        /// `kid` of the token.
        key_id: String,
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// The signature is not made with the key, or not by that algorithm.
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    /// The wanted audience is not in `aud`.
    #[error("expected audience in [{expected:?}] (audience={audience})", audience = go_list(.audience))]
    Audience {
        /// What was wanted.
        expected: String,
        /// `aud` of the token.
        audience: Vec<String>,
    },
    /// No `aud`, and no audience was wanted in particular (JWT-SVID section 3.2).
    #[error("token missing aud claim")]
    MissingAudience,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)")]
    NotYetValid,
    /// `iat` has not come.
    #[error("go-jose/go-jose/jwt: validation field, token issued in the future (iat)")]
    IssuedInFuture,
}

fn expected_algorithms() -> String {
    go_list(&JwsAlgorithm::ALL.map(|algorithm| algorithm.as_str().to_owned()))
}

fn go_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// A verified JWT-SVID. Only [`verify`] makes one, so holding it proves that
/// an authority of the ID's own trust domain signed the token.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedJwtSvid {
    id: SpiffeId,
    claims: Map<String, Value>,
    audience: Vec<String>,
    expires_at: OffsetDateTime,
    issued_at: Option<OffsetDateTime>,
}

impl VerifiedJwtSvid {
    /// The proven SPIFFE ID (`sub`).
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Every claim as it stands in the token.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// `exp`.
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }

    /// `iat`, if the token has it.
    pub fn issued_at(&self) -> Option<OffsetDateTime> {
        self.issued_at
    }

    /// `aud`, as a list even if the token holds a single text.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }
}

/// Verifies a token for an audience (`None`: any). The trust domain is taken
/// from `sub` and only the bundle held under exactly that name is used.
/// Presence of `kid`, `sub` and `exp` is looked at first, then the signature,
/// then audience and times (SPIRE 1.15).
///
/// # Errors
/// [`JwtSvidError`] naming the rule that is broken.
pub fn verify(
    token: &str,
    audience: Option<&str>,
    bundles: &BundleSet,
    now: OffsetDateTime,
) -> Result<VerifiedJwtSvid, JwtSvidError> {
    let parts = Parts::divide(token)?;
    let header = Header::read(parts.header)?;
    let claims = decode_object(parts.claims, "claims")?;
    let registered = RegisteredClaims::read(&claims)?;

    let subject = registered.subject.filter(|subject| !subject.is_empty()).ok_or(JwtSvidError::MissingSubject)?;
    let expires_at = registered.expires_at.ok_or(JwtSvidError::MissingExpiry)?;
    let id = SpiffeId::parse(&subject).map_err(JwtSvidError::Subject)?;
    if id.path().is_empty() {
        return Err(JwtSvidError::SubjectWithoutPath);
    }

    let trust_domain = id.trust_domain();
    let bundle = bundles.get(trust_domain).ok_or_else(|| JwtSvidError::NoBundle(trust_domain.clone()))?;
    let authority = bundle.find_jwt(&header.key_id).ok_or_else(|| JwtSvidError::KeyNotFound {
        key_id: header.key_id.clone(),
        trust_domain: trust_domain.clone(),
    })?;
    let signature = decode(parts.signature, "signature")?;
    if !signature::verify(header.algorithm, authority.public_key(), parts.signed.as_bytes(), &signature) {
        return Err(JwtSvidError::Signature);
    }

    if let Some(expected) = audience
        && !registered.audience.iter().any(|held| held == expected)
    {
        return Err(JwtSvidError::Audience { expected: expected.to_owned(), audience: registered.audience });
    }
    if registered.audience.is_empty() {
        return Err(JwtSvidError::MissingAudience);
    }
    if registered.not_before.is_some_and(|time| now + LEEWAY < time) {
        return Err(JwtSvidError::NotYetValid);
    }
    if now - LEEWAY > expires_at {
        return Err(JwtSvidError::Expired);
    }
    if registered.issued_at.is_some_and(|time| now + LEEWAY < time) {
        return Err(JwtSvidError::IssuedInFuture);
    }
    Ok(VerifiedJwtSvid { id, claims, audience: registered.audience, expires_at, issued_at: registered.issued_at })
}

/// The `sub` of a token as SPIFFE ID, and its `exp`, without verifying
/// anything: for showing a token, or for choosing where to have it verified.
///
/// # Errors
/// [`JwtSvidError`] if the token cannot be read.
pub fn read_unverified(token: &str) -> Result<(SpiffeId, OffsetDateTime), JwtSvidError> {
    let claims = decode_object(Parts::divide(token)?.claims, "claims")?;
    let registered = RegisteredClaims::read(&claims)?;
    let subject = registered.subject.ok_or(JwtSvidError::MissingSubject)?;
    let id = SpiffeId::parse(&subject).map_err(JwtSvidError::Subject)?;
    Ok((id, registered.expires_at.ok_or(JwtSvidError::MissingExpiry)?))
}

/// The three parts of a compact JWS, and the two that are signed.
struct Parts<'t> {
    header: &'t str,
    claims: &'t str,
    signature: &'t str,
    signed: &'t str,
}

impl<'t> Parts<'t> {
    fn divide(token: &'t str) -> Result<Self, JwtSvidError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtSvidError::Parse(format!("token is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let fault = || JwtSvidError::Parse("go-jose/go-jose: compact JWS format must have three parts".to_owned());
        let (signed, signature) = token.rsplit_once('.').ok_or_else(fault)?;
        let (header, claims) = signed.split_once('.').ok_or_else(fault)?;
        if claims.contains('.') {
            return Err(fault());
        }
        Ok(Self { header, claims, signature, signed })
    }
}

fn decode(part: &str, name: &str) -> Result<Vec<u8>, JwtSvidError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|error| JwtSvidError::Parse(format!("{name} is not base64url: {error}")))
}

fn decode_object(part: &str, name: &str) -> Result<Map<String, Value>, JwtSvidError> {
    strict_json::object_from_slice(&decode(part, name)?, MAX_DEPTH)
        .map_err(|error| JwtSvidError::Parse(format!("{name} is not acceptable JSON: {error}")))
}

struct Header {
    algorithm: JwsAlgorithm,
    key_id: String,
}

impl Header {
    fn read(part: &str) -> Result<Self, JwtSvidError> {
        let members = decode_object(part, "header")?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let name = text("alg").unwrap_or_default();
        let algorithm = name.parse().map_err(|_| JwtSvidError::Algorithm(name.to_owned()))?;
        if members.contains_key("crit") {
            return Err(JwtSvidError::Parse("header has critical members; none are supported".to_owned()));
        }
        if members.contains_key("typ") && !matches!(text("typ"), Some("JWT" | "JOSE")) {
            return Err(JwtSvidError::Type);
        }
        let key_id = text("kid").filter(|id| !id.is_empty()).ok_or(JwtSvidError::MissingKeyId)?.to_owned();
        Ok(Self { algorithm, key_id })
    }
}

#[cfg(test)]
mod tests;
