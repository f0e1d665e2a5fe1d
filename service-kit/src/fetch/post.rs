//! Bounded POST: one request within a deadline, no redirects; of the answer only its status and the beginning of its
//! body are looked at. It goes the same way as a fetch: guard, name servers, proxy.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::ClientConfig;
use time::OffsetDateTime;
use url::{Host, Url};

use super::{
    AddressGuard, FetchError, MAX_URL_BYTES, Network, USER_AGENT,
    connection::{Connection, Maker},
};
use crate::tls::{self, ServerTrust};

/// Most bytes read of an answer's body.
pub const MAX_ANSWER_BYTES: usize = 256;

/// A connection that was not used for so long is not used again: servers close theirs about then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostAnswer {
    /// Its status; redirects are not followed.
    pub status: StatusCode,
    /// How long it asks to wait before the next request, in whole seconds.
    pub retry_after: Option<Duration>,
    /// The beginning of its body as one line of text, without control characters.
    pub beginning: String,
}

/// Posts over https to servers of one trust, or over plain http to this machine, at addresses one guard lets pass.
pub struct Poster {
    network: Network,
    guard: AddressGuard,
    trust: ServerTrust,
    tls: Arc<ClientConfig>,
    deadline: Duration,
    /// The connection of the last exchange, and when that was.
    kept: Option<(Connection, OffsetDateTime)>,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("guard", &self.guard).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Poster {
    /// A client for servers `trust` believes at addresses `guard` lets pass. `deadline` is for a whole exchange.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(
        network: Network,
        trust: ServerTrust,
        guard: AddressGuard,
        deadline: Duration,
    ) -> Result<Self, FetchError> {
        let tls = trust.client_config(&[tls::ALPN_H2, tls::ALPN_HTTP11]);
        let tls = Arc::new(tls.map_err(|error| FetchError::Client(error.into()))?);
        Ok(Self { network, guard, trust, tls, deadline, kept: None })
    }

    /// Posts `body` with `headers` to `url`. A server that closes a connection just then may get it twice.
    ///
    /// # Errors
    /// [`FetchError`] unless the server answered, with whatever status. It shows only scheme, host and port of the URL,
    /// because the path of such URLs is often a secret.
    pub async fn post(&mut self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<PostAnswer, FetchError> {
        let shown = origin(url);
        check_post_url(url).map_err(|reason| FetchError::Url { url: shown.to_string(), reason })?;
        let (clock, deadline) = (Arc::clone(self.network.clock()), self.deadline);
        tokio::select! {
            answer = self.exchange((url, &shown), headers, body) => answer,
            () = clock.sleep(deadline) => Err(FetchError::Timeout { url: shown.to_string(), deadline }),
        }
    }

    async fn exchange(
        &mut self,
        (url, shown): (&Url, &Url),
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<PostAnswer, FetchError> {
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let (connection, response) = self.send((url, shown), headers, body).await?;
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let answer = PostAnswer { status: response.status(), retry_after, beginning: beginning(response).await };
        self.kept = Some((connection, self.network.clock().now()));
        Ok(answer)
    }

    /// Sends a request over the connection kept, or over a new one.
    async fn send(
        &mut self,
        (url, shown): (&Url, &Url),
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Connection, Response<Incoming>), FetchError> {
        let now = self.network.clock().now();
        let kept = self.kept.take().filter(|(_, used)| (*used..*used + IDLE_TIMEOUT).contains(&now));
        if let Some((mut connection, _)) = kept.filter(|(kept, _)| kept.serves(url, &self.trust, now)) {
            match connection.send((url, shown), Method::POST, headers.clone(), body.clone()).await {
                Ok(response) => return Ok((connection, response)),
                Err(error) => tracing::debug!(url = %shown, %error, "connection kept is of no use any more"),
            }
        }
        let maker = Maker {
            network: &self.network,
            guard: &self.guard,
            tls: &self.tls,
            trust: &self.trust,
            deadline: self.deadline,
        };
        let mut connection = maker.connect(shown).await?;
        let response = connection.send((url, shown), Method::POST, headers, body).await?;
        Ok((connection, response))
    }
}

/// Whether something may be posted there: https, or http to this machine.
///
/// # Errors
/// What is wrong with the URL.
pub fn check_post_url(url: &Url) -> Result<(), &'static str> {
    if url.as_str().len() > MAX_URL_BYTES {
        return Err("it is too long");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(url) => {}
        _ => return Err("only https is allowed, and http to 127.0.0.1 or [::1]"),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name or password");
    }
    Ok(())
}

/// Scheme, host and port of a URL: all of it that may be shown where its path may be a secret.
pub fn origin(url: &Url) -> Url {
    let mut origin = url.clone();
    origin.set_path("");
    origin.set_query(None);
    origin.set_fragment(None);
    // Neither fails for a URL that carries them.
    let _ = origin.set_username("");
    let _ = origin.set_password(None);
    origin
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    }
}

