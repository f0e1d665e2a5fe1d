//! The certificate in use: checked before it is taken, given to handshakes, replaced without touching connections.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use service_kit::{clock::SharedClock, keys::PrivateKey};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::error::AcmeError;

/// Most certificates of a chain.
pub(super) const MAX_CHAIN: usize = 16;

/// A refused handshake is logged at most this often, in seconds.
const LOG_INTERVAL: i64 = 60;

/// A certificate that fits its key and the configured names, and has not expired when it was checked.
pub(super) struct Issued {
    certified: Arc<CertifiedKey>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Issued {
    /// Checks the chain (leaf first) against the key, the names and the time.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKey,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, AcmeError> {
        let unusable = |reason: String| AcmeError::Certificate(reason);
        let leaf = chain.first().ok_or_else(|| unusable("the chain is empty".into()))?;
        if chain.len() > MAX_CHAIN {
            return Err(unusable(format!("the chain has more than {MAX_CHAIN} certificates")));
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| unusable(error.to_string()))?;
        if parsed.public_key().raw != key.public_key().spki_der() {
            return Err(unusable("it is for another key".into()));
        }
        let san = parsed.subject_alternative_name().map_err(|error| unusable(error.to_string()))?;
        let given = san.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
        for name in names {
            if !given.iter().any(|one| matches!(one, GeneralName::DNSName(dns) if dns.eq_ignore_ascii_case(name))) {
                return Err(unusable(format!("it is not for `{name}`")));
            }
        }
        let not_before = parsed.validity().not_before.to_datetime();
        let not_after = parsed.validity().not_after.to_datetime();
        if not_after <= now {
            return Err(unusable(format!("it expired at {not_after}; check this machine's clock ({now})")));
        }
        let signer = key.tls_signing_key()?;
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, signer)), not_before, not_after })
    }

    /// The chain, leaf first.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

/// Where handshakes find the certificate.
pub(super) struct CertificateCell {
    current: ArcSwapOption<Issued>,
    clock: SharedClock,
    logged: AtomicI64,
}

impl fmt::Debug for CertificateCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCell").finish_non_exhaustive()
    }
}

impl CertificateCell {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { current: ArcSwapOption::empty(), clock, logged: AtomicI64::new(i64::MIN) }
    }

    /// Handshakes from now on present it.
    pub(super) fn set(&self, issued: Issued) {
        self.current.store(Some(Arc::new(issued)));
    }

    pub(super) fn current(&self) -> Option<Arc<Issued>> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for CertificateCell {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        if let Some(issued) = &*current {
            return Some(Arc::clone(&issued.certified));
        }
        let now = self.clock.now().unix_timestamp();
        let last = self.logged.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= LOG_INTERVAL
            && self.logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::warn!(
                listener = super::LISTENER,
                "handshakes refused: the certificate authority has not given a certificate yet; /ready says why"
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use service_kit::keys::KeyType;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

    fn check(names: &[&str], wanted: &[&str], key: Option<&PrivateKey>, end: OffsetDateTime) -> Result<Issued, String> {
        let own = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pair = KeyPair::try_from(own.pkcs8_der().as_slice()).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = end;
        let chain = vec![params.self_signed(&pair).unwrap().der().clone()];
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        Issued::new(chain, key.unwrap_or(&own), &wanted, NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_was_ordered_is_taken() {
        let end = datetime!(2026-12-22 10:00 UTC);
        let issued = check(&["a.example", "B.example"], &["b.example"], None, end).unwrap();
        assert_eq!(issued.not_after, end);
        let refused = |result: Result<Issued, String>| result.unwrap_err();
        assert!(refused(check(&["a.example"], &["b.example"], None, end)).contains("not for `b.example`"));
        assert!(refused(check(&["a.example"], &["a.example"], None, NOW)).contains("it expired"));
        let other = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert!(refused(check(&["a.example"], &["a.example"], Some(&other), end)).contains("another key"));
        let empty = Issued::new(Vec::new(), &other, &[], NOW).unwrap_err().to_string();
        assert!(empty.contains("empty"), "{empty}");
    }
}
