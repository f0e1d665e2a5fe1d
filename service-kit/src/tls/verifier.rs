//! rustls verifiers built on the X509-SVID rules.

use std::{fmt, sync::Arc};

use federation_specs::{
    id::SpiffeId,
    x509_svid::{self, VerifiedX509Svid},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{BundleSource, PeerPolicy, TlsError};
use crate::clock::SharedClock;

/// The one check of a SPIFFE peer: its chain against the bundle of its own trust domain, then the policy.
#[derive(Clone)]
pub(super) struct PeerCheck {
    pub(super) bundles: Arc<dyn BundleSource>,
    pub(super) policy: PeerPolicy,
    pub(super) clock: SharedClock,
}

impl fmt::Debug for PeerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCheck").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl PeerCheck {
    /// Proves the peer's identity from the chain it sent, leaf first.
    pub(super) fn verify<C: AsRef<[u8]>>(&self, chain: &[C]) -> Result<VerifiedX509Svid, TlsError> {
        let svid = x509_svid::verify_chain(chain, &self.bundles.bundles(), self.clock.now())?;
        if !self.policy.allows(svid.id()) {
            return Err(TlsError::UnexpectedPeer { actual: svid.id().clone(), expected: self.policy.clone() });
        }
        Ok(svid)
    }

    fn verify_parts(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let chain: Vec<&[u8]> = std::iter::once(leaf).chain(rest).map(AsRef::as_ref).collect();
        self.verify(&chain).map(drop)
    }
}

/// A refusal of a server as rustls wants it, with the reason inside; the server gets `certificate_unknown`.
fn refused(error: TlsError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The reason of a refusal of ours inside an I/O error of a TLS connection, if that is what it was.
pub fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<TlsError> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
            error.downcast_ref()
        {
            return inner.downcast_ref::<TlsError>().cloned();
        }
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        current = io.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Verifies servers by SPIFFE ID; host names play no part.
#[derive(Debug)]
pub(super) struct SpiffeServerVerifier {
    pub(super) check: PeerCheck,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Verifies clients by SPIFFE ID, if they present a certificate at all.
#[derive(Debug)]
pub(super) struct SpiffeClientVerifier {
    pub(super) check: PeerCheck,
    /// Whether a client without a certificate is refused. The issuer lets it in, also under TLS 1.2: attestation and
    /// bundle reads need no identity.
    pub(super) mandatory: bool,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Takes the server at its word if its leaf carries exactly the expected SPIFFE ID. For an explicit insecure bootstrap
/// only: the chain is not verified.
#[derive(Debug)]
pub(super) struct BootstrapServerVerifier {
    pub(super) expected: SpiffeId,
    pub(super) provider: Arc<CryptoProvider>,
}

/// The proof that the peer holds the leaf's key, the same for every verifier here.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check.verify_parts(leaf, rest).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.check.verify_parts(leaf, rest);
        verified.map(|()| ClientCertVerified::assertion()).map_err(|error| {
            // The reason is for the log here. The client gets the alert that SPIRE sends, `bad_certificate`, which
            // rustls derives from this error.
            tracing::warn!(reason = %error, "client certificate refused");
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding)
        })
    }

    handshake_signatures!();
}

impl ServerCertVerifier for BootstrapServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = x509_svid::leaf_spiffe_id(leaf).map_err(|error| refused(error.into()))?;
        if actual != self.expected {
            return Err(refused(TlsError::UnexpectedPeer {
                actual,
                expected: PeerPolicy::Exactly(self.expected.clone()),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}
