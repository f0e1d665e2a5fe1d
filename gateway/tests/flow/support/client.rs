//! Clients of the gateway: of its admin socket and of its public listeners.

use std::{path::PathBuf, sync::Arc};

use federation_specs::bundle::BundleSet;
use gateway::api::Problem;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use service_kit::{
    clock::SystemClock,
    tls::{BundleCell, PeerPolicy, WebRoots, spiffe_client_config, web_client_config},
};
use tokio::net::{TcpStream, UnixStream};

use super::Setup;

/// The admin API over its Unix socket.
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.try_get(path).await.unwrap()
    }

    pub async fn try_get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Request::get(path).body(String::new()).unwrap()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Problem> {
        let body = serde_json::to_string(body).unwrap();
        self.call(Request::post(path).body(body).unwrap()).await
    }

    async fn call<T: DeserializeOwned>(&self, request: Request<String>) -> Result<T, Problem> {
        let response = self.send(request).await;
        let status = response.status();
        if status.is_success() {
            return Ok(serde_json::from_slice(response.body()).unwrap());
        }
        assert_eq!(response.headers()["content-type"], gateway::api::PROBLEM_MEDIA_TYPE);
        Err(serde_json::from_slice(response.body()).unwrap())
    }

    pub async fn send(&self, mut request: Request<String>) -> Response<Vec<u8>> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        let response = sender.send_request(request).await.unwrap();
        collect(response).await
    }
}

async fn collect(response: Response<hyper::body::Incoming>) -> Response<Vec<u8>> {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX).await.unwrap();
    Response::from_parts(parts, bytes.to_vec())
}

/// One HTTP/1.1 connection to a public listener, kept open.
pub struct Connection {
    sender: hyper::client::conn::http1::SendRequest<String>,
    pub peer: Vec<u8>,
    pub version: rustls::ProtocolVersion,
}

impl Connection {
    pub async fn open(address: std::net::SocketAddr, config: &Arc<ClientConfig>) -> Result<Self, std::io::Error> {
        Self::open_to(address, address.ip().into(), config).await
    }

    /// With a TLS server name.
    pub async fn open_as(
        address: std::net::SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<Self, std::io::Error> {
        Self::open_to(address, name.to_owned().try_into().unwrap(), config).await
    }

    async fn open_to(
        address: std::net::SocketAddr,
        name: rustls_pki_types::ServerName<'static>,
        config: &Arc<ClientConfig>,
    ) -> Result<Self, std::io::Error> {
        let mut config = (**config).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await?;
        let state = stream.get_ref().1;
        let peer = state.peer_certificates().unwrap()[0].to_vec();
        let version = state.protocol_version().unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Ok(Self { sender, peer, version })
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
        self.send_to("anything.example", method, path, headers).await
    }

    /// Whether the other side has ended it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request with a body; an error when the connection does not carry it.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response<Vec<u8>>, hyper::Error> {
        let mut request = Request::builder().method(method).uri(path).header("host", "anything.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(body.to_owned()).unwrap()).await?;
        Ok(collect(response).await)
    }

    pub async fn send_to(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        collect(response).await
    }
}

/// TLS that trusts the setup's trust domain alone and expects the SPIFFE ID `id`.
pub fn spiffe_client(setup: &Setup, id: &str) -> Arc<ClientConfig> {
    let mut bundles = BundleSet::new();
    bundles.insert(Arc::new(setup.issuer.state().own.clone()));
    let expected = PeerPolicy::Exactly(id.parse().unwrap());
    spiffe_client_config(Arc::new(BundleCell::new(bundles)), None, expected, SystemClock::shared(), &[b"http/1.1"])
        .unwrap()
}

/// TLS that trusts the setup's web authority alone.
pub fn web_client(setup: &Setup) -> Arc<ClientConfig> {
    let roots = WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    web_client_config(&roots, SystemClock::shared(), &[b"http/1.1"]).unwrap()
}
