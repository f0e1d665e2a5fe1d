//! The load: many clients that fetch one document over TLS with HTTP/1.1 as fast as they are answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest answer read.
const MAX_ANSWER: usize = 16 << 20;

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How connections are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Many requests on each connection.
    KeepAlive,
    /// A connection and a full handshake for each request.
    Handshake,
    /// A connection for each request, with the TLS session of an earlier one where the server offers that.
    Resumption,
}

impl Mode {
    /// In words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Handshake => "new connections",
            Self::Resumption => "resumed sessions",
        }
    }
}

/// Where the document is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    name: ServerName<'static>,
    request: Arc<[u8]>,
    close_request: Arc<[u8]>,
}

impl Target {
    /// Resolves the host of an https URL.
    pub(crate) async fn resolve(url: &str) -> Result<Self> {
        let url = Url::parse(url).with_context(|| format!("`{url}` is no URL"))?;
        ensure!(url.scheme() == "https", "only https is measured");
        let host = url.host_str().context("the URL names no host")?;
        let port = url.port_or_known_default().unwrap_or(443);
        let address = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?.next();
        let address = address.with_context(|| format!("{host} has no address"))?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}{query}", url.path());
        let request = |connection: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\naccept: application/json\r\nconnection: {connection}\r\n\r\n"
            )
        };
        Ok(Self {
            address,
            name,
            request: request("keep-alive").into_bytes().into(),
            close_request: request("close").into_bytes().into(),
        })
    }

    /// Fetches the document once.
    pub(crate) async fn fetch(&self) -> Result<Vec<u8>> {
        let connector = connector(Mode::Handshake)?;
        let mut stream = self.connect(&connector).await?;
        let mut buffer = Vec::new();
        let (from, _) = answer(&mut stream, &self.close_request, &mut buffer).await?;
        Ok(buffer.split_off(from))
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(connector.connect(self.name.clone(), stream).await?)
    }
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Answers with status 200.
    pub(crate) answers: u64,
    /// Everything else.
    pub(crate) failures: u64,
    /// The first failure in words.
    pub(crate) first_failure: Option<String>,
    /// Connections whose session was resumed.
    pub(crate) resumed: u64,
    /// Time of each answer in microseconds, connecting included where each request has a connection; sorted.
    pub(crate) latencies: Vec<u32>,
    /// How long it was measured.
    pub(crate) elapsed: Duration,
}

impl Seen {
    /// The latency that `share` of the answers did not exceed, in milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "an index"
        )]
        let index = (last as f64 * share).round() as usize;
        f64::from(self.latencies.get(index).copied().unwrap_or_default()) / 1000.0
    }
}

/// Runs `clients` of them for `warm_up` and then for `time`; `mark` is called at the beginning and at the end of what
/// is measured.
pub(crate) async fn run(
    target: &Target,
    mode: Mode,
    clients: usize,
    warm_up: Duration,
    time: Duration,
    mut mark: impl FnMut() -> Result<()>,
) -> Result<Seen> {
    let connector = connector(mode)?;
    let (measuring, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let resumed = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let client = Client {
            target: target.clone(),
            connector: connector.clone(),
            mode,
            measuring: Arc::clone(&measuring),
            over: Arc::clone(&over),
            resumed: Arc::clone(&resumed),
        };
        tasks.push(tokio::spawn(client.run()));
    }
    tokio::time::sleep(warm_up).await;
    mark()?;
    let begin = Instant::now();
    measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    measuring.store(false, Ordering::Relaxed);
    mark()?;
    let mut seen = Seen { elapsed: begin.elapsed(), ..Seen::default() };
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        let one = task.await?;
        seen.answers += one.answers;
        seen.failures += one.failures;
        seen.first_failure = seen.first_failure.or(one.first_failure);
        seen.latencies.extend(one.latencies);
    }
    seen.resumed = resumed.load(Ordering::Relaxed);
    seen.latencies.sort_unstable();
    if seen.answers == 0 {
        bail!("no answer: {}", seen.first_failure.unwrap_or_default());
    }
    Ok(seen)
}

struct Client {
    target: Target,
    connector: TlsConnector,
    mode: Mode,
    measuring: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    resumed: Arc<AtomicU64>,
}

impl Client {
    async fn run(self) -> Seen {
        let mut seen = Seen::default();
        let mut kept = None;
        let mut buffer = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let outcome = timeout(PATIENCE, self.once(&mut kept, &mut buffer)).await;
            if !self.measuring.load(Ordering::Relaxed) {
                continue;
            }
            match outcome.map_err(anyhow::Error::from).flatten() {
                Ok(()) => {
                    seen.answers += 1;
                    seen.latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Err(error) => {
                    seen.failures += 1;
                    seen.first_failure.get_or_insert_with(|| format!("{error:#}"));
                    kept = None;
                }
            }
        }
        seen
    }

    async fn once(&self, kept: &mut Option<TlsStream<TcpStream>>, buffer: &mut Vec<u8>) -> Result<()> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => self.target.connect(&self.connector).await?,
        };
        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) && self.measuring.load(Ordering::Relaxed)
        {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        if self.mode == Mode::KeepAlive {
            let (_, open) = answer(&mut stream, &self.target.request, buffer).await?;
            *kept = open.then_some(stream);
        } else {
            answer(&mut stream, &self.target.close_request, buffer).await?;
        }
        Ok(())
    }
}

/// Sends a request and reads its answer: where the body begins, and whether the connection stays open.
async fn answer(stream: &mut TlsStream<TcpStream>, request: &[u8], buffer: &mut Vec<u8>) -> Result<(usize, bool)> {
    stream.write_all(request).await?;
    stream.flush().await?;
    buffer.clear();
    let (body, length, open) = loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
        if let Some(head) = head(buffer)? {
            break head;
        }
        ensure!(buffer.len() < MAX_ANSWER, "the head of the answer has no end");
    };
    ensure!(length < MAX_ANSWER, "the answer is too long");
    while buffer.len() < body + length {
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
    }
    Ok((body, open))
}

/// The head of an answer once it is complete: its length, the body's, and whether the connection stays open.
fn head(buffer: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&buffer[..end])?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the server answers `{status}`");
    let (mut length, mut open) = (None, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse()?);
        } else if name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close") {
            open = false;
        }
    }
    Ok(Some((end + 4, length.context("the answer has no content-length")?, open)))
}

/// Clients that ask every server for the same work: X25519 and AES-128-GCM, HTTP/1.1.
fn connector(mode: Mode) -> Result<TlsConnector> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("AES_128_GCM"));
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyServer(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = match mode {
        Mode::Resumption => Resumption::in_memory_sessions(1024),
        Mode::KeepAlive | Mode::Handshake => Resumption::disabled(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every server's word for who it is: nothing here depends on what it says, and endpoints of both profiles can
/// be measured.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_complete() {
        assert!(head(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n").unwrap().is_none());
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(head(text).unwrap(), Some((text.len() - 3, 3, true)));
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(head(text).unwrap(), Some((text.len(), 0, false)));
        assert!(head(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn percentiles_of_few_and_of_none() {
        let seen = Seen { latencies: (1..=100).map(|each| each * 1000).collect(), ..Seen::default() };
        assert!((seen.percentile(0.5) - 51.0).abs() < 1.5);
        assert!((seen.percentile(1.0) - 100.0).abs() < f64::EPSILON);
        assert!(Seen::default().percentile(0.99).abs() < f64::EPSILON);
    }
}
