//! A partner's bundle endpoint on real TLS whose behaviour the test sets.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use federation_specs::{bundle::Bundle, bundle_json};
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{HandshakeKind, ServerConfig};
use service_kit::{
    clock::SystemClock,
    tls::{ClientAuth, SvidCell, X509Identity, server_config},
};
use tokio::{net::TcpListener, sync::Notify};
use tokio_rustls::TlsAcceptor;

/// What the partner answers.
#[derive(Clone)]
pub enum Behaviour {
    /// This document, with ETag and conditional requests.
    Document(Vec<u8>),
    /// This document, once the test says so.
    Late(Vec<u8>, Arc<Notify>),
    /// A redirect.
    Redirect(String),
    /// This status.
    Status(u16),
    /// Takes the request and never answers.
    Silent,
    /// Endless body.
    Endless,
    /// No answer at all: the connection is closed after the handshake.
    Hangup,
}

/// A running endpoint.
#[derive(Clone)]
pub struct Partner {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    handshakes: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
    hangs_up: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    not_modified: Arc<AtomicUsize>,
}

impl Partner {
    /// With a certificate of the web.
    pub async fn web(config: Arc<ServerConfig>, behaviour: Behaviour) -> Self {
        Self::start(config, behaviour).await
    }

    /// With an X509-SVID.
    pub async fn spiffe(identity: X509Identity, behaviour: Behaviour) -> Self {
        let cell = Arc::new(SvidCell::holding(identity));
        let config = server_config(cell, &ClientAuth::None, &SystemClock::shared(), &[b"h2", b"http/1.1"]).unwrap();
        Self::start(config, behaviour).await
    }

    async fn start(config: Arc<ServerConfig>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let partner = Self {
            address: listener.local_addr().unwrap(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            handshakes: Arc::default(),
            resumed: Arc::default(),
            hangs_up: Arc::default(),
            requests: Arc::default(),
            not_modified: Arc::default(),
        };
        let accepting = partner.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                let partner = accepting.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    partner.handshakes.fetch_add(1, Ordering::SeqCst);
                    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                        partner.resumed.fetch_add(1, Ordering::SeqCst);
                    }
                    if matches!(partner.behaviour(), Behaviour::Hangup) {
                        return;
                    }
                    let service = service_fn(move |request: Request<Incoming>| {
                        let partner = partner.clone();
                        async move {
                            let mut answer = partner.answer(&request).await;
                            if partner.hangs_up.load(Ordering::SeqCst) {
                                answer
                                    .headers_mut()
                                    .insert(header::CONNECTION, http::HeaderValue::from_static("close"));
                            }
                            Ok::<_, std::convert::Infallible>(answer)
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        partner
    }

    pub fn url(&self) -> String {
        format!("https://{}/bundle", self.address)
    }

    pub fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub fn serve(&self, bundle: &Bundle) {
        self.set(document(bundle));
    }

    /// From now on connections of HTTP/1.1 end after each answer.
    pub fn hang_up_after_answers(&self) {
        self.hangs_up.store(true, Ordering::SeqCst);
    }

    /// TLS handshakes, and how many of them resumed a session.
    pub fn handshakes(&self) -> (usize, usize) {
        (self.handshakes.load(Ordering::SeqCst), self.resumed.load(Ordering::SeqCst))
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn not_modified(&self) -> usize {
        self.not_modified.load(Ordering::SeqCst)
    }

    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        match self.behaviour() {
            Behaviour::Document(bytes) => {
                let digest: u64 = bytes.iter().fold(14_695_981_039_346_656_037, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
                });
                let etag = format!("\"{digest:x}\"");
                if request.headers().get(header::IF_NONE_MATCH).is_some_and(|value| *value == etag) {
                    self.not_modified.fetch_add(1, Ordering::SeqCst);
                    return Response::builder().status(StatusCode::NOT_MODIFIED).body(Body::empty()).unwrap();
                }
                Response::builder().header(header::ETAG, etag).body(Body::from(bytes)).unwrap()
            }
            Behaviour::Late(bytes, go) => {
                go.notified().await;
                Response::new(Body::from(bytes))
            }
            Behaviour::Redirect(location) => {
                Response::builder().status(302).header(header::LOCATION, location).body(Body::empty()).unwrap()
            }
            Behaviour::Status(status) => Response::builder().status(status).body(Body::from("no")).unwrap(),
            Behaviour::Silent | Behaviour::Hangup => std::future::pending().await,
            Behaviour::Endless => {
                let chunks = tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 8192])));
                Response::new(Body::from_stream(chunks))
            }
        }
    }
}

pub fn document(bundle: &Bundle) -> Behaviour {
    Behaviour::Document(bundle_json::encode(bundle))
}
