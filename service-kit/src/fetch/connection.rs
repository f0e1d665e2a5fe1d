//! One connection to a server: made to an address that was checked, verified each time it is used, speaking HTTP/1.1 or
//! HTTP/2. Over TLS, unless the URL says `http`; which URLs may is the callers' business.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, HandshakeKind,
    pki_types::{CertificateDer, ServerName},
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{
    FetchError, Network,
    address::AddressGuard,
    explain::{Stage, classify},
    proxy,
};
use crate::tls::{self, ServerTrust};

/// How long connecting to one address may take, within the deadline of the fetch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before the next address of a host is tried beside those tried already (RFC 8305 section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// How long looking up a name may take, within half of the deadline.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest life of a connection: after it names are looked up again.
const MAX_AGE: time::Duration = time::Duration::minutes(10);

/// Bytes of a response an HTTP/2 server may send ahead.
const HTTP2_WINDOW: u32 = 256 * 1024;

/// Most bytes of headers of an HTTP/1.1 response.
const HTTP1_BUFFER: usize = 64 * 1024;

/// What a connection is made with.
pub(super) struct Maker<'a> {
    pub(super) network: &'a Network,
    pub(super) guard: &'a AddressGuard,
    pub(super) tls: &'a Arc<ClientConfig>,
    pub(super) trust: &'a ServerTrust,
    pub(super) deadline: Duration,
}

/// An open connection.
pub(super) struct Connection {
    origin: url::Origin,
    /// Who the server is and what it presented; nobody without TLS.
    peer: Option<(ServerName<'static>, Vec<CertificateDer<'static>>)>,
    made_at: OffsetDateTime,
    sender: Sender,
    driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The task that moves the bytes; it ends with the connection.
struct Driver(JoinHandle<Result<(), hyper::Error>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Maker<'_> {
    /// Connects to the server of `url` and has it prove who it is.
    pub(super) async fn connect(&self, url: &Url) -> Result<Connection, FetchError> {
        let (host, port) = place(url)?;
        let stream = match self.network.proxy().filter(|proxy| proxy.serves(&host, port)) {
            Some(proxy) => self.through(proxy, url, &host, port).await?,
            None => {
                let addresses = self.allowed(url, &host).await?;
                let failed = |error: io::Error| FetchError::Connect { url: url.to_string(), reason: error.to_string() };
                self.reach(&addresses, port).await.map_err(failed)?
            }
        };
        let made_at = self.network.clock().now();
        if url.scheme() == "http" {
            let (sender, driver) = speak(stream, false).await.map_err(|error| classify(url, Stage::Http, &error))?;
            return Ok(Connection { origin: url.origin(), peer: None, made_at, sender, driver });
        }
        let name = match &host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned())
                .map_err(|_| FetchError::Url { url: url.to_string(), reason: "its host is no host name" })?,
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        let handshake = TlsConnector::from(Arc::clone(self.tls)).connect(name.clone(), stream);
        let stream = handshake.await.map_err(|error| classify(url, Stage::Handshake, &error))?;
        let (_, session) = stream.get_ref();
        let presented: Vec<_> =
            session.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.trust.check(&presented, &name).map_err(|error| classify(url, Stage::Handshake, &error))?;
        }
        let http2 = session.alpn_protocol() == Some(tls::ALPN_H2);
        let (sender, driver) = speak(stream, http2).await.map_err(|error| classify(url, Stage::Http, &error))?;
        Ok(Connection { origin: url.origin(), peer: Some((name, presented)), made_at, sender, driver })
    }

    /// The addresses of `host` that may be asked.
    async fn allowed(&self, url: &Url, host: &Host<&str>) -> Result<Vec<IpAddr>, FetchError> {
        let addresses = match host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => {
                let failed = |reason: String| FetchError::Lookup { url: url.to_string(), reason };
                tokio::select! {
                    addresses = self.network.names().addresses(name) => {
                        addresses.map_err(|error| failed(error.to_string()))?
                    }
                    () = self.network.clock().sleep(LOOKUP_TIMEOUT.min(self.deadline / 2)) => {
                        return Err(failed("no name server answers".to_owned()));
                    }
                }
            }
        };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.guard.check(address) {
                Ok(()) => allowed.push(address),
                Err(kind) => refused = refused.or(Some((address, kind))),
            }
        }
        match refused {
            Some((address, kind)) if allowed.is_empty() => {
                Err(FetchError::Address { url: url.to_string(), address, kind })
            }
            _ => Ok(allowed),
        }
    }

    /// A connection to the first of these addresses that answers.
    async fn reach(&self, addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
        let clock = self.network.clock();
        let one = |address: IpAddr| async move {
            tokio::select! {
                stream = TcpStream::connect(SocketAddr::new(address, port)) => stream,
                () = clock.sleep(CONNECT_TIMEOUT) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {}", crate::config::HumanDuration(CONNECT_TIMEOUT)),
                )),
            }
        };
        let mut left = addresses.iter().copied();
        let mut tried = FuturesUnordered::new();
        let mut first_error = None;
        tried.extend(left.next().map(one));
        loop {
            tokio::select! {
                Some(outcome) = tried.next() => match outcome {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(stream);
                    }
                    Err(error) => {
                        first_error.get_or_insert(error);
                        tried.extend(left.next().map(one));
                    }
                },
                () = clock.sleep(NEXT_ADDRESS_AFTER), if left.len() > 0 => tried.extend(left.next().map(one)),
                else => return Err(first_error.unwrap_or_else(|| io::Error::other("it has no address"))),
            }
        }
    }

    /// A tunnel to `host:port`. The proxy looks names up itself, so that only addresses in URLs can be checked here.
    async fn through(
        &self,
        proxy: &proxy::Proxy,
        url: &Url,
        host: &Host<&str>,
        port: u16,
    ) -> Result<TcpStream, FetchError> {
        if !matches!(host, Host::Domain(_)) {
            self.allowed(url, host).await?;
        }
        let failed = |reason: String| FetchError::Proxy { url: url.to_string(), proxy: proxy.to_string(), reason };
        let (place, proxy_port) = proxy.place();
        let addresses = match place {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => {
                self.network.names().addresses(name).await.map_err(|error| failed(error.to_string()))?
            }
        };
        let mut stream = self.reach(&addresses, proxy_port).await.map_err(|error| failed(error.to_string()))?;
        proxy.tunnel(&mut stream, host, port).await.map_err(failed)?;
        Ok(stream)
    }
}

