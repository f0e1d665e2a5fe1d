//! HTTP to the gateway: over its Unix socket, or over mTLS to its admin listener.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use federation_specs::id::SpiffeId;
use gateway::api::Problem;
use http::request::Builder;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use service_kit::clock::SystemClock;
use service_kit::tls::{self, ALPN_HTTP11, BundleCell, PeerPolicy, SvidCell, spiffe_client_config};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::identity::Identity;
use crate::connect::MAX_ANSWER_BYTES;
use crate::failure::{Failure, error_chain, io_reason};
use crate::notation::quote;

/// No answer takes longer: more than the longest refresh of a partner.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How long a connection to the admin listener may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// One gateway. Every call makes its own connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    place: Place,
}

/// Where the gateway is.
#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Listener { address: String, name: ServerName<'static>, tls: Arc<ClientConfig> },
}

/// What HTTP goes over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Client {
    /// The gateway behind a socket.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { place: Place::Socket(socket) }
    }

    /// The gateway behind an admin listener that proves to be `server`.
    pub(super) fn over_tls(address: &str, server: &SpiffeId, identity: Identity) -> Result<Self, Failure> {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']).to_owned();
        // Only the form of the name counts: the server proves its SPIFFE ID.
        let name = ServerName::try_from(host)
            .map_err(|_| Failure::new(format!("{} is no address; write host:port", quote(address))))?;
        let bundles = Arc::new(BundleCell::new(identity.bundles));
        let svid = Arc::new(SvidCell::holding(identity.svid));
        let expected = PeerPolicy::Exactly(server.clone());
        let tls = spiffe_client_config(bundles, Some(svid), expected, SystemClock::shared(), &[ALPN_HTTP11]);
        let tls = tls.map_err(|error| Failure::chain(&error))?;
        Ok(Self { place: Place::Listener { address: address.to_owned(), name, tls } })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let (address, name, tls) = match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| unreachable(path, &error))?;
                return Ok(Box::new(stream));
            }
            Place::Listener { address, name, tls } => (address, name, tls),
        };
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await
        };
        let failed = |reason: String| Failure::new(format!("no gateway answers on {}: {reason}", quote(address)));
        match tokio::time::timeout(CONNECT_LIMIT, connect).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => {
                Err(failed(tls::refusal(&error).map_or_else(|| error_chain(&error), |reason| reason.to_string())))
            }
            Err(_) => Err(failed(format!("it took longer than {} s", CONNECT_LIMIT.as_secs()))),
        }
    }

    /// `GET`, the answer as JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.call(request(Method::GET, path), None).await?.body())
    }

    /// `GET`, the answer as JSON and its entity tag.
    pub(super) async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<(T, HeaderValue), Failure> {
        let answer = self.call(request(Method::GET, path), None).await?;
        let tag = answer.headers().get(header::ETAG).cloned();
        let tag = tag.ok_or_else(|| Failure::new("the gateway's answer has no ETag; is it of the same version?"))?;
        Ok((read(answer.body())?, tag))
    }

    /// `GET`, the answer as it is.
    pub(super) async fn get_bytes(&self, path: &str) -> Result<Bytes, Failure> {
        Ok(self.call(request(Method::GET, path), None).await?.into_body())
    }

    /// `POST` of JSON, the answer as JSON.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        read(self.call(request(Method::POST, path), Some(json(body)?)).await?.body())
    }

    /// As [`Client::post`], if the resource is still as `tag` says.
    pub(super) async fn post_if<T: DeserializeOwned>(
        &self,
        path: &str,
        tag: &HeaderValue,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = request(Method::POST, path).header(header::IF_MATCH, tag);
        read(self.call(request, Some(json(body)?)).await?.body())
    }

    /// `PUT` of JSON under a condition, the answer as JSON.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        (name, value): (HeaderName, HeaderValue),
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = request(Method::PUT, path).header(name, value);
        read(self.call(request, Some(json(body)?)).await?.body())
    }

    /// `DELETE`, the answer as JSON.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.call(request(Method::DELETE, path), None).await?.body())
    }

    async fn call(&self, request: Builder, body: Option<Bytes>) -> Result<Response<Bytes>, Failure> {
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.exchange(request, body)).await;
        answer.unwrap_or_else(|_| {
            let seconds = ANSWER_LIMIT.as_secs();
            Err(Failure::new(format!("the gateway did not answer within {seconds} s; see its log")))
        })
    }

    async fn exchange(&self, mut request: Builder, body: Option<Bytes>) -> Result<Response<Bytes>, Failure> {
        let stream = self.connect().await?;
        let broken = |error: &hyper::Error| {
            let text = error_chain(error);
            match text.contains("received fatal alert") {
                // With TLS 1.3 the refusal of a client arrives after the handshake.
                true => Failure::new(format!("the gateway refuses this X509-SVID: {text}")).remedy(
                    "Is it current, and is its trust domain served there or among admin.partner_trust_domains?",
                ),
                false => Failure::new(format!("the gateway's answer broke off: {text}")),
            }
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let connection = tokio::spawn(connection);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| Failure::new(format!("cannot make the request: {error}")))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        connection.abort();
        let body = body.map_err(|error| Failure::new(format!("the gateway's answer broke off: {error}")))?.to_bytes();
        if head.status.is_success() {
            Ok(Response::from_parts(head, body))
        } else {
            Err(problem_of(head.status, &body))
        }
    }
}

