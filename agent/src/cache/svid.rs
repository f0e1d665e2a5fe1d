//! X509-SVIDs in the cache.

use std::sync::atomic::{AtomicI64, Ordering};

use federation_specs::{certificate::Certificate, id::SpiffeId, x509_svid};
use service_kit::keys::PrivateKey;
use time::{Duration, OffsetDateTime};

use super::entry::Entry;
use crate::rotation;

/// How far this machine's clock may be behind the issuer's before its certificates are refused, on top of the ten seconds
/// by which the issuer dates them back.
pub const CLOCK_LEEWAY: Duration = Duration::MINUTE;

/// Certificates accepted in one chain.
pub const MAX_CHAIN: usize = 16;

/// Why a signed SVID is not used.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("the issuer sent no certificate")]
    Empty,
    /// More certificates than [`MAX_CHAIN`].
    #[error("the issuer sent {0} certificates, more than {MAX_CHAIN}")]
    TooLong(usize),
    /// A certificate cannot be read.
    #[error("the issuer sent a certificate that cannot be read: {0}")]
    Malformed(String),
    /// The leaf is for another identity.
    #[error("the issuer signed for {signed} instead of {expected}")]
    OtherIdentity {
        /// Identity in the leaf.
        signed: SpiffeId,
        /// Identity asked for.
        expected: SpiffeId,
    },
    /// The leaf holds another key.
    #[error("the issuer signed another key than the one sent")]
    OtherKey,
    /// The leaf is not valid yet.
    #[error(
        "the system clock ({now}) is before the start of the new certificate ({not_before}); set the clock of this machine or of the issuer"
    )]
    ClockBehind {
        /// This machine's time.
        now: OffsetDateTime,
        /// Start of the certificate.
        not_before: OffsetDateTime,
    },
    /// The leaf has expired already.
    #[error(
        "the new certificate ended at {not_after}, before the system clock ({now}); set the clock of this machine or of the issuer"
    )]
    ClockAhead {
        /// This machine's time.
        now: OffsetDateTime,
        /// End of the certificate.
        not_after: OffsetDateTime,
    },
}

/// What the agent needs to know of a certificate chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFacts {
    /// SPIFFE ID of the leaf.
    pub id: SpiffeId,
    /// Start of the leaf's validity.
    pub not_before: OffsetDateTime,
    /// End of the leaf's validity.
    pub not_after: OffsetDateTime,
    /// SubjectPublicKeyInfo of the leaf, DER.
    pub public_key: Vec<u8>,
    /// Key identifiers of the authorities that signed the certificates of the chain, leaf's first.
    pub authority_key_ids: Vec<Vec<u8>>,
}

impl ChainFacts {
    /// Reads a chain, leaf first.
    ///
    /// # Errors
    /// [`SvidError`] for an empty, overlong or malformed chain.
    pub fn read(chain: &[Vec<u8>]) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Empty)?;
        if chain.len() > MAX_CHAIN {
            return Err(SvidError::TooLong(chain.len()));
        }
        let malformed = |error: &dyn std::fmt::Display| SvidError::Malformed(error.to_string());
        let id = x509_svid::leaf_spiffe_id(leaf).map_err(|error| malformed(&error))?;
        let certificates = chain
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| malformed(&error))?;
        let authority_key_ids =
            certificates.iter().filter_map(Certificate::authority_key_id).map(<[u8]>::to_vec).collect();
        let leaf = certificates.first().ok_or(SvidError::Empty)?;
        let public_key = leaf.public_key().map_err(|error| malformed(&error))?.spki_der().to_vec();
        Ok(Self { id, not_before: leaf.not_before(), not_after: leaf.not_after(), public_key, authority_key_ids })
    }

    /// Checks that the clock has reached the leaf's start, give or take [`CLOCK_LEEWAY`].
    ///
    /// # Errors
    /// [`SvidError::ClockBehind`].
    pub fn check_start(&self, now: OffsetDateTime) -> Result<(), SvidError> {
        if now + CLOCK_LEEWAY < self.not_before {
            return Err(SvidError::ClockBehind { now, not_before: self.not_before });
        }
        Ok(())
    }

    /// Checks the leaf against what was asked for and against the clock.
    ///
    /// # Errors
    /// [`SvidError`] naming the difference.
    pub fn check(&self, expected: Option<&SpiffeId>, public_key: &[u8], now: OffsetDateTime) -> Result<(), SvidError> {
        if let Some(expected) = expected
            && self.id != *expected
        {
            return Err(SvidError::OtherIdentity { signed: self.id.clone(), expected: expected.clone() });
        }
        if self.public_key != public_key {
            return Err(SvidError::OtherKey);
        }
        self.check_start(now)?;
        if now >= self.not_after {
            return Err(SvidError::ClockAhead { now, not_after: self.not_after });
        }
        Ok(())
    }
}

/// One X509-SVID held for an entry.
#[derive(Debug)]
pub struct X509Svid {
    /// Certificates in DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, made on this node.
    pub key: PrivateKey,
    /// Facts read from the chain.
    pub facts: ChainFacts,
    /// When it is due for replacement.
    pub rotate_at: OffsetDateTime,
    /// When the issuer signed it, by this node's clock.
    pub signed_at: OffsetDateTime,
    /// Revision of the entry it was signed for.
    pub entry_revision: i64,
    /// Creation time of the entry it was signed for.
    pub entry_created_at: i64,
    last_used: AtomicI64,
}

impl X509Svid {
    /// An SVID as signed for `entry` just now, checked against the entry, the key and the clock.
    ///
    /// # Errors
    /// [`SvidError`] naming the difference.
    pub fn new(entry: &Entry, chain: Vec<Vec<u8>>, key: PrivateKey, now: OffsetDateTime) -> Result<Self, SvidError> {
        let facts = ChainFacts::read(&chain)?;
        facts.check(Some(&entry.spiffe_id), key.public_key().spki_der(), now)?;
        Ok(Self {
            chain,
            key,
            rotate_at: rotation::due(facts.not_before, facts.not_after),
            facts,
            signed_at: now,
            entry_revision: entry.revision_number,
            entry_created_at: entry.created_at,
            last_used: AtomicI64::new(i64::MIN),
        })
    }

    /// Whether it can be used at `now`.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        now < self.facts.not_after
    }

    /// Whether it was signed for the entry as it is now.
    pub fn is_for(&self, entry: &Entry) -> bool {
        self.entry_revision == entry.revision_number
            && self.entry_created_at == entry.created_at
            && self.facts.id == entry.spiffe_id
    }

    /// Remembers that somebody got it at `now`.
    pub fn touch(&self, now: OffsetDateTime) {
        self.last_used.fetch_max(now.unix_timestamp(), Ordering::Relaxed);
    }

    /// When somebody last got it, Unix seconds; `i64::MIN` for never.
    pub fn last_used(&self) -> i64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Takes over the time of last use of the SVID this one replaces.
    pub fn inherit_use(&self, replaced: &Self) {
        self.last_used.fetch_max(replaced.last_used(), Ordering::Relaxed);
    }
}
