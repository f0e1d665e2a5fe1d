//! The endpoints: a listener a partner, good until it is told to misbehave.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    authority::{Keys, WebAuthority},
    connection::Connection,
    dns::{Dns, Name, TRAP},
    document::{GOOD_HINT, GOOD_SEQUENCE},
    response::{Exchange, Response},
    table::{Misbehaviour, Profile, Row},
};

/// ALPN protocol of HTTP/1.1.
pub(super) const HTTP11: &[u8] = b"http/1.1";

/// ALPN protocol of HTTP/2.
const HTTP2: &[u8] = b"h2";

/// Longest request head read.
const MAX_REQUEST_LINES: usize = 100;

/// A partner of the table. Dropping it closes its endpoint.
#[derive(Debug)]
pub struct HostilePartner {
    /// What it does.
    pub row: &'static Row,
    /// Its keys, good ones.
    pub keys: Arc<Keys>,
    url: String,
    misbehaving: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    dns: Arc<Dns>,
    trapped: Arc<AtomicUsize>,
}

impl HostilePartner {
    /// Listens on a free port of loopback and behaves, for now. `others` are the keys of another partner, to be stolen.
    pub async fn start(row: &'static Row, web: &WebAuthority, others: &Keys, dns: &Arc<Dns>) -> Result<Self> {
        let keys = Arc::new(Keys::create(&row.trust_domain())?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (misbehaving, misbehaves) = watch::channel(false);
        let mut tasks = Vec::new();
        let mut stranger = None;
        if row.misbehaviour == Misbehaviour::Response(Response::RedirectsToStranger) {
            let (url, task) = start_stranger(row.profile, web).await?;
            stranger = Some(url);
            tasks.push(task);
        }
        let endpoint = Endpoint {
            misbehaviour: row.misbehaviour,
            good: good_server(row.profile, web, &keys, HTTP11)?,
            bad: bad_server(row, web, &keys)?,
            document: keys.bundle(GOOD_SEQUENCE, GOOD_HINT).to_string().into_bytes(),
            bad_document: match row.misbehaviour {
                // What may be fetched all the same is told from what was held before.
                Misbehaviour::Name(Name::IsMixed) => keys.bundle(GOOD_SEQUENCE + 1, GOOD_HINT).to_string().into_bytes(),
                Misbehaviour::Name(_) => keys.bundle(GOOD_SEQUENCE, GOOD_HINT).to_string().into_bytes(),
                Misbehaviour::Document(document) => document.body(&keys, others)?,
                _ => Vec::new(),
            },
            stranger,
        };
        tasks.push(tokio::spawn(accept(listener, Arc::new(endpoint), misbehaves)));
        let trapped = Arc::new(AtomicUsize::new(0));
        if let Misbehaviour::Name(_) = row.misbehaviour {
            let trap = TcpListener::bind((TRAP, address.port())).await?;
            tasks.push(tokio::spawn(count(trap, Arc::clone(&trapped))));
        }
        let url = match row.misbehaviour {
            // Name servers know that no such name is (RFC 6761 section 6.4).
            Misbehaviour::Connection(Connection::HasNoAddress) => "https://partner.invalid/bundle".to_owned(),
            Misbehaviour::Name(name) => format!("https://{}:{}/bundle", dns.add(name), address.port()),
            _ => endpoint_url(row.profile, address),
        };
        Ok(Self { row, keys, url, misbehaving, tasks, dns: Arc::clone(dns), trapped })
    }

    /// Its bundle endpoint URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A gateway's relationship with it; a bootstrap bundle is written to `dir`.
    pub fn relationship(&self, web: &WebAuthority, dir: &Path) -> Result<Value> {
        relationship(self.row.profile, &self.url, web, &self.keys, dir)
    }

    /// Connections made to where its name must not lead.
    pub fn trapped(&self) -> usize {
        self.trapped.load(Ordering::SeqCst)
    }

    /// From now on it misbehaves.
    pub fn misbehave(&self) {
        if let Misbehaviour::Name(name) = self.row.misbehaviour {
            self.dns.misbehave(name);
        }
        self.misbehaving.send_replace(true);
    }
}

/// Counts connections that must not be made.
async fn count(trap: TcpListener, trapped: Arc<AtomicUsize>) {
    while trap.accept().await.is_ok() {
        trapped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for HostilePartner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// URL of an endpoint on loopback: a host name where names are verified, none where they play no part.
pub(super) fn endpoint_url(profile: Profile, address: SocketAddr) -> String {
    match profile {
        Profile::HttpsWeb => format!("https://localhost:{}/bundle", address.port()),
        Profile::HttpsSpiffe => format!("https://{address}/bundle"),
    }
}

/// A TLS server as it should be.
pub(super) fn good_server(
    profile: Profile,
    web: &WebAuthority,
    keys: &Keys,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>> {
    match profile {
        Profile::HttpsWeb => web.localhost()?.server(&[protocol]),
        Profile::HttpsSpiffe => keys.endpoint()?.server(&[protocol]),
    }
}

fn bad_server(row: &Row, web: &WebAuthority, keys: &Keys) -> Result<Arc<ServerConfig>> {
    match row.misbehaviour {
        Misbehaviour::Certificate(certificate) => certificate.server(row.profile, web, keys),
        Misbehaviour::Http2(_) => good_server(row.profile, web, keys, HTTP2),
        _ => good_server(row.profile, web, keys, HTTP11),
    }
}

/// A server that answers with a bundle and cannot prove who it is: its URL.
async fn start_stranger(profile: Profile, web: &WebAuthority) -> Result<(String, JoinHandle<()>)> {
    let keys = Keys::create("stranger.example")?;
    let config = match profile {
        Profile::HttpsWeb => web.certificate(&["elsewhere.example"], |_| {})?.server(&[HTTP11])?,
        Profile::HttpsSpiffe => keys.endpoint()?.server(&[HTTP11])?,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = endpoint_url(profile, listener.local_addr()?);
    let document: Arc<[u8]> = keys.bundle(GOOD_SEQUENCE + 1, GOOD_HINT).to_string().into_bytes().into();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, document) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&document));
            tokio::spawn(async move { drop(serve(&acceptor, stream, || document.to_vec()).await) });
        }
    });
    Ok((url, task))
}

