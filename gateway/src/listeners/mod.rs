//! The listeners: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. The public ones never ask for client authentication, that of
//! the admin API insists on it.

pub(crate) mod acme;
pub(crate) mod client;
mod connection;
pub(crate) mod endpoint_identity;
pub(crate) mod peer;
mod progress;
mod proxy_protocol;
pub(crate) mod rate_limit;

use std::{collections::HashMap, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::Router;
use ipnet::IpNet;
use rustls::{ServerConfig, server::Acceptor};
use service_kit::{
    BoxError,
    clock::SharedClock,
    lifecycle::Shutdown,
    tls::{
        ALPN_H2, ALPN_HTTP11, BundleSource, ClientAuth, SvidSource, TlsError, WebCertificate, resolver_server_config,
        server_config, web_server_config,
    },
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

pub use self::acme::AcmeError;
use self::{
    acme::{Acme, challenge},
    client::{ClientAddress, ConnectionsPerClient},
    peer::{Peer, PeerTrust},
};
use crate::{metrics::ListenerMetrics, settings::ServingLimits};

/// How long open requests may take to finish at shutdown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the kernel refused to hand out a connection (for example no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Protocols offered in the handshake.
const ALPN: &[&[u8]] = &[ALPN_H2, ALPN_HTTP11];

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// The address cannot be bound.
    #[error("listener {name} cannot use {address}: {source}; stop what uses it or change {}", bind_key(name))]
    Bind {
        /// `https_web`, `https_spiffe` or `admin`.
        name: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("listener {name}: {source}")]
    Tls {
        /// `https_web`, `https_spiffe` or `admin`.
        name: &'static str,
        /// The cause.
        source: TlsError,
    },
    /// Certificates cannot be ordered.
    #[error("listener https_web: {0}")]
    Acme(#[from] AcmeError),
}

/// The key of a listener's port in the configuration.
fn bind_key(name: &str) -> String {
    match name {
        "admin" => "admin.bind_port".to_owned(),
        public => format!("listeners.{public}.bind_port"),
    }
}

/// Which certificate is presented to whom, and what is served behind it.
pub(crate) struct Certificates {
    default: Choice,
    by_server_name: HashMap<String, Choice>,
    /// For a certificate authority that validates a name.
    challenges: Option<Arc<ServerConfig>>,
}

/// One certificate and the service behind it. Bundles are served behind every certificate, the documents of OIDC behind
/// those of the web only.
#[derive(Clone)]
struct Choice {
    tls: Arc<ServerConfig>,
    router: Router,
    /// What clients are verified with, if they have to present an X509-SVID.
    peers: Option<PeerTrust>,
}

impl Certificates {
    /// One Web PKI certificate, from files that may change, and the handle that tells when it ends.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub(crate) fn files(
        certificate: &Path,
        key: &Path,
        router: Router,
        clock: &SharedClock,
    ) -> Result<(Self, Arc<WebCertificate>), ListenerError> {
        let (tls, handle) = web_server_config(certificate, key, Arc::clone(clock), ALPN)
            .map_err(|source| ListenerError::Tls { name: "https_web", source })?;
        let default = Choice { tls, router, peers: None };
        Ok((Self { default, by_server_name: HashMap::new(), challenges: None }, handle))
    }

    /// One Web PKI certificate, from an ACME certificate authority.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(crate) fn acme(acme: &Acme, router: Router) -> Result<Self, ListenerError> {
        let refused = |source| ListenerError::Tls { name: "https_web", source };
        let tls = resolver_server_config(acme.resolver(), ALPN).map_err(refused)?;
        let challenges = acme.handshake_challenges().map(|challenges| challenges.tls()).transpose().map_err(refused)?;
        let default = Choice { tls, router, peers: None };
        Ok(Self { default, by_server_name: HashMap::new(), challenges })
    }

    /// X509-SVIDs by the TLS server names that select them; the first one answers every other name. `None` without
    /// any.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(crate) fn spiffe(
        identities: &[(Vec<String>, Arc<dyn SvidSource>)],
        router: &Router,
        clock: &SharedClock,
    ) -> Result<Option<Self>, ListenerError> {
        let Some((_, first)) = identities.first() else { return Ok(None) };
        let default = spiffe_choice(first, router, clock)?;
        let mut certificates = Self { default, by_server_name: HashMap::new(), challenges: None };
        certificates.add_spiffe(identities, router, clock)?;
        Ok(Some(certificates))
    }

    /// One X509-SVID, shown to clients that present one of `bundles` themselves.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(crate) fn mutual(
        svid: &Arc<dyn SvidSource>,
        bundles: Arc<dyn BundleSource>,
        router: Router,
        clock: &SharedClock,
    ) -> Result<Self, ListenerError> {
        let peers = PeerTrust { bundles, clock: Arc::clone(clock) };
        let tls = server_config(Arc::clone(svid), &peers.client_auth(), clock, ALPN)
            .map_err(|source| ListenerError::Tls { name: "admin", source })?;
        Ok(Self {
            default: Choice { tls, router, peers: Some(peers) },
            by_server_name: HashMap::new(),
            challenges: None,
        })
    }

    /// Adds X509-SVIDs for the TLS server names that select them.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(crate) fn add_spiffe(
        &mut self,
        identities: &[(Vec<String>, Arc<dyn SvidSource>)],
        router: &Router,
        clock: &SharedClock,
    ) -> Result<(), ListenerError> {
        for (names, svid) in identities {
            let choice = spiffe_choice(svid, router, clock)?;
            for name in names {
                self.by_server_name.entry(name.clone()).or_insert_with(|| choice.clone());
            }
        }
        Ok(())
    }

    fn choose(&self, server_name: Option<&str>) -> &Choice {
        let chosen = server_name.and_then(|name| self.by_server_name.get(&name.to_ascii_lowercase()));
        chosen.unwrap_or(&self.default)
    }
}

