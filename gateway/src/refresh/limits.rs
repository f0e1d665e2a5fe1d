//! What no bundle may be, whoever wants it in force.

use std::{collections::BTreeSet, sync::Arc};

use federation_specs::{bundle::Bundle, id::TrustDomain, public_key::KeyKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A kind of key a partner may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// RSA, of at least `min_rsa_bits`.
    Rsa,
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// NIST P-521.
    EcP521,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    /// Every kind this program can verify with.
    pub const ALL: [Self; 5] = [Self::Rsa, Self::EcP256, Self::EcP384, Self::EcP521, Self::Ed25519];

    /// The name used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::EcP521 => "ec-p521",
            Self::Ed25519 => "ed25519",
        }
    }

    fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Rsa(_) => Self::Rsa,
            KeyKind::P256 => Self::EcP256,
            KeyKind::P384 => Self::EcP384,
            KeyKind::P521 => Self::EcP521,
            KeyKind::Ed25519 => Self::Ed25519,
        }
    }
}

/// Limits of what is accepted from partners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptanceLimits {
    /// Most keys in one bundle, X.509 and JWT together.
    pub max_keys: usize,
    /// Allowed kinds of keys.
    pub key_types: BTreeSet<KeyType>,
    /// Smallest RSA modulus in bits.
    pub min_rsa_bits: usize,
}

/// Which rule a bundle breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Too many keys.
    #[error(
        "the partner's bundle has {found} keys, more than the {limit} accepted; ask the partner to remove old ones, or \
         raise refresh.accept.max_keys"
    )]
    TooManyKeys {
        /// Keys in the bundle.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A kind of key that is not allowed.
    #[error(
        "{key} of the partner's bundle is of type {kind}, which is not among refresh.accept.key_types; the partner has \
         to use another type"
    )]
    KeyType {
        /// Which key.
        key: String,
        /// Its type.
        kind: &'static str,
    },
    /// A short RSA key.
    #[error(
        "{key} of the partner's bundle is an RSA key of {bits} bits; at least {limit} are accepted \
         (refresh.accept.min_rsa_bits), so the partner has to use a longer one"
    )]
    ShortRsaKey {
        /// Which key.
        key: String,
        /// Its size.
        bits: usize,
        /// The smallest accepted.
        limit: usize,
    },
    /// No certificate is valid now.
    #[error("none of the partner's {count} X.509 authorities is valid now: {reason}; the partner has to correct it")]
    NoValidRoot {
        /// Number of X.509 authorities.
        count: usize,
        /// What is wrong with them.
        reason: String,
    },
    /// A key that another trust domain uses already, and of which nobody can tell whose it is.
    #[error(
        "{key} of the partner's bundle is also a key of trust domain `{owner}`, and no certificate proves whose it is; \
         held back, the bundle held stays in force. Ask both whose key it is, then approve or reject the bundle"
    )]
    DoubtfulKey {
        /// Which key.
        key: String,
        /// Whose it is as well.
        owner: TrustDomain,
    },
    /// A key that another trust domain uses already, and rightly.
    #[error(
        "{key} of the partner's bundle is also a key of trust domain `{owner}`: whoever holds it could speak for both, so \
         it is refused; each trust domain needs keys of its own"
    )]
    SharedKey {
        /// Which key.
        key: String,
        /// Whose it is as well.
        owner: TrustDomain,
    },
}

/// The public keys of a bundle with their names in messages, DER.
pub fn public_keys(bundle: &Bundle) -> impl Iterator<Item = (String, KeyKind, Vec<u8>)> {
    let x509 = bundle.x509_authorities().iter().filter_map(|authority| {
        let key = authority.certificate().public_key().ok()?;
        Some((format!("X.509 authority {}", authority.key_id_hex()), key.kind(), key.spki_der().to_vec()))
    });
    let jwt = bundle.jwt_authorities().iter().map(|authority| {
        let key = authority.public_key();
        (format!("JWT authority `{}`", authority.key_id()), key.kind(), key.spki_der().to_vec())
    });
    x509.chain(jwt)
}

