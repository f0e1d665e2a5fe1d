use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use federation_specs::id::SpiffeId;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    test_pki::{TestCa, bundles},
    tls::{BundleCell, ClientAuth, PeerPolicy, SvidCell, WebRoots},
};

const LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(5), max_body_bytes: 1000 };
pub(super) const ENDPOINT: &str = "spiffe://example.org/gateway";

/// Answers each connection with the bytes the handler makes from the request, then closes it.
pub(super) async fn server(config: Arc<ServerConfig>, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, answer) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&answer));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut buffer = [0; 1024];
                    let count = stream.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return;
                    }
                    request.extend_from_slice(&buffer[..count]);
                }
                let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let end = head.find("\r\n\r\n").unwrap() + 4 + length.map_or(0, |length| length.parse().unwrap());
                while request.len() < end {
                    request.push(stream.read_u8().await.unwrap());
                }
                let answer = answer(&String::from_utf8(request).unwrap());
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    url
}

pub(super) fn spiffe_server(ca: &TestCa) -> Arc<ServerConfig> {
    let svid = Arc::new(SvidCell::holding(ca.svid(ENDPOINT)));
    tls::server_config(svid, &ClientAuth::None, &SystemClock::shared(), &[tls::ALPN_HTTP11]).unwrap()
}

fn fetcher(trust: ServerTrust) -> Fetcher {
    Fetcher::new(Network::new(&[], None, SystemClock::shared()), trust, AddressGuard::open()).unwrap()
}

fn spiffe_fetcher(ca: &TestCa, expected: &str) -> Fetcher {
    let bundles = Arc::new(BundleCell::new(bundles(&[ca])));
    let policy = PeerPolicy::Exactly(SpiffeId::parse(expected).unwrap());
    fetcher(ServerTrust::spiffe(bundles, policy, SystemClock::shared()))
}

pub(super) fn ok(headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn fetches_over_spiffe_tls_and_asks_conditionally() {
    let ca = TestCa::new("example.org");
    let url = server(spiffe_server(&ca), |request| {
        if request.to_ascii_lowercase().contains("if-none-match: \"one\"") {
            return b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec();
        }
        ok("etag: \"one\"\r\n", "{}")
    })
    .await;
    let fetcher = spiffe_fetcher(&ca, ENDPOINT);
    let expected = FetchOutcome::Body { bytes: b"{}".to_vec(), etag: Some("\"one\"".into()), url: url.clone() };
    assert_eq!(fetcher.get(&url, None, LIMITS).await.unwrap(), expected);
    assert_eq!(fetcher.get(&url, Some("\"two\""), LIMITS).await.unwrap(), expected);
    assert_eq!(fetcher.get(&url, Some("\"one\""), LIMITS).await.unwrap(), FetchOutcome::NotModified);
}

#[tokio::test]
async fn servers_that_are_not_the_expected_one_are_untrusted() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("example.org"));
    let url = server(spiffe_server(&ca), |_| ok("", "{}")).await;
    for fetcher in [spiffe_fetcher(&ca, "spiffe://example.org/other"), spiffe_fetcher(&other, ENDPOINT)] {
        let error = fetcher.get(&url, None, LIMITS).await.unwrap_err();
        assert!(matches!(error, FetchError::Untrusted { .. }), "{error}");
    }
    let error =
        spiffe_fetcher(&ca, "spiffe://example.org/other").get(&url, None, LIMITS).await.unwrap_err().to_string();
    assert!(error.contains("the peer presents spiffe://example.org/gateway"), "{error}");
}