fn spiffe_choice(svid: &Arc<dyn SvidSource>, router: &Router, clock: &SharedClock) -> Result<Choice, ListenerError> {
    let tls = server_config(Arc::clone(svid), &ClientAuth::None, clock, ALPN)
        .map_err(|source| ListenerError::Tls { name: "https_spiffe", source })?;
    Ok(Choice { tls, router: router.clone(), peers: None })
}

/// What a listener is made of.
pub(crate) struct ListenerSetup {
    /// `https_web` or `https_spiffe`.
    pub(crate) name: &'static str,
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// What is presented and served.
    pub(crate) certificates: Certificates,
    /// Networks whose PROXY protocol headers are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Limits of its clients.
    pub(crate) limits: ServingLimits,
    /// What it counts.
    pub(crate) metrics: ListenerMetrics,
    /// The clock.
    pub(crate) clock: SharedClock,
}

/// A bound listener.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What its connections have in common.
struct Shared {
    name: &'static str,
    certificates: Certificates,
    trusted_proxies: Vec<IpNet>,
    limits: ServingLimits,
    per_client: Arc<ConnectionsPerClient>,
    metrics: ListenerMetrics,
    clock: SharedClock,
}

impl Listener {
    /// Binds the address. Nothing is accepted before [`Listener::run`].
    ///
    /// # Errors
    /// [`ListenerError::Bind`].
    pub(crate) async fn bind(setup: ListenerSetup) -> Result<Self, ListenerError> {
        let ListenerSetup { name, address, certificates, trusted_proxies, limits, metrics, clock } = setup;
        let bind = async {
            let socket = TcpListener::bind(address).await?;
            let bound = socket.local_addr()?;
            Ok((socket, bound))
        };
        let (socket, bound) = bind.await.map_err(|source| ListenerError::Bind { name, address, source })?;
        tracing::info!(listener = name, address = %bound, "listening");
        let per_client = ConnectionsPerClient::new(limits.max_connections_per_client);
        let shared = Shared { name, certificates, trusted_proxies, limits, per_client, metrics, clock };
        Ok(Self { socket, address: bound, shared: Arc::new(shared) })
    }

