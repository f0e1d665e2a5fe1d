//! Client channels: to a Unix socket, and over TLS configured by the caller.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::tls::{self, TlsError};

/// How long connecting and the TLS handshake may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing was heard for this long is probed by TCP. HTTP/2 pings would do too, but gRPC servers
/// in Go end the connection of a client that pings more than once in five minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Pause between probes that are not answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// So many unanswered probes end the connection.
const KEEPALIVE_PROBES: u32 = 4;

/// Sent bytes that are not acknowledged for this long, in milliseconds, end the connection.
const USER_TIMEOUT_MILLIS: u32 = 30_000;

/// Why a channel could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not a host and port.
    #[error("`{address}` is not a server address; write it as `host:port`")]
    Address {
        /// What was given.
        address: String,
    },
}

/// Why connecting to a socket failed, as [`explain`] tells it.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("socket {} does not answer ({source}); is the service running, and is this its socket?", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot connect to {address} ({source}); is the service running and reachable?")]
    Tcp { address: String, source: io::Error },
    #[error("TLS handshake with {address} failed: {reason}")]
    Tls { address: String, reason: String, source: io::Error },
    #[error("connecting to {address} took longer than {}s", CONNECT_TIMEOUT.as_secs())]
    Timeout { address: String },
}

/// A channel to the gRPC server on a Unix socket. Connects when first used, and again whenever the connection is lost.
pub fn unix_channel(path: &Path) -> Channel {
    let path: Arc<Path> = path.into();
    let connector = tower::service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move {
            let connected = UnixStream::connect(&path).await;
            let stream = connected.map_err(|source| DialError::Unix { path: path.to_path_buf(), source })?;
            Ok::<_, DialError>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// A channel to the gRPC server at `host:port` over TLS. Connects when first used, and again whenever the connection is
/// lost, each time reading the configuration's current SVID and bundles. The configuration must offer ALPN `h2`.
///
/// # Errors
/// [`ConnectError::Address`].
pub fn tls_channel(address: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let error = || ConnectError::Address { address: address.to_string() };
    let (host, port) = split_address(address).ok_or_else(error)?;
    // Channel's own notion of the address only fills `:authority`.
    let uri = Uri::builder().scheme("http").authority(address).path_and_query("/").build().map_err(|_| error())?;
    let target = Arc::new(Target { name: server_name(&host), host, port, address: address.to_string() });
    let connector = TlsConnector::from(config);
    let connector = tower::service_fn(move |_: Uri| {
        let (target, connector) = (Arc::clone(&target), connector.clone());
        async move {
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dial(&target, &connector)).await;
            let stream = dialled.map_err(|_| DialError::Timeout { address: target.address.clone() })??;
            Ok::<_, DialError>(TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from(uri).connect_with_connector_lazy(connector))
}

/// Where to connect to.
struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
    address: String,
}

async fn dial(target: &Target, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, DialError> {
    let tcp_error = |source| DialError::Tcp { address: target.address.clone(), source };
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(tcp_error)?;
    stream.set_nodelay(true).map_err(tcp_error)?;
    notice_dead_peers(&stream).map_err(|error| tcp_error(error.into()))?;
    let connected = connector.connect(target.name.clone(), stream).await;
    connected.map_err(|error| {
        let reason = tls::refusal(&error).map_or_else(|| error.to_string(), |refusal| refusal.to_string());
        DialError::Tls { address: target.address.clone(), reason, source: error }
    })
}

/// Makes the kernel end the connection when the other machine is gone.
fn notice_dead_peers(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MILLIS)
}

fn split_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':'))?,
        None => host,
    };
    if host.is_empty() || (host.contains(':') && !address.starts_with('[')) {
        return None;
    }
    Some((host.to_string(), port.parse().ok().filter(|port| *port != 0)?))
}

/// The name for SNI. SPIFFE peers are not verified by it, so a host that is no DNS name still works, without SNI.
fn server_name(host: &str) -> ServerName<'static> {
    let no_name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    ServerName::try_from(host.to_string()).unwrap_or(no_name)
}

/// The innermost cause a person can act on, for a call that failed before reaching the server; the server's own message
/// otherwise.
pub fn explain(status: &Status) -> String {
    if let Some(dial) = dial_error(status) {
        return dial.to_string();
    }
    if let Some(refusal) = refused_server(status) {
        return refusal.to_string();
    }
    if is_refused_by_peer(status) {
        return format!(
            "the server ended the TLS handshake ({}); is this end's certificate valid there?",
            innermost(status)
        );
    }
    if status.source().is_none() {
        return status.message().to_string();
    }
    let text = innermost(status);
    // The text of rustls advises programmers.
    if text.starts_with("peer closed connection without sending TLS close_notify") {
        return "the server closed the connection; was it stopped or restarted?".into();
    }
    text
}

/// Text of the innermost error a status was made from.
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut current = status.source();
    while let Some(error) = current {
        text = error.to_string();
        current = inner(error);
    }
    text
}

/// The error inside an error, also inside an I/O error, which hides it from `source`.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    io.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
}

fn dial_error(status: &Status) -> Option<&DialError> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(dial) = error.downcast_ref() {
            return Some(dial);
        }
        source = error.source();
    }
    None
}

/// Whether a call failed because no connection could be made.
pub fn is_connect_failure(status: &Status) -> bool {
    dial_error(status).is_some()
}

/// Why this end refused the server's certificate, if a call failed for that.
pub fn refused_server(status: &Status) -> Option<TlsError> {
    status.source().and_then(tls::refusal)
}

/// Whether a call failed because the server was reached and refused this end in the TLS handshake, for example an
/// expired certificate. Under TLS 1.3 that shows only after the handshake looked complete to this end.
pub fn is_refused_by_peer(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        // HTTP/2 keeps only the text of an I/O error, which for an alert begins with these words of rustls.
        if matches!(error.downcast_ref(), Some(rustls::Error::AlertReceived(_)))
            || error.to_string().starts_with("received fatal alert")
        {
            return true;
        }
        source = inner(error);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::Service;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("issuer.example:8081", Some(("issuer.example", 8081))),
            ("127.0.0.1:1", Some(("127.0.0.1", 1))),
            ("[::1]:8081", Some(("::1", 8081))),
            ("::1:8081", None),
            ("host", None),
            (":8081", None),
            ("host:0", None),
            ("host:65536", None),
            ("[host]:1", None),
        ] {
            assert_eq!(split_address(text), expected.map(|(host, port)| (host.to_string(), port)), "{text}");
        }
        assert!(matches!(server_name("under_score.example"), ServerName::DnsName(_)));
        assert!(matches!(server_name("10.0.0.1"), ServerName::IpAddress(_)));
        assert!(matches!(server_name("no name"), ServerName::IpAddress(_)));
    }

    #[tokio::test]
    async fn a_dead_socket_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let mut channel = unix_channel(&path);
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let error = channel.call(http::Request::new(tonic::body::Body::empty())).await.unwrap_err();
        let status = Status::from_error(error.into());
        assert!(is_connect_failure(&status), "{status:?}");
        let text = explain(&status);
        assert!(text.contains("api.sock") && text.contains("is the service running"), "{text}");
    }
}
