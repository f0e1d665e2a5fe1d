//! The public listeners: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, never asking for client authentication.

mod connection;
pub(crate) mod endpoint_identity;

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use rustls::{ServerConfig, server::Acceptor};
use service_kit::{
    BoxError,
    clock::SharedClock,
    lifecycle::Shutdown,
    tls::{ALPN_H2, ALPN_HTTP11, ClientAuth, SvidSource, TlsError, server_config, web_server_config},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

use crate::settings::WebListener;

/// Connections one listener keeps open; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 8192;

/// Longest time from accepting a connection to the end of its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("listener {name} cannot use {address}: {source}; stop what uses it or change listeners.{name}.bind_port")]
    Bind {
        /// `https_web` or `https_spiffe`.
        name: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("listener {name}: {source}")]
    Tls {
        /// `https_web` or `https_spiffe`.
        name: &'static str,
        /// The cause.
        source: TlsError,
    },
}

/// Which certificate is presented to whom.
pub struct Certificates {
    default: Arc<ServerConfig>,
    by_server_name: HashMap<String, Arc<ServerConfig>>,
}

impl Certificates {
    /// One Web PKI certificate, from files that may change.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn web(listener: &WebListener, clock: &SharedClock) -> Result<Self, ListenerError> {
        let (default, _) =
            web_server_config(&listener.cert_file_path, &listener.key_file_path, Arc::clone(clock), ALPN)
                .map_err(|source| ListenerError::Tls { name: "https_web", source })?;
        Ok(Self { default, by_server_name: HashMap::new() })
    }

    /// X509-SVIDs by the TLS server names that select them; the first one answers every other name. `None` without
    /// any.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn spiffe(
        identities: &[(Vec<String>, Arc<dyn SvidSource>)],
        clock: &SharedClock,
    ) -> Result<Option<Self>, ListenerError> {
        let mut certificates: Option<Self> = None;
        for (names, svid) in identities {
            let config = server_config(Arc::clone(svid), &ClientAuth::None, clock, ALPN)
                .map_err(|source| ListenerError::Tls { name: "https_spiffe", source })?;
            let certificates = certificates
                .get_or_insert_with(|| Self { default: Arc::clone(&config), by_server_name: HashMap::new() });
            for name in names {
                certificates.by_server_name.entry(name.clone()).or_insert_with(|| Arc::clone(&config));
            }
        }
        Ok(certificates)
    }

    fn choose(&self, server_name: Option<&str>) -> Arc<ServerConfig> {
        let chosen = server_name.and_then(|name| self.by_server_name.get(&name.to_ascii_lowercase()));
        Arc::clone(chosen.unwrap_or(&self.default))
    }
}

/// A bound listener.
pub struct Listener {
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    certificates: Arc<Certificates>,
    router: Router,
    clock: SharedClock,
}

impl Listener {
    /// Binds `address`. Nothing is accepted before [`Listener::run`].
    ///
    /// # Errors
    /// [`ListenerError::Bind`].
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        certificates: Certificates,
        router: Router,
        clock: SharedClock,
    ) -> Result<Self, ListenerError> {
        let bind = async {
            let socket = TcpListener::bind(address).await?;
            let bound = socket.local_addr()?;
            Ok((socket, bound))
        };
        let (socket, bound) = bind.await.map_err(|source| ListenerError::Bind { name, address, source })?;
        tracing::info!(listener = name, address = %bound, "listening");
        Ok(Self { name, socket, address: bound, certificates: Arc::new(certificates), router, clock })
    }

    /// `https_web` or `https_spiffe`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until `shutdown`, then lets open requests finish.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.socket, &slots) => accepted,
            };
            let (stream, peer, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "connection not accepted");
                    self.clock.sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let certificates = Arc::clone(&self.certificates);
            let router = self.router.clone();
            let clock = Arc::clone(&self.clock);
            let shutdown = shutdown.clone();
            let listener = self.name;
            connections.spawn(async move {
                let _slot = slot;
                let handshake = handshake(stream, &certificates);
                let stream = tokio::select! {
                    done = handshake => done,
                    () = clock.sleep(HANDSHAKE_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
                    () = shutdown.cancelled() => return,
                };
                match stream {
                    Ok(stream) => connection::serve(stream, router, &clock, &shutdown).await,
                    Err(error) => tracing::debug!(listener, %peer, %error, "TLS handshake failed"),
                }
            });
        }
        drop(self.socket);
        connections.close();
        tokio::select! {
            () = connections.wait() => {}
            () = self.clock.sleep(DRAIN_TIMEOUT) => tracing::warn!(listener = self.name, "open connections cut off"),
        }
        Ok(())
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(socket: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

async fn handshake(stream: TcpStream, certificates: &Certificates) -> io::Result<TlsStream<TcpStream>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = certificates.choose(start.client_hello().server_name());
    start.into_stream(config).await
}