    /// `https_web` or `https_spiffe`.
    pub(crate) fn name(&self) -> &'static str {
        self.shared.name
    }

    /// The bound address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until `shutdown`, then lets open requests finish.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let shared = self.shared;
        let slots = Arc::new(Semaphore::new(shared.limits.max_connections.min(Semaphore::MAX_PERMITS)));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.socket, &slots) => accepted,
            };
            match accepted {
                Ok((stream, peer, slot)) => {
                    let connection = Arc::clone(&shared).connection(stream, peer, shutdown.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(listener = shared.name, %error, "connection not accepted");
                    shared.clock.sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(self.socket);
        connections.close();
        tokio::select! {
            () = connections.wait() => {}
            () = shared.clock.sleep(DRAIN_TIMEOUT) => tracing::warn!(listener = shared.name, "open connections cut off"),
        }
        Ok(())
    }
}

impl Shared {
    /// One connection from its first byte to its last.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, shutdown: Shutdown) {
        let _open = self.metrics.open();
        let started = tokio::select! {
            started = self.start(stream, peer) => started,
            () = self.clock.sleep(self.limits.handshake_timeout) => {
                self.metrics.handshake_failed.increment(1);
                return tracing::debug!(listener = self.name, %peer, "handshake took too long");
            }
            () = shutdown.cancelled() => return,
        };
        let Some((accepted, client, _counted)) = started else { return };
        self.metrics.served.increment(1);
        connection::serve(accepted, client, &self.limits, &self.clock, &shutdown).await;
    }

    /// PROXY protocol header, the client's share of connections, TLS handshake; `None` if one of them failed.
    async fn start(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(Accepted, ClientAddress, client::Counted)> {
        let listener = self.name;
        let client = match proxy_protocol::client(&mut stream, peer.ip(), &self.trusted_proxies).await {
            Ok(client) => client,
            Err(error) => {
                self.metrics.proxy_refused.increment(1);
                tracing::debug!(listener, %peer, %error, "connection of a proxy refused");
                return None;
            }
        };
        let Some(counted) = self.per_client.open(client.into()) else {
            self.metrics.refused.increment(1);
            tracing::debug!(listener, client = %client.0, "connection refused: the client has as many as it may");
            return None;
        };
        match self.handshake(stream).await {
            Ok(Some(accepted)) => Some((accepted, client, counted)),
            Ok(None) => {
                self.metrics.acme_validation.increment(1);
                tracing::debug!(listener, client = %client.0, "ACME validation answered");
                None
            }
            Err(error) => {
                self.metrics.handshake_failed.increment(1);
                tracing::debug!(listener, client = %client.0, %error, "TLS handshake failed");
                None
            }
        }
    }

    /// `None` after a handshake that was a certificate authority's validation: it is the whole answer (RFC 8737
    /// section 3).
    async fn handshake(&self, stream: TcpStream) -> io::Result<Option<Accepted>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        if let Some(challenges) = self.certificates.challenges.as_ref().filter(|_| challenge::is_validation(&hello)) {
            start.into_stream(Arc::clone(challenges)).await?.shutdown().await?;
            return Ok(None);
        }
        let choice = self.certificates.choose(hello.server_name());
        let stream = start.into_stream(Arc::clone(&choice.tls)).await?;
        let peer = match &choice.peers {
            None => None,
            Some(peers) => {
                let gone = || io::Error::other("the client's X509-SVID is not good any more");
                Some(peers.peer(stream.get_ref().1).ok_or_else(gone)?)
            }
        };
        Ok(Some(Accepted { stream, router: choice.router.clone(), peer }))
    }
}

/// A connection after its handshake.
struct Accepted {
    stream: TlsStream<TcpStream>,
    router: Router,
    /// The client, if it had to present an X509-SVID.
    peer: Option<Peer>,
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(socket: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}