/// Host and port of a URL that was checked.
fn place(url: &Url) -> Result<(Host<&str>, u16), FetchError> {
    let place = url.host().zip(url.port_or_known_default());
    place.ok_or_else(|| FetchError::Url { url: url.to_string(), reason: "it names no host" })
}

async fn speak<S>(stream: S, http2: bool) -> Result<(Sender, Driver), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(HTTP2_WINDOW).initial_connection_window_size(HTTP2_WINDOW);
        let (sender, connection) = builder.handshake(stream).await?;
        Ok((Sender::Http2(sender), Driver(tokio::spawn(connection))))
    } else {
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder.max_buf_size(HTTP1_BUFFER).handshake(stream).await?;
        Ok((Sender::Http1(sender), Driver(tokio::spawn(connection))))
    }
}

impl Connection {
    /// Whether it leads to the server of `url`, is not too old, and its server would be trusted now.
    pub(super) fn serves(&self, url: &Url, trust: &ServerTrust, now: OffsetDateTime) -> bool {
        self.origin == url.origin()
            && (self.made_at..self.made_at + MAX_AGE).contains(&now)
            && !self.is_closed()
            && self.peer.as_ref().is_none_or(|(name, presented)| trust.check(presented, name).is_ok())
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends one request to `url`; errors name it as `shown`.
    pub(super) async fn send(
        &mut self,
        (url, shown): (&Url, &Url),
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        let unusable = |reason| FetchError::Url { url: shown.to_string(), reason };
        let target = match &self.sender {
            Sender::Http1(_) => match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            },
            Sender::Http2(_) => url.as_str().split('#').next().unwrap_or_default().to_owned(),
        };
        let request = Request::builder().method(method).uri(target).body(Full::new(body));
        let mut request = request.map_err(|_| unusable("it cannot be asked for"))?;
        *request.headers_mut() = headers;
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                let host = url.authority().parse().map_err(|_| unusable("its host cannot be asked for"))?;
                request.headers_mut().insert(header::HOST, host);
                match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                }
            }
            Sender::Http2(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            },
        };
        match answer {
            Ok(answer) => Ok(answer),
            // Why is known to the task alone.
            Err(error) if error.is_closed() || error.is_canceled() => match (&mut self.driver.0).await {
                Ok(Err(cause)) => Err(classify(shown, Stage::Http, &cause)),
                _ => Err(classify(shown, Stage::Http, &error)),
            },
            Err(error) => Err(classify(shown, Stage::Http, &error)),
        }
    }
}