#[tokio::test]
async fn web_roots_and_names_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (TestCa::new("web.example"), TestCa::new("web.example"));
    let make = |name: &str| {
        let (certificate, key) = (folder.path().join(format!("{name}.crt")), folder.path().join(format!("{name}.key")));
        let (certificate_pem, key_pem) = ca.web_server(name);
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        tls::web_server_config(&certificate, &key, SystemClock::shared(), &[tls::ALPN_HTTP11]).unwrap().0
    };
    let fetcher = |ca: &TestCa| {
        super::tests::fetcher(ServerTrust::web(&WebRoots::Pem(ca.pem().into()), SystemClock::shared()).unwrap())
    };
    let url = server(make("127.0.0.1"), |_| ok("", "{}")).await;
    fetcher(&ca).get(&url, None, LIMITS).await.unwrap();
    assert!(matches!(fetcher(&other).get(&url, None, LIMITS).await, Err(FetchError::Untrusted { .. })));
    let url = server(make("gateway.example"), |_| ok("", "{}")).await;
    let error = fetcher(&ca).get(&url, None, LIMITS).await.unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_within_bounds() {
    let ca = TestCa::new("example.org");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let target = Arc::new(Mutex::new(String::new()));
    let location = Arc::clone(&target);
    let url = server(spiffe_server(&ca), move |request| {
        counter.fetch_add(1, Ordering::SeqCst);
        if request.starts_with("GET /end ") { ok("", "end") } else { redirect(&location.lock().unwrap()) }
    })
    .await;
    let fetcher = spiffe_fetcher(&ca, ENDPOINT);
    let get = async |location: &str| {
        *target.lock().unwrap() = location.to_string();
        asked.store(0, Ordering::SeqCst);
        fetcher.get(&url, None, LIMITS).await
    };

    let Ok(FetchOutcome::Body { bytes, url: end, .. }) = get("/end").await else { panic!("not followed") };
    assert_eq!((bytes.as_slice(), end.path()), (&b"end"[..], "/end"));
    assert!(matches!(get("/again").await, Err(FetchError::TooManyRedirects { .. })));
    assert_eq!(asked.load(Ordering::SeqCst), MAX_REDIRECTS + 1);
    for bad in [
        "http://127.0.0.1/end",
        "https://user:secret@127.0.0.1/",
        "ftp://a/",
        "https://",
        &format!("/{}", "x".repeat(3000)),
    ] {
        let error = get(bad).await.unwrap_err();
        assert!(matches!(error, FetchError::BadRedirect { .. }), "{bad}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    // Elsewhere, the same identity is expected.
    let other = TestCa::new("other.example");
    let elsewhere = server(
        tls::server_config(
            Arc::new(SvidCell::holding(other.svid("spiffe://other.example/gateway"))),
            &ClientAuth::None,
            &SystemClock::shared(),
            &[],
        )
        .unwrap(),
        |_| ok("", "{}"),
    )
    .await;
    let error = get(elsewhere.as_str()).await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.starts_with(&format!("{url} redirects: {elsewhere} was not trusted: ")), "{shown}");
    assert!(matches!(error, FetchError::Redirected { error, .. } if matches!(*error, FetchError::Untrusted { .. })));
}

#[tokio::test]
async fn bodies_are_capped_however_they_are_sent() {
    let ca = TestCa::new("example.org");
    let url = server(spiffe_server(&ca), |request| match request.split(' ').nth(1).unwrap_or_default() {
        "/long" => ok("", &"x".repeat(1001)),
        "/exact" => ok("", &"x".repeat(1000)),
        "/liar" => {
            let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for _ in 0..20 {
                answer.extend(b"64\r\n");
                answer.extend([b'x'; 100]);
                answer.extend(b"\r\n");
            }
            answer
        }
        "/gzip" => ok("content-encoding: gzip\r\n", "x"),
        "/missing" => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "/not-modified" => b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        "/cut" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec(),
        _ => b"nonsense\r\n\r\n".to_vec(),
    })
    .await;
    let fetcher = spiffe_fetcher(&ca, ENDPOINT);
    let get = async |path: &str| fetcher.get(&url.join(path).unwrap(), None, LIMITS).await;
    assert!(matches!(get("/exact").await, Ok(FetchOutcome::Body { bytes, .. }) if bytes.len() == 1000));
    assert!(matches!(get("/long").await, Err(FetchError::TooLarge { limit: 1000, .. })));
    assert!(matches!(get("/liar").await, Err(FetchError::TooLarge { limit: 1000, .. })));
    assert!(matches!(get("/gzip").await, Err(FetchError::Encoding { .. })));
    assert!(matches!(get("/missing").await, Err(FetchError::Status { status: StatusCode::NOT_FOUND, .. })));
    assert!(matches!(get("/not-modified").await, Err(FetchError::Status { .. })), "nobody asked conditionally");
    assert!(matches!(get("/cut").await, Err(FetchError::Transport { .. })));
    assert!(matches!(get("/nonsense").await, Err(FetchError::Transport { .. })));
}

#[tokio::test]
async fn silent_servers_time_out_and_dead_ones_are_named() {
    let ca = TestCa::new("example.org");
    let url = server(spiffe_server(&ca), |_| Vec::new()).await;
    let fetcher = spiffe_fetcher(&ca, ENDPOINT);
    let error =
        fetcher.get(&url, None, FetchLimits { deadline: Duration::from_millis(300), ..LIMITS }).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { .. }) && error.to_string().contains("within 300ms"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = spiffe_fetcher(&ca, ENDPOINT)
        .get(&Url::parse(&format!("https://{free}")).unwrap(), None, LIMITS)
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let http = Url::parse("http://127.0.0.1/").unwrap();
    assert!(matches!(fetcher.get(&http, None, LIMITS).await, Err(FetchError::Url { .. })));
}

/// Answers each connection with these bytes, whatever it says.
async fn raw(answer: Vec<u8>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

#[tokio::test]
async fn what_is_wrong_with_a_handshake_is_said_in_words() {
    let ca = TestCa::new("example.org");
    let fetcher = spiffe_fetcher(&ca, ENDPOINT);
    let alert = |number: u8| vec![0x15, 3, 3, 0, 2, 2, number];
    for (answer, words) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "what listens on that port does not speak TLS"),
        (Vec::new(), "the server closed the connection before its end"),
        (alert(70), "the server speaks neither TLS 1.2 nor TLS 1.3"),
        (alert(116), "the server demands a client certificate"),
        (alert(120), "the server speaks neither HTTP/1.1 nor HTTP/2"),
        (alert(40), "the server refused it (HandshakeFailure)"),
    ] {
        let url = raw(answer).await;
        let error = fetcher.get(&url, None, LIMITS).await.unwrap_err();
        let shown = error.to_string();
        assert!(matches!(error, FetchError::Handshake { .. }), "{shown}");
        assert!(shown.starts_with(&format!("the TLS handshake with {url} failed: {words}")), "{shown}");
    }
}

