//! SPIFFE bundles as JWK Sets (SPIFFE Trust Domain and Bundle section 4;
//! SPIRE 1.15). Where SPIRE is stricter than the standard, the standard
//! decides: a key of unknown `use` or `kty` is passed over, it does not spoil
//! the whole bundle.

mod encode;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

pub use encode::{encode, encode_jwks, encode_oidc_jwks, encode_plain_jwks};

use crate::bundle::{Bundle, BundleError, JwtAuthority, X509Authority};
use crate::id::TrustDomain;
use crate::public_key::{PublicKey, PublicKeyError};
use crate::strict_json;

/// Longest bundle document read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 * 1024 * 1024;
/// Most elements of `keys`.
pub const MAX_KEYS: usize = 4096;
/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 16;
/// Bytes shown of a document that is something else.
const BEGINNING_BYTES: usize = 40;

/// Why a document is not a bundle. Nothing of the document is used then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleJsonError {
    /// More than [`MAX_BUNDLE_BYTES`].
    #[error("bundle is longer than {MAX_BUNDLE_BYTES} bytes")]
    TooLong,
    /// Nothing at all.
    #[error("bundle is empty")]
    Empty,
    /// Something other than a JSON object: a web page, PEM, compressed bytes.
    #[error("bundle is not acceptable JSON: it begins with `{beginning}` instead of an object")]
    NotAnObject {
        /// The first bytes, those that are no printable ASCII escaped.
        beginning: String,
    },
    /// Not JSON, a member name twice, or nested deeper than [`MAX_DEPTH`].
    #[error("bundle is not acceptable JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// No member `keys`.
    #[error("bundle has no `keys`; a SPIFFE bundle must have it, empty or not")]
    MissingKeys,
    /// `keys` is not an array of objects.
    #[error("`keys` of the bundle must be an array of objects")]
    KeysType,
    /// More than [`MAX_KEYS`].
    #[error("bundle has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// `spiffe_sequence` or `spiffe_refresh_hint` is no unsigned integer.
    #[error("`{0}` of the bundle must be an integer from 0 to 2^64 - 1")]
    NotAnInteger(&'static str),
    /// An element of `keys` that is meant for a known kind of SVID and is bad.
    #[error("key {index} of the bundle: {reason}")]
    Key {
        /// Position in `keys`, from 0.
        index: usize,
        /// What is wrong.
        reason: KeyError,
    },
}

/// What is wrong with one element of `keys`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// `x5c` is not an array of base64 texts.
    #[error("`x5c` must be an array with one base64 DER certificate")]
    X5c,
    /// The certificate in `x5c` or the key ID is not acceptable.
    #[error(transparent)]
    Authority(#[from] BundleError),
    /// The members do not make a public key.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// The certificate in `x5c` certifies another key than the JWK holds.
    #[error("the certificate in `x5c` is for another key than the JWK")]
    OtherKey,
    /// A JWT or WIT key without `kid`.
    #[error("`kid` is missing or empty; keys that sign tokens must have it")]
    MissingKeyId,
    /// Two keys of a kind have the same `kid` and are not the same key.
    #[error("`kid` {0:?} names two different keys")]
    KeyIdTwice(String),
}

/// A bundle read from a document, and what of it was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// Elements of `keys` that are not used, in order.
    pub skipped: Vec<SkippedKey>,
}

/// An element of `keys` that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Position in `keys`, from 0.
    pub index: usize,
    /// Why.
    pub reason: SkipReason,
}

/// Why an element of `keys` is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// No `use`, or not a text.
    MissingUse,
    /// A `use` that names no kind of SVID known here.
    UnknownUse(String),
    /// No `kty`, or not a text.
    MissingKeyType,
    /// A key type, curve or size not supported here.
    UnsupportedKey(PublicKeyError),
    /// An X.509 entry without certificate (X509-SVID section 6.2).
    NoCertificate,
    /// Further values of an `x5c` whose first value is used (X509-SVID
    /// section 6.2).
    FurtherCertificates(usize),
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "key {}: ", self.index)?;
        match &self.reason {
            SkipReason::MissingUse => formatter.write_str("no `use`"),
            SkipReason::UnknownUse(name) => write!(formatter, "unknown `use` {name:?}"),
            SkipReason::MissingKeyType => formatter.write_str("no `kty`"),
            SkipReason::UnsupportedKey(error) => write!(formatter, "{error}"),
            SkipReason::NoCertificate => formatter.write_str("no certificate in `x5c`"),
            SkipReason::FurtherCertificates(count) => {
                write!(formatter, "{count} further certificates in `x5c` passed over")
            }
        }
    }
}

