//! The listener of HTTP-01: plain HTTP, one request a connection, open challenges and nothing else.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use service_kit::{BoxError, clock::SharedClock, lifecycle::Shutdown};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::challenge::Challenges;
use crate::{
    listeners::{ListenerError, client::ConnectionsPerClient, proxy_protocol},
    settings::{AcmeSettings, Http01Settings},
};

const NAME: &str = "https_web.acme.http_01";

/// Connections at a time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// Connections of one client; further ones are closed at once. A certificate authority opens one from each place it
/// looks from.
const MAX_CONNECTIONS_PER_CLIENT: usize = 8;

/// Time for a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Time to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest head of a request, in bytes and fields.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// Pause after the kernel refused to hand out a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The bound listener.
pub(crate) struct Http01Listener {
    socket: TcpListener,
    router: Router,
    trusted_proxies: Vec<IpNet>,
    clock: SharedClock,
}

#[derive(Clone)]
struct Answers {
    challenges: Arc<Challenges>,
    /// Names other requests are sent to https for.
    redirected: Arc<[String]>,
}

impl Http01Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// [`ListenerError::Bind`].
    pub(super) async fn bind(
        settings: &Http01Settings,
        acme: &AcmeSettings,
        challenges: Arc<Challenges>,
        clock: SharedClock,
    ) -> Result<Self, ListenerError> {
        let address = settings.address;
        let socket = TcpListener::bind(address).await;
        let socket = socket.map_err(|source| ListenerError::Bind { name: NAME, address, source })?;
        tracing::info!(listener = NAME, %address, "listening");
        let redirected = if settings.redirect_to_https { acme.domain_names.clone() } else { Vec::new() };
        let router = router(Answers { challenges, redirected: redirected.into() });
        Ok(Self { socket, router, trusted_proxies: settings.trusted_proxies.clone(), clock })
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let serving = Arc::new(Serving {
            router: self.router,
            trusted_proxies: self.trusted_proxies,
            per_client: ConnectionsPerClient::new(MAX_CONNECTIONS_PER_CLIENT),
        });
        let connections = TaskTracker::new();
        loop {
            let accept = async {
                let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((self.socket.accept().await?, slot))
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept => accepted,
            };
            match accepted {
                Ok(((stream, peer), slot)) => {
                    let connection = Arc::clone(&serving).connection(stream, peer);
                    let (clock, shutdown) = (Arc::clone(&self.clock), shutdown.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        tokio::select! {
                            () = connection => {}
                            () = clock.sleep(CONNECTION_TIMEOUT) => {
                                tracing::debug!(listener = NAME, %peer, "connection took too long");
                            }
                            () = shutdown.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(listener = NAME, %error, "connection not accepted");
                    self.clock.sleep(ACCEPT_RETRY).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// What its connections have in common.
struct Serving {
    router: Router,
    trusted_proxies: Vec<IpNet>,
    per_client: Arc<ConnectionsPerClient>,
}

impl Serving {
    async fn connection(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr) {
        let client = match proxy_protocol::client(&mut stream, peer.ip(), &self.trusted_proxies).await {
            Ok(client) => client,
            Err(error) => {
                return tracing::debug!(listener = NAME, %peer, %error, "connection of a proxy refused");
            }
        };
        let Some(_counted) = self.per_client.open(client.into()) else { return };
        let router = self.router.clone();
        let service =
            service_fn(move |request: hyper::Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(listener = NAME, client = %client.0, %error, "connection ended");
        }
    }
}

fn router(answers: Answers) -> Router {
    Router::new().route("/.well-known/acme-challenge/{token}", get(challenge)).fallback(redirect).with_state(answers)
}

async fn challenge(State(answers): State<Answers>, Path(token): Path<String>) -> Response {
    match answers.challenges.document(&token) {
        Some(document) => ([(header::CONTENT_TYPE, "application/octet-stream")], document).into_response(),
        None => (StatusCode::NOT_FOUND, "no such challenge is open here\n").into_response(),
    }
}

/// Only to names of the certificate: what a client writes in `Host` must not choose where others are sent.
async fn redirect(State(answers): State<Answers>, uri: Uri, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match answers.redirected.iter().find(|name| name.eq_ignore_ascii_case(host)) {
        Some(name) => {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let location = format!("https://{name}{path}");
            (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response()
        }
        None => (StatusCode::NOT_FOUND, "nothing is served over plain HTTP\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A running listener that believes the headers of these networks.
    async fn start(
        trusted: &[&str],
        shutdown: &Shutdown,
    ) -> (SocketAddr, tokio::task::JoinHandle<Result<(), BoxError>>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = router(Answers { challenges: Arc::default(), redirected: Arc::default() });
        let trusted_proxies = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let clock = service_kit::clock::SystemClock::shared();
        let listener = Http01Listener { socket, router, trusted_proxies, clock };
        (address, tokio::spawn(listener.run(shutdown.clone())))
    }

    /// Whatever comes back until the connection is closed.
    async fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        read
    }

    #[tokio::test]
    async fn one_client_cannot_take_every_connection() {
        let shutdown = Shutdown::new();
        let (address, running) = start(&[], &shutdown).await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_CLIENT {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        // Closed without an answer.
        assert!(send(address, b"").await.is_empty());
        // Those let in are answered, and their place is free again.
        let mut first = idle.swap_remove(0);
        let mut read = Vec::new();
        first.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        first.read_to_end(&mut read).await.unwrap();
        assert!(read.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&read));
        shutdown.trigger();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_proxy_names_the_client() {
        let shutdown = Shutdown::new();
        let (address, running) = start(&["127.0.0.0/8"], &shutdown).await;
        let request = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n";
        let named = |client: u8| format!("PROXY TCP4 192.0.2.{client} 127.0.0.1 1000 80\r\n");
        let answer = send(address, &[named(1).as_bytes(), request].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
        assert!(send(address, request).await.is_empty(), "a trusted proxy has to send its header");
        // The limit is that of the clients, not of the proxy.
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_CLIENT {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(named(2).as_bytes()).await.unwrap();
            idle.push(stream);
        }
        let answer = send(address, &[named(1).as_bytes(), request].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
        let mut refused = false;
        for _ in 0..100 {
            refused = send(address, &[named(2).as_bytes(), request].concat()).await.is_empty();
            if refused {
                break;
            }
        }
        assert!(refused, "client 2 has as many as it may");
        shutdown.trigger();
        running.await.unwrap().unwrap();

        // Nobody else may name another client.
        let shutdown = Shutdown::new();
        let (address, running) = start(&["10.0.0.0/8"], &shutdown).await;
        let answer = send(address, &[named(1).as_bytes(), request].concat()).await;
        assert!(!answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
        shutdown.trigger();
        running.await.unwrap().unwrap();
    }

    async fn ask(redirected: &[&str], path: &str, host: &str) -> (StatusCode, String) {
        let redirected = redirected.iter().map(|name| (*name).to_owned()).collect();
        let router = router(Answers { challenges: Arc::default(), redirected });
        let request = http::Request::get(path).header("host", host).body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), location.unwrap_or_default())
    }

    #[tokio::test]
    async fn answers_challenges_and_redirects_its_own_names_alone() {
        let none = (StatusCode::NOT_FOUND, String::new());
        assert_eq!(ask(&[], "/.well-known/acme-challenge/x", "a.example").await, none);
        assert_eq!(ask(&[], "/bundle", "a.example").await, none);
        let (status, location) = ask(&["a.example"], "/bundle?x=y", "A.example:80").await;
        assert_eq!((status, location.as_str()), (StatusCode::PERMANENT_REDIRECT, "https://a.example/bundle?x=y"));
        assert_eq!(ask(&["a.example"], "/bundle", "evil.example").await, none);
        assert_eq!(ask(&["a.example"], "/.well-known/acme-challenge/x", "a.example").await, none);
    }
}