fn request(method: Method, path: &str) -> Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "localhost")
}

fn json(body: &impl Serialize) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| Failure::new(format!("cannot make the request: {error}")));
    body.map(Bytes::from)
}

/// `?name=value`, or nothing if there is no value.
pub(super) fn query(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    let mut query = format!("?{name}=");
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
            other => query.push_str(&format!("%{other:02X}")),
        }
    }
    query
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    let shown = quote(&socket.display().to_string());
    Failure::new(format!("no gateway answers on {shown}: {}", io_reason(error)))
        .remedy("Is the gateway running, and is -socketPath its socket_path? (`entente gateway run`)")
}

/// What the gateway says is wrong.
fn problem_of(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) if problem.detail.is_empty() => Failure::new(problem.title),
        Ok(problem) => Failure::new(problem.detail),
        Err(_) => Failure::new(format!("the gateway answered {status}")),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(format!("the gateway's answer is not understood ({error}); is it of the same version?"))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// A gateway that gives one answer and hands back the request.
    async fn one_answer(socket: &Path, answer: &'static str) -> tokio::task::JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        })
    }

    #[tokio::test]
    async fn a_problem_is_told_in_the_gateways_words() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 66\r\n\r\n\
                      {\"status\":404,\"title\":\"not found\",\"detail\":\"no such relationship\"}\n";
        let served = one_answer(&socket, answer).await;
        let failure = Client::new(socket).get::<serde_json::Value>("/v1/relationships/a.example").await.unwrap_err();
        assert_eq!(failure.text(), "no such relationship");
        assert!(served.await.unwrap().starts_with("GET /v1/relationships/a.example HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_body_is_sent_as_json() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let served = one_answer(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let answer: serde_json::Value = Client::new(socket).post("/v1/x", &serde_json::json!({"a": 1})).await.unwrap();
        assert_eq!(answer, serde_json::json!({}));
        let request = served.await.unwrap();
        assert!(request.contains("content-type: application/json\r\n") && request.ends_with("{\"a\":1}"), "{request}");
    }

    #[tokio::test]
    async fn a_condition_and_a_reason_are_sent_along() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let served = one_answer(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let path = format!("/v1/x{}", query("why", "für & 100%"));
        let _: serde_json::Value =
            Client::new(socket).put(&path, (header::IF_NONE_MATCH, HeaderValue::from_static("*")), &1).await.unwrap();
        let request = served.await.unwrap();
        assert!(request.starts_with("PUT /v1/x?why=f%C3%BCr%20%26%20100%25 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("if-none-match: *\r\n"), "{request}");
        assert_eq!(query("why", ""), "");
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let failure = Client::new("/run/example/nosuch.sock".into()).get_bytes("/").await.unwrap_err();
        assert_eq!(failure.text(), "no gateway answers on \"/run/example/nosuch.sock\": no such file or directory");
    }
}
