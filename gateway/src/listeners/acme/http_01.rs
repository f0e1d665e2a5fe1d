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
use service_kit::{BoxError, clock::SharedClock, lifecycle::Shutdown};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::challenge::Challenges;
use crate::{
    listeners::{
        ListenerError,
        client::{ClientAddress, ConnectionsPerClient},
    },
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
        Ok(Self { socket, router, clock })
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let per_client = ConnectionsPerClient::new(MAX_CONNECTIONS_PER_CLIENT);
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
                    let Some(counted) = per_client.open(ClientAddress(peer.ip()).into()) else { continue };
                    let connection = connection(stream, peer, self.router.clone(), Arc::clone(&self.clock));
                    let shutdown = shutdown.clone();
                    connections.spawn(async move {
                        let _held = (slot, counted);
                        tokio::select! {
                            () = connection => {}
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

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, clock: SharedClock) {
    let service = service_fn(move |request: hyper::Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = serving => if let Err(error) = done {
            tracing::debug!(listener = NAME, %peer, %error, "connection ended");
        },
        () = clock.sleep(CONNECTION_TIMEOUT) => tracing::debug!(listener = NAME, %peer, "connection took too long"),
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
    use super::*;

    #[tokio::test]
    async fn one_client_cannot_take_every_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = router(Answers { challenges: Arc::default(), redirected: Arc::default() });
        let listener = Http01Listener { socket, router, clock: service_kit::clock::SystemClock::shared() };
        let shutdown = Shutdown::new();
        let running = tokio::spawn(listener.run(shutdown.clone()));
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_CLIENT {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut read = Vec::new();
        // Closed without an answer.
        TcpStream::connect(address).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert!(read.is_empty());
        // Those let in are answered, and their place is free again.
        let mut first = idle.swap_remove(0);
        first.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        first.read_to_end(&mut read).await.unwrap();
        assert!(read.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&read));
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