async fn beginning(response: Response<Incoming>) -> String {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    // What breaks off after the status changes nothing about it.
    while let Some(Ok(frame)) = body.frame().await {
        let Some(chunk) = frame.data_ref() else { continue };
        bytes.extend_from_slice(chunk.get(..MAX_ANSWER_BYTES - bytes.len()).unwrap_or(chunk));
        if bytes.len() >= MAX_ANSWER_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use federation_specs::id::SpiffeId;
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        clock::{ManualClock, SharedClock, SystemClock},
        fetch::{
            AddressKind, Proxy,
            tests::{ENDPOINT, ok, proxy, server, spiffe_server},
        },
        test_pki::{TestCa, bundles},
        tls::{BundleCell, PeerPolicy},
    };

    fn poster(ca: &TestCa, proxy: Option<Proxy>, allowed: &[&str], clock: SharedClock) -> Poster {
        let policy = PeerPolicy::Exactly(SpiffeId::parse(ENDPOINT).unwrap());
        let trust = ServerTrust::spiffe(Arc::new(BundleCell::new(bundles(&[ca]))), policy, Arc::clone(&clock));
        let guard = AddressGuard::new(allowed.iter().map(|network| network.parse().unwrap()));
        Poster::new(Network::new(&[], proxy, clock), trust, guard, Duration::from_secs(5)).unwrap()
    }

    async fn post(poster: &mut Poster, url: &Url) -> Result<PostAnswer, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-test", HeaderValue::from_static("yes"));
        poster.post(url, headers, Bytes::from_static(b"{\"a\":1}")).await
    }

    #[tokio::test]
    async fn what_is_posted_goes_to_allowed_addresses_and_through_the_proxy() {
        let ca = TestCa::new("example.org");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let url = server(spiffe_server(&ca), move |request| {
            log.lock().unwrap().push(request.to_owned());
            ok("retry-after: 7\r\n", "thank\r\nyou")
        });
        let mut url = url.await;
        let address = format!("127.0.0.1:{}", url.port().unwrap()).parse().unwrap();
        url.set_path("/secret-path");
        let clock = SystemClock::shared();

        let refused = post(&mut poster(&ca, None, &[], Arc::clone(&clock)), &url).await.unwrap_err();
        assert!(matches!(refused, FetchError::Address { kind: AddressKind::Loopback, .. }), "{refused}");
        assert!(!refused.to_string().contains("secret-path"), "{refused}");
        assert!(requests.lock().unwrap().is_empty());

        let answer = post(&mut poster(&ca, None, &["127.0.0.0/8"], Arc::clone(&clock)), &url).await.unwrap();
        let expected = PostAnswer {
            status: StatusCode::OK,
            retry_after: Some(Duration::from_secs(7)),
            beginning: "thank  you".to_owned(),
        };
        assert_eq!(answer, expected);
        let request = requests.lock().unwrap().pop().unwrap();
        assert!(request.starts_with("POST /secret-path HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"a\":1}"));
        for header in ["x-test: yes", "user-agent: entente/", "content-length: 7"] {
            assert!(request.contains(header), "{header}: {request}");
        }

        // The name exists for the proxy alone; addresses in URLs are checked before it is asked.
        let (at, asked) = proxy(address).await;
        let way = || Some(Proxy::new(&format!("http://user:pass@{at}"), []).unwrap());
        let mut poster = poster(&ca, way(), &[], clock);
        let named = Url::parse("https://hooks.invalid:8443/secret-path").unwrap();
        assert_eq!(post(&mut poster, &named).await.unwrap(), expected);
        let refused = post(&mut poster, &Url::parse("https://10.0.0.1/").unwrap()).await.unwrap_err();
        assert!(matches!(refused, FetchError::Address { kind: AddressKind::Private, .. }), "{refused}");
        assert_eq!(*asked.lock().unwrap(), ["CONNECT hooks.invalid:8443 HTTP/1.1"]);
    }

    /// Answers requests over plain HTTP, two over each connection before it hangs up; how many connections there were.
    async fn plain() -> (Url, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/secret-path?token=t", listener.local_addr().unwrap())).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    for _ in 0..2 {
                        let mut head = String::new();
                        while !head.ends_with("\r\n\r\n") {
                            if stream.read_line(&mut head).await.unwrap() == 0 {
                                return;
                            }
                        }
                        assert!(head.starts_with("POST /secret-path?token=t HTTP/1.1\r\n"), "{head}");
                        let mut body = [0; 7];
                        stream.read_exact(&mut body).await.unwrap();
                        stream.write_all(&ok("", "")).await.unwrap();
                    }
                });
            }
        });
        (url, connections)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_unless_it_rested_too_long_or_was_closed() {
        let (url, connections) = plain().await;
        let clock = ManualClock::new(SystemClock::shared().now());
        let mut poster = poster(&TestCa::new("example.org"), None, &["127.0.0.1/32"], Arc::new(clock.clone()));
        for expected in [1, 1, 2, 2] {
            assert_eq!(post(&mut poster, &url).await.unwrap().status, StatusCode::OK);
            assert_eq!(connections.load(Ordering::SeqCst), expected);
        }
        post(&mut poster, &url).await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 3);
        clock.advance(IDLE_TIMEOUT);
        post(&mut poster, &url).await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["https://hooks.example/x", "http://127.0.0.1:8080/x", "http://[::1]/x"] {
            assert_eq!(check_post_url(&good.parse().unwrap()), Ok(()), "{good}");
        }
        let cases = [
            ("http://hooks.example/x", "only https"),
            ("http://localhost/x", "only https"),
            ("http://10.0.0.1/x", "only https"),
            ("ftp://127.0.0.1/x", "only https"),
            ("https://user:secret@hooks.example/x", "user name"),
        ];
        for (bad, reason) in cases {
            assert!(check_post_url(&bad.parse().unwrap()).unwrap_err().contains(reason), "{bad}");
        }
    }

    #[test]
    fn what_may_be_secret_of_a_url_is_not_shown() {
        let url = "https://user:pass@hooks.example:8443/T0/B1/secret?token=t#f".parse().unwrap();
        assert_eq!(origin(&url).as_str(), "https://hooks.example:8443/");
    }
}