#[tokio::test]
async fn an_svid_of_a_domain_nobody_asked_for_is_named() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("other.example"));
    let url = server(spiffe_server(&ca), |_| ok("", "{}")).await;
    let bundles = Arc::new(BundleCell::new(bundles(&[&other])));
    let policy = PeerPolicy::Exactly(SpiffeId::parse("spiffe://other.example/gateway").unwrap());
    let fetcher = fetcher(ServerTrust::spiffe(bundles, policy, SystemClock::shared()));
    let error = fetcher.get(&url, None, LIMITS).await.unwrap_err().to_string();
    assert!(error.contains("the peer presents an X509-SVID of example.org, which is not expected here"), "{error}");
}

/// A proxy that asks for a login and connects to `target`, whatever host is asked for; what it was asked.
pub(super) async fn proxy(target: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            log.lock().unwrap().push(head.lines().next().unwrap().to_owned());
            if !head.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n") {
                let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                continue;
            }
            let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut server).await });
        }
    });
    (address, asked)
}

fn through(proxy: Option<Proxy>, ca: &TestCa) -> Fetcher {
    let bundles = Arc::new(BundleCell::new(bundles(&[ca])));
    let policy = PeerPolicy::Exactly(SpiffeId::parse(ENDPOINT).unwrap());
    let trust = ServerTrust::spiffe(bundles, policy, SystemClock::shared());
    Fetcher::new(Network::new(&[], proxy, SystemClock::shared()), trust, AddressGuard::new([])).unwrap()
}

