//! gRPC servers: over TLS with our own accept loop, so that certificates and trust rotate, and over a Unix socket.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use federation_specs::x509_svid::VerifiedX509Svid;
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    transport::{Server, server::Connected},
};
use tower::Service;
use tracing::Instrument;

use super::{
    authority::AuthorityFix,
    connection::{Connection, Preface, TlsStream, UnixStream},
    turns::Turns,
};
pub use super::{
    peer::{TcpPeer, UnixPeer},
    unix_socket::{SocketError, SocketPlace, UnixSocket, bind_unix},
};
use crate::{
    BoxError,
    clock::SharedClock,
    lifecycle::Shutdown,
    tls::{self, ClientAuth, TlsError},
};

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take from the connection to its first words.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS handshakes in progress at once; more connections wait, and for no longer than a handshake may take.
pub const MAX_HANDSHAKES: usize = 1024;

/// TLS handshakes in progress at once with one client address, so that connections that say nothing cost only others
/// from the same place.
pub const MAX_HANDSHAKES_PER_ADDRESS: usize = 256;

/// Open connections of one listener; more wait in the kernel.
pub const MAX_CONNECTIONS: usize = 32_768;

/// Streams open at once on one connection from the network: agents and proxies that share one connection need more
/// than the usual hundred.
pub const MAX_STREAMS_PER_TLS_CONNECTION: u32 = 10_240;

/// Streams open at once on one local connection: a proxy may hold a long-lived stream for each of its thousands of
/// workloads.
pub const MAX_STREAMS_PER_UNIX_CONNECTION: u32 = 65_536;

/// Bytes a local connection may have on the way to the handlers. HTTP/2's flood protection allows half of it as overhead of
/// small unread messages, about 250 bytes each: this is room for 16,000 small requests arriving at once, where the
/// default window breaks the connection at some 2,000.
const UNIX_CONNECTION_WINDOW: u32 = 8 << 20;

/// A TLS connection older than this is asked to go away; calls in progress are not cut.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3 * 60);

/// How long calls in progress may go on after the shutdown has started.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// How often an idle connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// How long the answer to a probe may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after accepting failed for want of a resource, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepted connections waiting for the server.
const ACCEPTED_QUEUE: usize = 64;

/// Accepted Unix socket connections waiting for the server: room for a burst, because a caller that finds the kernel's
/// queue full is turned away at once (EAGAIN) and does not wait as a TCP client would.
const ACCEPTED_UNIX_QUEUE: usize = 8192;

/// Why a TCP listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another bind_address or bind_port, or stop what uses it")]
    Bind {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens a TCP listener; port 0 takes any free port.
///
/// # Errors
/// [`ListenError::Bind`].
pub async fn bind_tcp(address: &str, port: u16) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind((address, port)).await;
    bound.map_err(|source| ListenError::Bind { address: format!("{address}:{port}"), source })
}

/// How a TLS listener proves itself and checks its clients. The same `client_auth` must have made `config`.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Made by [`tls::server_config`] with ALPN `h2`.
    pub config: Arc<ServerConfig>,
    /// How clients are verified.
    pub client_auth: ClientAuth,
}

impl TlsOptions {
    /// The options of a gRPC server that presents `svid`.
    ///
    /// # Errors
    /// As [`tls::server_config`].
    pub fn new(svid: Arc<dyn tls::SvidSource>, client_auth: ClientAuth, clock: &SharedClock) -> Result<Self, TlsError> {
        let config = tls::server_config(svid, &client_auth, clock, &[tls::ALPN_H2])?;
        Ok(Self { config, client_auth })
    }
}

/// Serves gRPC over TLS until the shutdown, then lets calls in progress finish for up to [`SHUTDOWN_GRACE`]. Every
/// request carries a [`TcpPeer`] in its extensions.
///
/// # Errors
/// When the server itself fails; single connections never end it.
pub async fn serve_tls<S, ResBody>(
    listener: TcpListener,
    tls: TlsOptions,
    service: S,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    ResBody: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    let (accepted, incoming) = mpsc::channel(ACCEPTED_QUEUE);
    let accept = TlsAccept {
        acceptor: TlsAcceptor::from(Arc::clone(&tls.config)),
        client_auth: tls.client_auth,
        handshakes: Turns::new(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_ADDRESS),
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        clock: Arc::clone(&clock),
        hard_stop: CancellationToken::new(),
    };
    let hard_stop = accept.hard_stop.clone();
    let accepting = accept.run(listener, accepted, shutdown.clone());
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS_PER_TLS_CONNECTION)
        .max_connection_age(MAX_CONNECTION_AGE)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    serve(server, service, incoming, accepting, hard_stop, clock, shutdown).await
}

/// Serves gRPC on a Unix socket until the shutdown, then lets calls in progress finish for up to [`SHUTDOWN_GRACE`].
/// Every request carries a [`UnixPeer`] in its extensions. The socket's file is removed at the end.
///
/// # Errors
/// When the server itself fails; single connections never end it.
pub async fn serve_unix<S, ResBody>(
    socket: UnixSocket,
    service: S,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    ResBody: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    let (accepted, incoming) = mpsc::channel(ACCEPTED_UNIX_QUEUE);
    let hard_stop = CancellationToken::new();
    let accepting = accept_unix(socket, accepted, hard_stop.clone(), Arc::clone(&clock), shutdown.clone());
    // The kernel tells when a local peer is gone; a stopped one may come back.
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS_PER_UNIX_CONNECTION)
        .initial_connection_window_size(UNIX_CONNECTION_WINDOW);
    serve(server, service, incoming, accepting, hard_stop, clock, shutdown).await
}

