//! The network of a cloud as a program behind a proxy sees it: the proxy answers for every host itself, under the host's own
//! name, over plain HTTP and over TLS. So nothing in the program has to be told other addresses.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body};
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::support::Setup;

pub struct Internet {
    address: SocketAddr,
    ca_file: PathBuf,
    world: Arc<World>,
}

struct World {
    /// By `http://host` or `https://host`.
    hosts: BTreeMap<String, (Router, Arc<ServerConfig>)>,
    asked: Mutex<Vec<String>>,
}

impl Internet {
    /// A network with these hosts, each `http://host` or `https://host`. Its certificates are those of the setup's web
    /// authority.
    pub async fn start(setup: &Setup, hosts: Vec<(&str, Router)>) -> Self {
        let ca_file = setup.file("internet-ca.pem");
        std::fs::write(&ca_file, setup.web.ca_pem()).unwrap();
        let host = |(origin, router): (&str, Router)| {
            let name = origin.split("//").nth(1).unwrap();
            (origin.to_owned(), (router, setup.web.server_config_for(&[name])))
        };
        let world = Arc::new(World { hosts: hosts.into_iter().map(host).collect(), asked: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&world);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let world = Arc::clone(&accepting);
                tokio::spawn(serve(stream, move |request| Arc::clone(&world).proxy(request)));
            }
        });
        Self { address, ca_file, world }
    }

    /// What makes a program use it.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let proxy = format!("http://{}", self.address);
        [("HTTP_PROXY", proxy.clone()), ("HTTPS_PROXY", proxy), ("SSL_CERT_FILE", self.ca_file.display().to_string())]
    }

    /// Every request so far, without its query.
    pub fn asked(&self) -> Vec<String> {
        self.world.asked.lock().unwrap().clone()
    }
}

async fn serve<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = Arc::new(answer);
    let service = service_fn(move |request| {
        let answer = Arc::clone(&answer);
        async move { Ok::<_, std::convert::Infallible>(answer(request).await) }
    });
    // Clients may leave as they like.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

impl World {
    async fn proxy(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let host = request.uri().host().expect("asked as a proxy").to_owned();
        if request.method() != Method::CONNECT {
            return self.answer(&format!("http://{host}"), request).await;
        }
        let origin = format!("https://{host}");
        let Some((_, tls)) = self.hosts.get(&origin) else { return self.unknown(&origin) };
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        let world = Arc::clone(&self);
        tokio::spawn(async move {
            let stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = move |request| {
                let (world, origin) = (Arc::clone(&world), origin.clone());
                async move { world.answer(&origin, request).await }
            };
            serve(stream, answer).await;
        });
        Response::new(Body::empty())
    }

    async fn answer(&self, origin: &str, request: Request<Incoming>) -> Response<Body> {
        self.asked.lock().unwrap().push(format!("{} {origin}{}", request.method(), request.uri().path()));
        let Some((router, _)) = self.hosts.get(origin) else { return self.unknown(origin) };
        router.clone().oneshot(request.map(Body::new)).await.unwrap()
    }

    fn unknown(&self, origin: &str) -> Response<Body> {
        self.asked.lock().unwrap().push(format!("nobody at {origin}"));
        Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap()
    }
}