#[tokio::test]
async fn a_proxy_carries_the_connection_and_sees_nothing_of_it() {
    let ca = TestCa::new("example.org");
    let url = server(spiffe_server(&ca), |_| ok("", "{}")).await;
    let target = format!("127.0.0.1:{}", url.port().unwrap()).parse().unwrap();
    let (address, asked) = proxy(target).await;
    let get =
        async |proxy: Proxy, url: &str| through(Some(proxy), &ca).get(&Url::parse(url).unwrap(), None, LIMITS).await;
    let login = |exceptions: &[&'static str]| {
        Proxy::new(&format!("http://user:pass@{address}"), exceptions.iter().copied()).unwrap()
    };
    // The name exists for the proxy alone.
    assert!(matches!(get(login(&[]), "https://partner.invalid:8443/x").await, Ok(FetchOutcome::Body { .. })));
    assert_eq!(*asked.lock().unwrap(), ["CONNECT partner.invalid:8443 HTTP/1.1"]);

    let anonymous = Proxy::new(&format!("http://{address}"), []).unwrap();
    let error = get(anonymous, "https://partner.invalid/").await.unwrap_err().to_string();
    let expected =
        format!("cannot connect to https://partner.invalid/ through the proxy http://{address}: it asks for");
    assert!(error.starts_with(&expected), "{error}");

    // Addresses in URLs are checked although the proxy would connect to them.
    let asked_before = asked.lock().unwrap().len();
    let error = get(login(&[]), "https://10.0.0.1/").await.unwrap_err();
    assert!(matches!(error, FetchError::Address { kind: AddressKind::Private, .. }), "{error}");
    // Exceptions and this machine go directly, to where nobody is asked.
    for url in ["https://localhost/", "https://127.0.0.1/", "https://[::1]/"] {
        let error = get(login(&[]), url).await.unwrap_err();
        assert!(matches!(error, FetchError::Address { kind: AddressKind::Loopback, .. }), "{error}");
    }
    let error = get(login(&["invalid"]), "https://partner.invalid/").await.unwrap_err();
    assert!(matches!(error, FetchError::Lookup { .. }), "{error}");
    assert_eq!(asked.lock().unwrap().len(), asked_before);

    // What is no proxy is named as such.
    let none = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = get(Proxy::new(&format!("http://{none}"), []).unwrap(), "https://partner.invalid/").await.unwrap_err();
    assert!(error.to_string().contains(&format!("through the proxy http://{none}: Connection refused")), "{error}");
}

#[tokio::test]
async fn a_certificate_that_ended_is_noticed_without_a_handshake() {
    let ca = TestCa::new("example.org");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let url = server(spiffe_server(&ca), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        ok("", "{}")
    })
    .await;
    let clock = crate::clock::ManualClock::new(SystemClock.now());
    let shared: crate::clock::SharedClock = Arc::new(clock.clone());
    let bundles = Arc::new(BundleCell::new(bundles(&[&ca])));
    let policy = PeerPolicy::Exactly(SpiffeId::parse(ENDPOINT).unwrap());
    let trust = ServerTrust::spiffe(bundles, policy, Arc::clone(&shared));
    let fetcher = Fetcher::new(Network::new(&[], None, shared), trust, AddressGuard::open()).unwrap();
    fetcher.get(&url, None, LIMITS).await.unwrap();
    clock.advance(Duration::from_secs(100 * 365 * 86_400));
    let error = fetcher.get(&url, None, LIMITS).await.unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
