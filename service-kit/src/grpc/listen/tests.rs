use std::{
    convert::Infallible,
    os::unix::net::UnixStream as StdUnixStream,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use federation_specs::id::{SpiffeId, TrustDomain};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tower::service_fn;

use super::*;
use crate::{
    clock::{ManualClock, SystemClock},
    grpc::connect::tls_channel,
    test_pki::{TestCa, bundles},
    tls::{BundleCell, PeerPolicy, SvidCell},
};

const SERVER: &str = "spiffe://example.org/spire/server";
const AGENT: &str = "spiffe://example.org/spire/agent/one";

/// Answers each request with the peer it came from; `/stream` never ends.
async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let who = if let Some(peer) = request.extensions().get::<TcpPeer>() {
        peer.svid.as_ref().map_or_else(|| "nobody".to_string(), |svid| svid.id().to_string())
    } else if let Some(peer) = request.extensions().get::<UnixPeer>() {
        format!("{:?} {}", peer.pid, peer.uid)
    } else {
        "unknown".into()
    };
    let authority = request.uri().authority().map_or("none", |authority| authority.as_str());
    let text = Bytes::from(format!("{who} {authority}"));
    if request.uri().path() == "/stream" {
        let endless = futures::stream::iter([Ok::<_, Infallible>(Frame::data(text))]).chain(futures::stream::pending());
        return Ok(Response::new(Body::new(StreamBody::new(endless))));
    }
    Ok(Response::new(Body::new(Full::new(text))))
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    server: tokio::task::JoinHandle<Result<(), BoxError>>,
}

async fn start_tls(ca: &TestCa, clock: SharedClock) -> Running {
    let listener = bind_tcp("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let client_auth = ClientAuth::Optional {
        bundles: Arc::new(BundleCell::new(bundles(&[ca]))),
        policy: PeerPolicy::MemberOf(TrustDomain::parse("example.org").unwrap()),
    };
    let svid = Arc::new(SvidCell::holding(ca.svid(SERVER)));
    let options = TlsOptions::new(svid, client_auth, &SystemClock::shared()).unwrap();
    let shutdown = Shutdown::new();
    let server = tokio::spawn(serve_tls(listener, options, service_fn(answer), clock, shutdown.clone()));
    Running { address, shutdown, server }
}

fn client_config(ca: &TestCa, svid: Option<&str>, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let svid = svid.map(|id| Arc::new(SvidCell::holding(ca.svid(id))) as Arc<dyn tls::SvidSource>);
    let policy = PeerPolicy::Exactly(SpiffeId::parse(SERVER).unwrap());
    let trust = Arc::new(BundleCell::new(bundles(&[ca])));
    tls::spiffe_client_config(trust, svid, policy, SystemClock::shared(), alpn).unwrap()
}

async fn ask(channel: &mut tonic::transport::Channel) -> Result<String, BoxError> {
    futures::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
    let request = Request::builder().method("POST").uri("/ask").body(Body::empty())?;
    let response = channel.call(request).await?;
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?)
}

