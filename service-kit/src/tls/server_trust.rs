//! What a server on the web or a SPIFFE peer is verified with, for clients that come again: each connection is
//! verified with what is known then, also a resumed one, for which TLS itself looks at no certificate.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, NamedGroup,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue, WebPkiServerVerifier,
        danger::ServerCertVerifier,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    BundleSource, PeerPolicy, TlsError, client,
    verifier::{PeerCheck, SpiffeServerVerifier},
    web::ClockTime,
    web_roots::{WebRoots, root_store},
};
use crate::{clock::SharedClock, crypto};

/// How servers prove who they are. Clones share the roots.
#[derive(Clone)]
pub struct ServerTrust {
    verifier: Arc<dyn ServerCertVerifier>,
    clock: SharedClock,
}

impl fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTrust").finish_non_exhaustive()
    }
}

impl ServerTrust {
    /// By host name and a certificate of the web, signed under `roots`.
    ///
    /// # Errors
    /// [`TlsError::Roots`] when the PEM holds no usable CA certificate, [`TlsError::Config`] when the system has no roots.
    pub fn web(roots: &WebRoots, clock: SharedClock) -> Result<Self, TlsError> {
        let provider = crypto::provider();
        let verifier: Arc<dyn ServerCertVerifier> = match roots {
            WebRoots::System => Arc::new(rustls_platform_verifier::Verifier::new(provider)?),
            WebRoots::Pem(pem) => {
                let error = |reason: String| TlsError::Roots { reason };
                let roots = Arc::new(root_store(pem)?);
                let builder = WebPkiServerVerifier::builder_with_provider(roots, provider);
                builder.build().map_err(|cause| error(cause.to_string()))?
            }
        };
        Ok(Self { verifier, clock })
    }

    /// By an X509-SVID that `expected` lets in; host names play no part.
    pub fn spiffe(bundles: Arc<dyn BundleSource>, expected: PeerPolicy, clock: SharedClock) -> Self {
        let check = PeerCheck { bundles, policy: expected, clock: Arc::clone(&clock) };
        Self { verifier: Arc::new(SpiffeServerVerifier { check, provider: crypto::provider() }), clock }
    }

    /// A client that verifies so. It keeps one session of its own, to resume it.
    ///
    /// # Errors
    /// [`TlsError::Config`] when rustls refuses the provider, which is a defect.
    pub(crate) fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let builder =
            ClientConfig::builder_with_details(crypto::provider(), Arc::new(ClockTime(Arc::clone(&self.clock))));
        let builder = builder.with_safe_default_protocol_versions()?.dangerous();
        let config = builder.with_custom_certificate_verifier(Arc::clone(&self.verifier)).with_no_client_auth();
        let mut config = client::finish(config, alpn);
        config.resumption = Resumption::store(Arc::new(OneSession::default()));
        Ok(config)
    }

    /// Verifies once more the certificates a server presented, leaf first, as it would be verified now.
    ///
    /// # Errors
    /// Why it is not trusted any more.
    pub(crate) fn check(&self, presented: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), rustls::Error> {
        let Some((leaf, rest)) = presented.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let seconds = u64::try_from(self.clock.now().unix_timestamp())
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::NotValidYet))?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.verifier.verify_server_cert(leaf, rest, name, &[], now).map(drop)
    }
}

/// The latest session with one server; nobody else's is kept beside it.
#[derive(Default)]
struct OneSession(Mutex<Option<(ServerName<'static>, Kept)>>);

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl fmt::Debug for OneSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneSession")
    }
}

impl OneSession {
    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Kept)) {
        let mut one = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if one.as_ref().is_none_or(|(known, _)| *known != name) {
            *one = Some((name, Kept::default()));
        }
        if let Some((_, kept)) = one.as_mut() {
            change(kept);
        }
    }

    fn of<T>(&self, name: &ServerName<'_>, read: impl FnOnce(&mut Kept) -> Option<T>) -> Option<T> {
        let mut one = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        one.as_mut().filter(|(known, _)| known == name).and_then(|(_, kept)| read(kept))
    }
}

impl ClientSessionStore for OneSession {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.change(server_name, |kept| kept.group = Some(group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.of(server_name, |kept| kept.group)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.change(server_name, |kept| kept.tls12 = Some(value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.of(server_name, |kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.of(server_name, |kept| kept.tls12.take());
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.change(server_name, |kept| kept.tls13 = Some(value));
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.of(server_name, |kept| kept.tls13.take())
    }
}