/// Runs the accept loop beside the server, and ends every connection when the grace period is over.
async fn serve<S, ResBody, IO>(
    server: Server,
    service: S,
    incoming: mpsc::Receiver<Connection<IO>>,
    accepting: impl Future<Output = ()> + Send + 'static,
    hard_stop: CancellationToken,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    ResBody: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    let accepting = tokio::spawn(accepting);
    let _stop = hard_stop.clone().drop_guard();
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, Infallible>);
    let serving = server.serve_with_incoming_shutdown(service, incoming, shutdown.cancelled_owned());
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = async {
            shutdown.cancelled().await;
            clock.sleep(SHUTDOWN_GRACE).await;
        } => {
            tracing::debug!("calls still in progress after the grace period are cut");
            hard_stop.cancel();
            serving.await
        }
    };
    accepting.await?;
    Ok(outcome?)
}

/// Everything the TLS accept loop needs.
struct TlsAccept {
    acceptor: TlsAcceptor,
    client_auth: ClientAuth,
    handshakes: Arc<Turns>,
    connections: Arc<Semaphore>,
    clock: SharedClock,
    hard_stop: CancellationToken,
}

type TlsConnection = Connection<TlsStream>;

impl TlsAccept {
    async fn run(self, listener: TcpListener, accepted: mpsc::Sender<TlsConnection>, shutdown: Shutdown) {
        let this = Arc::new(self);
        let accept_all = async {
            loop {
                // The semaphore is never closed.
                let Ok(connection) = Arc::clone(&this.connections).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, remote)) => {
                        let (this, accepted) = (Arc::clone(&this), accepted.clone());
                        let shutdown = shutdown.cancelled_owned();
                        tokio::spawn(async move {
                            let handshake_done = this.handshake(stream, remote, connection);
                            let io = tokio::select! {
                                io = handshake_done => io,
                                () = shutdown => None,
                            };
                            if let Some(io) = io {
                                let _ = accepted.send(io).await;
                            }
                        });
                    }
                    Err(error) => pause_after(&error, &this.clock).await,
                }
            }
        };
        tokio::select! {
            () = accept_all => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Completes one handshake; `None`, with a line in the log, if it fails or takes too long.
    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<TlsConnection> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%remote, %error, "TCP_NODELAY not set");
        }
        let accepted = async {
            let _turn = self.handshakes.take(remote.ip()).await;
            self.acceptor.accept(stream).await
        };
        // The span tells the log which client a refused certificate came from.
        let accepted = accepted.instrument(tracing::info_span!("handshake", %remote));
        let stream = tokio::select! {
            accepted = accepted => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%remote, %error, "TLS handshake failed");
                    return None;
                }
            },
            () = self.clock.sleep(HANDSHAKE_TIMEOUT) => {
                tracing::debug!(%remote, "TLS handshake took too long");
                return None;
            }
        };
        let (_, connection) = stream.get_ref();
        if connection.alpn_protocol() != Some(tls::ALPN_H2) {
            tracing::debug!(%remote, "client does not speak HTTP/2");
            return None;
        }
        let svid: Option<VerifiedX509Svid> = match tls::verified_peer(connection, &self.client_auth, &self.clock) {
            Ok(svid) => svid,
            Err(error) => {
                tracing::warn!(%remote, reason = %error, "client certificate refused");
                return None;
            }
        };
        let peer = TcpPeer { remote, svid: svid.map(Arc::new) };
        let io = TlsStream { stream, peer };
        let stop = Box::pin(self.hard_stop.clone().cancelled_owned());
        let preface = Some(Preface::before(self.clock.sleep(PREFACE_TIMEOUT)));
        Some(Connection { io, stop, preface, _permit: permit })
    }
}

async fn accept_unix(
    socket: UnixSocket,
    accepted: mpsc::Sender<Connection<AuthorityFix<UnixStream>>>,
    hard_stop: CancellationToken,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept_all = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match socket.listener().accept().await {
                Ok((stream, _)) => match UnixPeer::capture(&stream) {
                    Ok(peer) => {
                        let io = AuthorityFix::new(UnixStream { stream, peer });
                        let stop = Box::pin(hard_stop.clone().cancelled_owned());
                        let preface = Some(Preface::before(clock.sleep(PREFACE_TIMEOUT)));
                        if accepted.send(Connection { io, stop, preface, _permit: permit }).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "credentials of a caller cannot be read"),
                },
                Err(error) => pause_after(&error, &clock).await,
            }
        }
    };
    tokio::select! {
        // Empties the kernel's queue in one go: behind thousands of new streams it would have its turn too late.
        () = tokio::task::unconstrained(accept_all) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Accepting goes on after any error; if the system lacks a resource, after a pause, since it would fail again at once.
async fn pause_after(error: &io::Error, clock: &SharedClock) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection");
    clock.sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests;