#[tokio::test]
async fn tls_peers_are_known_to_the_handlers() {
    let ca = TestCa::new("example.org");
    let running = start_tls(&ca, SystemClock::shared()).await;
    for (svid, expected) in [(None, "nobody"), (Some(AGENT), AGENT)] {
        let mut channel = tls_channel(&running.address.to_string(), client_config(&ca, svid, &[tls::ALPN_H2])).unwrap();
        let said = ask(&mut channel).await.unwrap();
        assert_eq!(said, format!("{expected} {}", running.address));
    }
    running.shutdown.trigger();
    running.server.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn refused_clients_do_not_disturb_others() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("example.org"));
    let running = start_tls(&ca, SystemClock::shared()).await;
    let address = running.address.to_string();

    // No TLS at all, half a handshake, no HTTP/2, an unknown authority's certificate, a server not trusted.
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _half = TcpStream::connect(running.address).await.unwrap();
    let http1 = TlsConnector::from(client_config(&ca, None, &[tls::ALPN_HTTP11]));
    let name = rustls::pki_types::ServerName::try_from("issuer.example").unwrap();
    let stream = TcpStream::connect(running.address).await.unwrap();
    if let Ok(mut stream) = http1.connect(name, stream).await {
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
    }
    let forged = Arc::new(SvidCell::holding(other.svid(AGENT)));
    let trust = Arc::new(BundleCell::new(bundles(&[&ca])));
    let policy = PeerPolicy::Exactly(SpiffeId::parse(SERVER).unwrap());
    let config =
        tls::spiffe_client_config(trust, Some(forged), policy, SystemClock::shared(), &[tls::ALPN_H2]).unwrap();
    let error = ask(&mut tls_channel(&address, config).unwrap()).await.unwrap_err();
    let status = tonic::Status::from_error(error);
    assert!(super::super::connect::is_refused_by_peer(&status), "{status:?}");
    let text = super::super::connect::explain(&status);
    assert!(text.contains("received fatal alert: BadCertificate"), "{text}");
    let error =
        ask(&mut tls_channel(&address, client_config(&other, None, &[tls::ALPN_H2])).unwrap()).await.unwrap_err();
    let status = tonic::Status::from_error(error);
    let text = super::super::connect::explain(&status);
    assert!(text.contains("TLS handshake with 127.0.0.1"), "{text}");

    let mut good = tls_channel(&address, client_config(&ca, Some(AGENT), &[tls::ALPN_H2])).unwrap();
    assert!(ask(&mut good).await.unwrap().starts_with(AGENT));
}

#[tokio::test]
async fn a_stuck_handshake_is_given_up() {
    let ca = TestCa::new("example.org");
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    let running = start_tls(&ca, Arc::new(clock.clone())).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    while clock.next_wake().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    clock.advance(HANDSHAKE_TIMEOUT);
    assert_eq!(silent.read(&mut [0; 10]).await.unwrap(), 0, "the connection is closed");
}