impl AcceptanceLimits {
    /// Whether the bundle keeps every limit at `now`.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn check(&self, bundle: &Bundle, now: OffsetDateTime) -> Result<(), LimitError> {
        let found = bundle.x509_authorities().len() + bundle.jwt_authorities().len();
        if found > self.max_keys {
            return Err(LimitError::TooManyKeys { found, limit: self.max_keys });
        }
        for (key, kind, _) in public_keys(bundle) {
            if !self.key_types.contains(&KeyType::of(kind)) {
                return Err(LimitError::KeyType { key, kind: KeyType::of(kind).as_str() });
            }
            if let KeyKind::Rsa(bits) = kind
                && bits < self.min_rsa_bits
            {
                return Err(LimitError::ShortRsaKey { key, bits, limit: self.min_rsa_bits });
            }
        }
        valid_root(bundle, now)
    }
}

/// Another trust domain that uses a key already.
#[derive(Debug, Clone)]
pub enum Owner {
    /// One that is served here; its keys are nobody else's.
    Served(TrustDomain),
    /// A partner, with its bundle in force.
    Partner(Arc<Bundle>),
}

/// Whether every key of the bundle may be one of its trust domain. `owner` names another trust domain that uses a key
/// (DER) already.
///
/// Of two partners with one key it belongs to the one that proves it: its root certificate carries the URI
/// `spiffe://<trust domain>` and is signed with that very key. So nobody can keep a partner from its next key by
/// publishing it first.
///
/// # Errors
/// [`LimitError::SharedKey`], [`LimitError::DoubtfulKey`].
pub fn check_owners(bundle: &Bundle, owner: impl Fn(&[u8]) -> Option<Owner>) -> Result<(), LimitError> {
    let mut doubtful = None;
    for (key, _, der) in public_keys(bundle) {
        let other = match owner(&der) {
            None => continue,
            Some(Owner::Served(owner)) => return Err(LimitError::SharedKey { key, owner }),
            Some(Owner::Partner(other)) => other,
        };
        let owner = other.trust_domain().clone();
        match (proves(bundle, &der), proves(&other, &der)) {
            (true, false) => {}
            (false, true) => return Err(LimitError::SharedKey { key, owner }),
            _ => doubtful = doubtful.or(Some(LimitError::DoubtfulKey { key, owner })),
        }
    }
    doubtful.map_or(Ok(()), Err)
}

/// Whether a root certificate of the bundle proves that the key (DER) belongs to the bundle's trust domain.
pub fn proves(bundle: &Bundle, key: &[u8]) -> bool {
    let name = format!("spiffe://{}", bundle.trust_domain());
    bundle.x509_authorities().iter().any(|authority| {
        let certificate = authority.certificate();
        certificate.names().uris.contains(&name)
            && certificate.public_key().is_ok_and(|public| public.spki_der() == key)
            && certificate.is_self_signed()
    })
}

/// Why nobody can be verified with a bundle in force any more: every X.509 authority has expired.
pub fn expired(bundle: &Bundle, now: OffsetDateTime) -> Option<String> {
    let last = bundle.x509_authorities().iter().map(|root| root.not_after()).max()?;
    let shown = last.format(&Rfc3339).unwrap_or_else(|_| last.unix_timestamp().to_string());
    (last < now).then(|| {
        format!(
            "every X.509 authority of the bundle held has expired, the last one at {shown}, so nobody of the partner can \
             be verified; the partner has to publish its present one"
        )
    })
}

fn valid_root(bundle: &Bundle, now: OffsetDateTime) -> Result<(), LimitError> {
    let roots = bundle.x509_authorities();
    let valid = |root: &federation_specs::bundle::X509Authority| root.not_before() <= now && now <= root.not_after();
    if roots.is_empty() || roots.iter().any(valid) {
        return Ok(());
    }
    let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string());
    let next = roots.iter().map(|root| root.not_before()).filter(|start| *start > now).min();
    let last = roots.iter().map(|root| root.not_after()).filter(|end| *end < now).max();
    let reason = match (last, next) {
        (_, Some(next)) => format!("the first becomes valid at {}", text(next)),
        (Some(last), None) => format!("the last one expired at {}", text(last)),
        (None, None) => "their validity ends before it begins".to_owned(),
    };
    Err(LimitError::NoValidRoot { count: roots.len(), reason })
}
