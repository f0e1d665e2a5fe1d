//! The two kinds of authority a bundle holds.

use time::OffsetDateTime;

use super::BundleError;
use crate::certificate::Certificate;
use crate::public_key::{PublicKey, hex};

/// Longest key ID, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 1024;

/// An X.509 authority: exactly one CA certificate, with a key of a kind this
/// program can verify with. Clones share the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Authority {
    certificate: Certificate,
    tainted: bool,
}

impl X509Authority {
    /// Reads exactly one certificate in DER. Empty input and several
    /// certificates in a row are refused: either would break every reader of
    /// the bundle it is put in.
    ///
    /// # Errors
    /// [`BundleError::Certificate`], or [`BundleError::PublicKey`] if nothing
    /// here could verify with its key.
    pub fn from_der(der: &[u8]) -> Result<Self, BundleError> {
        Self::from_certificate(Certificate::from_der(der)?)
    }

    /// Makes an authority of a certificate already read.
    ///
    /// # Errors
    /// [`BundleError::PublicKey`] as [`X509Authority::from_der`].
    pub fn from_certificate(certificate: Certificate) -> Result<Self, BundleError> {
        certificate.public_key()?;
        Ok(Self { certificate, tainted: false })
    }

    /// Marks the authority as tainted or not.
    #[must_use]
    pub fn with_tainted(mut self, tainted: bool) -> Self {
        self.tainted = tainted;
        self
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// Start of the certificate's validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.certificate.not_before()
    }

    /// End of the certificate's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.certificate.not_after()
    }

    /// The subjectKeyIdentifier of the certificate.
    pub fn subject_key_id(&self) -> Option<Vec<u8>> {
        self.certificate.subject_key_id().map(<[u8]>::to_vec)
    }

    /// The subjectKeyIdentifier in lower-case hexadecimal, which names the
    /// authority in the LocalAuthority API; computed from the key if the
    /// certificate has none.
    pub fn key_id_hex(&self) -> String {
        match (self.certificate.subject_key_id(), self.certificate.public_key()) {
            (Some(id), _) => hex(id),
            (None, Ok(key)) => hex(&key.key_id_sha1()),
            (None, Err(_)) => String::new(),
        }
    }

    /// Whether the authority is no longer to be relied on and its SVIDs are
    /// being replaced. It still verifies until it is revoked (SPIRE 1.15, "Taint effects").
    pub fn tainted(&self) -> bool {
        self.tainted
    }
}

/// A JWT (or WIT) authority: a public key found by its key ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    key_id: String,
    public_key: PublicKey,
    expires_at: Option<i64>,
    tainted: bool,
}

impl JwtAuthority {
    /// Joins a key ID (1 to [`MAX_KEY_ID_BYTES`] bytes) and a key.
    /// `expires_at` is in seconds since 1970, if known; zero is the same as
    /// unknown.
    ///
    /// # Errors
    /// [`BundleError::MissingKeyId`], [`BundleError::KeyIdTooLong`].
    pub fn new(
        key_id: impl Into<String>,
        public_key: PublicKey,
        expires_at: Option<i64>,
        tainted: bool,
    ) -> Result<Self, BundleError> {
        let key_id = key_id.into();
        if key_id.is_empty() {
            return Err(BundleError::MissingKeyId);
        }
        if key_id.len() > MAX_KEY_ID_BYTES {
            return Err(BundleError::KeyIdTooLong);
        }
        Ok(Self { key_id, public_key, expires_at: expires_at.filter(|seconds| *seconds != 0), tainted })
    }

    /// Marks the authority as tainted or not.
    #[must_use]
    pub fn with_tainted(mut self, tainted: bool) -> Self {
        self.tainted = tainted;
        self
    }

    /// The `kid` of tokens this authority signs.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// When the key stops signing, seconds since 1970; `None` if not known.
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// As [`X509Authority::tainted`].
    pub fn tainted(&self) -> bool {
        self.tainted
    }
}
