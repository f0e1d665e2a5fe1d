//! Answers to challenges while an order is under way: TLS-ALPN-01 (RFC 8737) and HTTP-01 (RFC 8555 section 8.3).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use service_kit::{
    keys::{KeyType, PrivateKey},
    tls::{TlsError, resolver_server_config},
};

use super::{challenge_kind::ChallengeKind, error::AcmeError};

/// The ALPN protocol of TLS-ALPN-01 (RFC 8737 section 6.2).
pub(crate) const ALPN_ACME: &[u8] = b"acme-tls/1";

/// The challenges that are open now. Never holds more than one order has names.
#[derive(Default)]
pub(crate) struct Challenges {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Certificates of TLS-ALPN-01 by DNS name.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// Documents of HTTP-01 by token.
    documents: HashMap<String, String>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

/// One open challenge; answered until dropped.
pub(super) struct Answered {
    challenges: Arc<Challenges>,
    kind: ChallengeKind,
    key: String,
}

impl Drop for Answered {
    fn drop(&mut self) {
        let mut open = self.challenges.open();
        match self.kind {
            ChallengeKind::TlsAlpn01 => drop(open.certificates.remove(&self.key)),
            ChallengeKind::Http01 => drop(open.documents.remove(&self.key)),
        }
    }
}

impl Challenges {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to answer the challenge of `name`.
    pub(super) fn answer(
        self: &Arc<Self>,
        kind: ChallengeKind,
        name: &str,
        token: &str,
        authorization: &KeyAuthorization,
    ) -> Result<Answered, AcmeError> {
        let key = match kind {
            ChallengeKind::TlsAlpn01 => {
                let certified = certificate(name, authorization.digest().as_ref())?;
                self.open().certificates.insert(name.to_owned(), Arc::new(certified));
                name.to_owned()
            }
            ChallengeKind::Http01 => {
                self.open().documents.insert(token.to_owned(), authorization.as_str().to_owned());
                token.to_owned()
            }
        };
        Ok(Answered { challenges: Arc::clone(self), kind, key })
    }

    /// The document of HTTP-01 for a token.
    pub(super) fn document(&self, token: &str) -> Option<String> {
        self.open().documents.get(token).cloned()
    }

    /// TLS for handshakes that ask for `acme-tls/1` and nothing else: the certificate is the answer.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(crate) fn tls(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        resolver_server_config(Arc::new(ChallengeResolver(Arc::clone(self))), &[ALPN_ACME])
    }
}

/// Whether a client offers `acme-tls/1` alone, as a certificate authority that validates does (RFC 8737 section 3).
pub(crate) fn is_validation(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ALPN_ACME) && offered.next().is_none())
}

#[derive(Debug)]
struct ChallengeResolver(Arc<Challenges>);

impl ResolvesServerCert for ChallengeResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        let found = self.0.open().certificates.get(&name).cloned();
        if found.is_none() {
            tracing::debug!(name, "ACME validation refused: no challenge of this name is open here");
        }
        found
    }
}

/// The self-signed certificate of RFC 8737 section 3: the name, and the digest in a critical acmeIdentifier.
fn certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, AcmeError> {
    let unusable = |error: rcgen::Error| AcmeError::Certificate(format!("challenge of `{name}`: {error}"));
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let pair = KeyPair::try_from(key.pkcs8_der().as_slice()).map_err(unusable)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(unusable)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "ACME challenge");
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&pair).map_err(unusable)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key.tls_signing_key()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    #[test]
    fn the_certificate_of_a_challenge_holds_name_and_digest() {
        let digest = [7; 32];
        let made = certificate("a.example", &digest).unwrap();
        let (_, parsed) = X509Certificate::from_der(&made.cert[0]).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(format!("{:?}", names.general_names), "[DNSName(\"a.example\")]");
        let identifier = parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(identifier.critical);
        // OCTET STRING of 32 bytes.
        assert_eq!(identifier.value, [&[4, 32], digest.as_slice()].concat());
    }

    #[test]
    fn a_challenge_is_answered_until_its_end() {
        let challenges = Arc::new(Challenges::default());
        challenges.open().documents.insert("token".into(), "document".into());
        let answered =
            Answered { challenges: Arc::clone(&challenges), kind: ChallengeKind::Http01, key: "token".into() };
        assert_eq!(challenges.document("token").as_deref(), Some("document"));
        assert_eq!(challenges.document("other"), None);
        drop(answered);
        assert_eq!(challenges.document("token"), None);
    }
}