struct Endpoint {
    misbehaviour: Misbehaviour,
    good: Arc<ServerConfig>,
    bad: Arc<ServerConfig>,
    document: Vec<u8>,
    bad_document: Vec<u8>,
    stranger: Option<String>,
}

async fn accept(listener: TcpListener, endpoint: Arc<Endpoint>, mut misbehaves: watch::Receiver<bool>) {
    loop {
        let bad = *misbehaves.borrow_and_update();
        if bad && endpoint.misbehaviour == Misbehaviour::Connection(Connection::IsRefused) {
            return;
        }
        let stream = tokio::select! {
            Ok((stream, _)) = listener.accept() => stream,
            Ok(()) = misbehaves.changed() => continue,
            else => return,
        };
        let endpoint = Arc::clone(&endpoint);
        let mut turns = misbehaves.clone();
        // What goes wrong with one connection is what the test provoked.
        tokio::spawn(async move {
            if bad {
                drop(endpoint.misbehave(stream).await);
                return;
            }
            // A connection that the gateway keeps ends when the partner turns bad.
            tokio::select! {
                _ = endpoint.behave(stream) => {}
                _ = turns.changed() => {}
            }
        });
    }
}

impl Endpoint {
    async fn behave(&self, stream: TcpStream) -> Result<()> {
        serve(&TlsAcceptor::from(Arc::clone(&self.good)), stream, || self.document.clone()).await
    }

    async fn misbehave(&self, stream: TcpStream) -> Result<()> {
        let tls = TlsAcceptor::from(Arc::clone(&self.bad));
        match self.misbehaviour {
            Misbehaviour::Connection(connection) => connection.misbehave(stream).await,
            // One answer a connection, so that the name is looked up again.
            Misbehaviour::Name(_) => {
                let mut stream = BufReader::new(tls.accept(stream).await?);
                if request(&mut stream).await?.is_some() {
                    answer(stream.get_mut(), "application/json", &self.bad_document).await?;
                }
                Ok(stream.get_mut().shutdown().await?)
            }
            Misbehaviour::Certificate(_) => serve(&tls, stream, || self.document.clone()).await,
            Misbehaviour::Response(response) => {
                let mut stream = BufReader::new(tls.accept(stream).await?);
                let Some(path) = request(&mut stream).await? else { return Ok(()) };
                let stream = stream.get_mut();
                let exchange =
                    Exchange { stream, path: &path, good: &self.document, stranger: self.stranger.as_deref() };
                response.give(exchange).await
            }
            Misbehaviour::Http2(http2) => http2.misbehave(&mut tls.accept(stream).await?).await,
            Misbehaviour::Document(document) => {
                let mut stream = BufReader::new(tls.accept(stream).await?);
                while request(&mut stream).await?.is_some() {
                    answer(stream.get_mut(), document.content_type(), &self.bad_document).await?;
                }
                Ok(())
            }
        }
    }
}

/// Serves a document, as it is at each request, over a proper connection.
pub(super) async fn serve(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    document: impl Fn() -> Vec<u8> + Send,
) -> Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    while request(&mut stream).await?.is_some() {
        answer(stream.get_mut(), "application/json", &document()).await?;
    }
    Ok(())
}

async fn answer(stream: &mut TlsStream<TcpStream>, content_type: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    stream.flush().await?;
    Ok(())
}

/// The path of the next request, `None` at the end of the connection.
pub(super) async fn request(stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<Option<String>> {
    let mut path = None;
    for _ in 0..MAX_REQUEST_LINES {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            return Ok(Some(path.context("a request without request line")?));
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
    anyhow::bail!("a request of more than {MAX_REQUEST_LINES} lines")
}

/// The relationship of a gateway with a partner, in the words of its configuration. The bootstrap bundle is written to
/// `dir`.
pub(super) fn relationship(profile: Profile, url: &str, web: &WebAuthority, keys: &Keys, dir: &Path) -> Result<Value> {
    let mut relationship = json!({"trust_domain": keys.trust_domain(), "url": url, "profile": profile.word()});
    match profile {
        Profile::HttpsWeb => relationship["ca_file"] = json!(web.file),
        Profile::HttpsSpiffe => {
            let file = dir.join(format!("{}.json", keys.trust_domain()));
            fs::write(&file, keys.bundle(1, GOOD_HINT).to_string())?;
            relationship["endpoint_spiffe_id"] = json!(keys.endpoint_id());
            relationship["bootstrap_bundle_file"] = json!(file);
        }
    }
    Ok(relationship)
}