/// Reads the bundle of `trust_domain`. Which trust domain it is never stands in
/// the document; the caller must know it from where the document came.
///
/// # Errors
/// [`BundleJsonError`].
pub fn parse(trust_domain: &TrustDomain, bytes: &[u8]) -> Result<ParsedBundle, BundleJsonError> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(BundleJsonError::TooLong);
    }
    match bytes.trim_ascii_start() {
        [] => return Err(BundleJsonError::Empty),
        [b'{', ..] => {}
        [..] => {
            let beginning = bytes.get(..BEGINNING_BYTES).unwrap_or(bytes).escape_ascii().to_string();
            return Err(BundleJsonError::NotAnObject { beginning });
        }
    }
    let document = strict_json::object_from_slice(bytes, MAX_DEPTH).map_err(BundleJsonError::Json)?;
    let keys = match document.get("keys") {
        None => return Err(BundleJsonError::MissingKeys),
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(BundleJsonError::KeysType),
    };
    if keys.len() > MAX_KEYS {
        return Err(BundleJsonError::TooManyKeys);
    }

    let mut reader = KeyReader::default();
    for (index, key) in keys.iter().enumerate() {
        let members = key.as_object().ok_or(BundleJsonError::KeysType)?;
        reader.read(index, members).map_err(|reason| BundleJsonError::Key { index, reason })?;
    }
    let refresh_hint = unsigned(&document, "spiffe_refresh_hint")?.map(Duration::from_secs);
    let bundle = Bundle::new(trust_domain.clone())
        .with_x509_authorities(reader.x509)
        .with_jwt_authorities(reader.jwt)
        .with_wit_authorities(reader.wit)
        .with_refresh_hint(refresh_hint)
        .with_sequence(unsigned(&document, "spiffe_sequence")?);
    Ok(ParsedBundle { bundle, skipped: reader.skipped })
}

fn unsigned(document: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BundleJsonError> {
    document.get(name).map(|value| value.as_u64().ok_or(BundleJsonError::NotAnInteger(name))).transpose()
}

#[derive(Default)]
struct KeyReader {
    x509: Vec<X509Authority>,
    jwt: Vec<JwtAuthority>,
    wit: Vec<JwtAuthority>,
    skipped: Vec<SkippedKey>,
}

impl KeyReader {
    fn read(&mut self, index: usize, members: &Map<String, Value>) -> Result<(), KeyError> {
        let Some(name) = members.get("use").and_then(Value::as_str) else {
            self.skip(index, SkipReason::MissingUse);
            return Ok(());
        };
        if !matches!(name, "x509-svid" | "jwt-svid" | "wit-svid") {
            self.skip(index, SkipReason::UnknownUse(name.to_owned()));
            return Ok(());
        }
        if !members.get("kty").is_some_and(Value::is_string) {
            self.skip(index, SkipReason::MissingKeyType);
            return Ok(());
        }
        let key = match PublicKey::from_jwk(members) {
            Ok(key) => key,
            Err(error) if error.is_unsupported() => {
                self.skip(index, SkipReason::UnsupportedKey(error));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match name {
            "x509-svid" => self.x509(index, members, &key),
            "jwt-svid" => push_key(&mut self.jwt, members, key),
            _ => push_key(&mut self.wit, members, key),
        }
    }

    fn skip(&mut self, index: usize, reason: SkipReason) {
        self.skipped.push(SkippedKey { index, reason });
    }

    fn x509(&mut self, index: usize, members: &Map<String, Value>, key: &PublicKey) -> Result<(), KeyError> {
        let values = match members.get("x5c") {
            None => &[][..],
            Some(Value::Array(values)) => values,
            Some(_) => return Err(KeyError::X5c),
        };
        let Some((first, further)) = values.split_first() else {
            self.skip(index, SkipReason::NoCertificate);
            return Ok(());
        };
        let der = STANDARD.decode(first.as_str().ok_or(KeyError::X5c)?).map_err(|_| KeyError::X5c)?;
        let authority = X509Authority::from_der(&der)?;
        if authority.certificate().public_key()? != key {
            return Err(KeyError::OtherKey);
        }
        if !further.is_empty() {
            self.skip(index, SkipReason::FurtherCertificates(further.len()));
        }
        self.x509.push(authority);
        Ok(())
    }
}

fn push_key(keys: &mut Vec<JwtAuthority>, members: &Map<String, Value>, key: PublicKey) -> Result<(), KeyError> {
    let key_id = members.get("kid").and_then(Value::as_str).unwrap_or_default();
    if key_id.is_empty() {
        return Err(KeyError::MissingKeyId);
    }
    if let Some(held) = keys.iter().find(|held| held.key_id() == key_id) {
        return if *held.public_key() == key { Ok(()) } else { Err(KeyError::KeyIdTwice(key_id.to_owned())) };
    }
    keys.push(JwtAuthority::new(key_id, key, None, false)?);
    Ok(())
}

#[cfg(test)]
mod tests;