#[tokio::test]
async fn clients_that_do_not_begin_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = bind_unix(&folder.path().join("api.sock"), 0o750, 0o770).unwrap();
    let path = socket.path().to_path_buf();
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    let shutdown = Shutdown::new();
    tokio::spawn(serve_unix(socket, service_fn(answer), Arc::new(clock.clone()), shutdown));
    let mut silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut half = tokio::net::UnixStream::connect(&path).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut begun = tokio::net::UnixStream::connect(&path).await.unwrap();
    begun.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // The server's own settings.
    assert!(begun.read(&mut [0; 64]).await.unwrap() > 0);
    for stream in [&mut silent, &mut half] {
        let closed = async {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        tokio::pin!(closed);
        while futures::poll!(&mut closed).is_pending() {
            clock.advance(PREFACE_TIMEOUT / 4);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut byte = [0; 64];
    let idle = tokio::time::timeout(Duration::from_millis(200), async {
        while begun.read(&mut byte).await.is_ok_and(|read| read > 0) {}
    });
    assert!(idle.await.is_err(), "a client that has begun may be idle");
}

/// The clock stands still, so none of the silent connections is given up.
#[tokio::test]
async fn silent_connections_hold_up_only_their_own_address() {
    let ca = TestCa::new("example.org");
    let running = start_tls(&ca, Arc::new(ManualClock::new(time::OffsetDateTime::UNIX_EPOCH))).await;
    let mut silent = Vec::new();
    for _ in 0..=MAX_HANDSHAKES {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(running.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("issuer.example").unwrap();
    let connector = TlsConnector::from(client_config(&ca, None, &[tls::ALPN_H2]));
    tokio::time::timeout(Duration::from_secs(20), connector.connect(name, stream)).await.unwrap().unwrap();
}

#[tokio::test]
async fn endless_streams_are_cut_after_the_grace_period() {
    let ca = TestCa::new("example.org");
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    let running = start_tls(&ca, Arc::new(clock.clone())).await;
    let mut channel = tls_channel(&running.address.to_string(), client_config(&ca, None, &[tls::ALPN_H2])).unwrap();
    futures::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let request = Request::builder().method("POST").uri("/stream").body(Body::empty()).unwrap();
    let mut body = channel.call(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    running.shutdown.trigger();
    while clock.next_wake().is_none_or(|wake| wake != SHUTDOWN_GRACE) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!running.server.is_finished());
    clock.advance(SHUTDOWN_GRACE);
    running.server.await.unwrap().unwrap();
    assert!(!matches!(body.frame().await, Some(Ok(_))), "the stream broke");
}

struct UnixServer {
    folder: tempfile::TempDir,
    shutdown: Shutdown,
    server: tokio::task::JoinHandle<Result<(), BoxError>>,
}

impl UnixServer {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = bind_unix(&folder.path().join("api.sock"), 0o750, 0o770).unwrap();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(serve_unix(socket, service_fn(answer), SystemClock::shared(), shutdown.clone()));
        Self { folder, shutdown, server }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("api.sock")
    }

    async fn connect(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = tokio::net::UnixStream::connect(self.path()).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn me() -> String {
    format!("Some({}) {}", std::process::id(), rustix::process::geteuid().as_raw())
}

#[tokio::test]
async fn unix_peers_are_known_to_the_handlers() {
    let running = UnixServer::start();
    let mut channel = super::super::connect::unix_channel(&running.path());
    assert_eq!(ask(&mut channel).await.unwrap(), format!("{} localhost", me()));
    running.shutdown.trigger();
    running.server.await.unwrap().unwrap();
    assert!(!running.folder.path().join("api.sock").exists());
}

#[tokio::test]
async fn a_socket_path_as_authority_reaches_the_handler() {
    let running = UnixServer::start();
    let mut stream = tokio::net::UnixStream::connect(running.path()).await.unwrap();
    let mut encoder = loona_hpack::Encoder::new();
    let path = running.path().to_string_lossy().replace('/', "%2F");
    let headers: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/ask"), (b":authority", path.as_bytes())];
    let block = encoder.encode(headers);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(&u32::try_from(block.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend([1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    stream.write_all(&bytes).await.unwrap();
    let mut received = Vec::new();
    let expected = format!("{} localhost", me());
    while !received.windows(expected.len()).any(|window| window == expected.as_bytes()) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the stream was reset: {received:?}");
        received.extend_from_slice(&buffer[..count]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_and_connections_are_served() {
    const STREAMS: usize = 3000;
    const CONNECTIONS: usize = 1500;
    crate::lifecycle::raise_file_limit();
    let running = UnixServer::start();
    let open = |sender: &hyper::client::conn::http2::SendRequest<Full<Bytes>>| {
        let request = Request::builder().method("POST").uri("http://localhost/stream").body(Full::default()).unwrap();
        let response = sender.clone().send_request(request);
        async move {
            let mut body = response.await.unwrap().into_body();
            body.frame().await.unwrap().unwrap();
            body
        }
    };
    let sender = running.connect().await;
    let bodies = futures::future::join_all((0..STREAMS).map(|_| open(&sender))).await;
    assert_eq!(bodies.len(), STREAMS);

    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // Both ends of each connection and its pidfd live in this process.
    let connections = CONNECTIONS.min(usize::try_from(limit / 4).unwrap());
    let served = Arc::new(AtomicUsize::new(0));
    let all = (0..connections).map(|_| async {
        let sender = running.connect().await;
        let body = open(&sender).await;
        served.fetch_add(1, Ordering::Relaxed);
        (sender, body)
    });
    let held = futures::future::join_all(all).await;
    assert_eq!((held.len(), served.load(Ordering::Relaxed)), (connections, connections));
}

#[tokio::test]
async fn clients_that_vanish_do_no_harm() {
    let running = UnixServer::start();
    for _ in 0..200 {
        drop(StdUnixStream::connect(running.path()).unwrap());
    }
    let mut channel = super::super::connect::unix_channel(&running.path());
    assert!(ask(&mut channel).await.unwrap().starts_with("Some("));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = bind_tcp("127.0.0.1", 0).await.unwrap();
    let error = bind_tcp("127.0.0.1", taken.local_addr().unwrap().port()).await.unwrap_err();
    assert!(error.to_string().contains("choose another bind_address or bind_port"), "{error}");
}
