//! A farm of partners in this process: each with keys, a bundle and a loopback address of its own, so that no two share
//! a host, as in the world.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use entente_tests::hostile::{
    authority::{Keys, WebAuthority, jwk},
    table::Profile,
};
use rcgen::{KeyPair, SanType};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Most partners of a farm.
pub(crate) const MAX_PARTNERS: usize = 60_000;

/// Partners in one /24 network of loopback.
const IN_A_NETWORK: usize = 250;

/// Longest request head read, in lines.
const MAX_LINES: usize = 100;

/// Longest wait for a request on an open connection.
const IDLE: Duration = Duration::from_secs(600);

/// What the partners do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    /// The refresh hint of every bundle in seconds.
    pub(crate) refresh_hint: u64,
    /// Share of answers with a new bundle, once [`Farm::change`] was called.
    pub(crate) changing: f64,
    /// Share of partners that take connections and never answer.
    pub(crate) hanging: f64,
}

/// The farm. Dropping it closes every endpoint.
pub(crate) struct Farm {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    port: u16,
}

struct Shared {
    partners: Vec<Partner>,
    web: WebAuthority,
    behaviour: Behaviour,
    answers: AtomicU64,
    changes: AtomicU64,
    connections: AtomicU64,
    changing: OnceLock<()>,
}

struct Partner {
    keys: Keys,
    profile: Profile,
    hangs: bool,
    address: Ipv4Addr,
    server: OnceLock<Arc<ServerConfig>>,
    state: Mutex<State>,
}

struct State {
    sequence: u64,
    jwt: KeyPair,
    document: Arc<Document>,
    /// When it was asked.
    asked: Vec<SystemTime>,
}

struct Document {
    bytes: Vec<u8>,
    etag: String,
}

impl Farm {
    /// `count` partners, half with each profile; the certificate authority of the web ones goes to `ca_file`.
    pub(crate) async fn start(count: usize, behaviour: Behaviour, ca_file: &Path) -> Result<Self> {
        ensure!((1..=MAX_PARTNERS).contains(&count), "between 1 and {MAX_PARTNERS} relationships can be measured");
        let partners = (0..count).map(|index| Partner::create(index, behaviour)).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            partners,
            web: WebAuthority::create(ca_file)?,
            behaviour,
            answers: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            changing: OnceLock::new(),
        });
        // All of 127.0.0.0/8 has no name of its own; connections from elsewhere are closed at once.
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task, port })
    }

    /// The gateway's relationships with all of them; bootstrap bundles are written to `dir`.
    pub(crate) fn relationships(&self, dir: &Path) -> Result<Vec<Value>> {
        std::fs::create_dir_all(dir)?;
        let one = |partner: &Partner| -> Result<Value> {
            let name = partner.keys.trust_domain();
            let mut value = json!({
                "trust_domain": name,
                "url": format!("https://{}:{}/bundle", partner.address, self.port),
                "profile": partner.profile.word(),
            });
            if partner.profile == Profile::HttpsSpiffe {
                let file = dir.join(format!("{name}.json"));
                std::fs::write(&file, partner.keys.bundle(1, self.shared.behaviour.refresh_hint).to_string())?;
                value["endpoint_spiffe_id"] = partner.keys.endpoint_id().into();
                value["bootstrap_bundle_file"] = file.display().to_string().into();
            }
            Ok(value)
        };
        self.shared.partners.iter().map(one).collect()
    }

    /// From now on some answers are new bundles.
    pub(crate) fn change(&self) {
        // Told twice is as good as told once.
        let _ = self.shared.changing.set(());
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// New bundles so far.
    pub(crate) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Partners that answer.
    pub(crate) fn answering(&self) -> usize {
        self.shared.partners.iter().filter(|partner| !partner.hangs).count()
    }

    /// Partners that were asked at least once and answered.
    pub(crate) fn asked(&self) -> usize {
        self.shared.partners.iter().filter(|partner| !partner.hangs && !partner.state().asked.is_empty()).count()
    }

    /// When each partner was first asked after `since`, by trust domain.
    pub(crate) fn first_asked_after(&self, since: SystemTime) -> HashMap<String, SystemTime> {
        let all = self.shared.partners.iter();
        all.filter_map(|partner| {
            let first = partner.state().asked.iter().find(|at| **at >= since).copied()?;
            Some((partner.keys.trust_domain().to_owned(), first))
        })
        .collect()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Partner {
    fn create(index: usize, behaviour: Behaviour) -> Result<Self> {
        let keys = Keys::create(&format!("p{index:05}.bench.example"))?;
        let jwt = KeyPair::generate()?;
        let network = u8::try_from(index / IN_A_NETWORK)?;
        let address = Ipv4Addr::new(127, 1, network, 1 + u8::try_from(index % IN_A_NETWORK)?);
        let document = Arc::new(Document::render(&keys, &jwt, 1, behaviour.refresh_hint));
        Ok(Self {
            profile: if index.is_multiple_of(2) { Profile::HttpsWeb } else { Profile::HttpsSpiffe },
            hangs: is_chosen(index as u64, behaviour.hanging),
            keys,
            address,
            server: OnceLock::new(),
            state: Mutex::new(State { sequence: 1, jwt, document, asked: Vec::new() }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The TLS server, made when first needed.
    fn server(&self, web: &WebAuthority) -> Result<Arc<ServerConfig>> {
        if let Some(server) = self.server.get() {
            return Ok(Arc::clone(server));
        }
        let identity = match self.profile {
            Profile::HttpsSpiffe => self.keys.endpoint()?,
            Profile::HttpsWeb => web.certificate(&[], |params| {
                params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(self.address)));
            })?,
        };
        let made = identity.server(&[b"http/1.1"])?;
        Ok(Arc::clone(self.server.get_or_init(|| made)))
    }

    /// The document of this answer: a new one if `changes`.
    fn document(&self, asked: SystemTime, changes: bool, hint: u64) -> Result<Arc<Document>> {
        let jwt = if changes { Some(KeyPair::generate()?) } else { None };
        let mut state = self.state();
        state.asked.push(asked);
        if let Some(jwt) = jwt {
            state.jwt = jwt;
            state.sequence += 1;
            state.document = Arc::new(Document::render(&self.keys, &state.jwt, state.sequence, hint));
        }
        Ok(Arc::clone(&state.document))
    }
}

impl Document {
    fn render(keys: &Keys, jwt: &KeyPair, sequence: u64, refresh_hint: u64) -> Self {
        let mut key = jwk("jwt-svid", jwt);
        key.insert("kid".to_owned(), json!(format!("key-{sequence}")));
        let bundle = json!({
            "keys": [keys.root_jwk(), key],
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": refresh_hint,
        });
        Self { bytes: bundle.to_string().into_bytes(), etag: format!("\"{sequence}\"") }
    }
}

/// Whether the `number`th of many is among a share of them, evenly spread.
fn is_chosen(number: u64, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let up_to = |count: u64| (count as f64 * share).floor();
    up_to(number + 1) > up_to(number)
}

#[expect(clippy::disallowed_methods, reason = "compared with the times the gateway shows")]
fn now() -> SystemTime {
    SystemTime::now()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let asked = now();
        if peer.ip().is_loopback() {
            let shared = Arc::clone(&shared);
            // A client that goes away is no failure of the farm.
            tokio::spawn(async move { drop(serve(stream, asked, &shared).await) });
        }
    }
}

/// The partner that listens on that address.
fn partner_at(shared: &Shared, address: SocketAddr) -> Option<&Partner> {
    let IpAddr::V4(address) = address.ip() else { return None };
    let [_, _, network, host] = address.octets();
    shared.partners.get(usize::from(network) * IN_A_NETWORK + usize::from(host).checked_sub(1)?)
}

async fn serve(stream: TcpStream, accepted: SystemTime, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let partner = partner_at(shared, stream.local_addr()?).context("nobody lives there")?;
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let acceptor = TlsAcceptor::from(partner.server(&shared.web)?);
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let mut asked = Some(accepted);
    loop {
        let Some(tag) = timeout(IDLE, request(&mut stream)).await?? else { return Ok(()) };
        let asked = asked.take().unwrap_or_else(now);
        if partner.hangs {
            partner.state().asked.push(asked);
            // Until the client gives up.
            let mut rest = String::new();
            stream.read_line(&mut rest).await?;
            return Ok(());
        }
        let number = shared.answers.fetch_add(1, Ordering::Relaxed);
        let changes = shared.changing.get().is_some() && is_chosen(number, shared.behaviour.changing);
        let document = partner.document(asked, changes, shared.behaviour.refresh_hint)?;
        if changes {
            shared.changes.fetch_add(1, Ordering::Relaxed);
        }
        let answer = if tag.as_deref() == Some(document.etag.as_str()) {
            format!("HTTP/1.1 304 Not Modified\r\netag: {}\r\n\r\n", document.etag).into_bytes()
        } else {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\netag: {}\r\n\r\n",
                document.bytes.len(),
                document.etag
            );
            [head.as_bytes(), &document.bytes].concat()
        };
        stream.get_mut().write_all(&answer).await?;
        stream.get_mut().flush().await?;
    }
}

/// Reads one request: its `If-None-Match`; `None` when the client closed the connection.
async fn request(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Option<Option<String>>> {
    let mut tag = None;
    for number in 0..MAX_LINES {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            ensure!(number == 0, "closed in the middle of a request");
            return Ok(None);
        }
        if line == "\r\n" {
            return Ok(Some(tag));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("if-none-match")
        {
            tag = Some(value.trim().to_owned());
        }
    }
    anyhow::bail!("the head of the request is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_evenly_spread() {
        let chosen = |share: f64| (0..1000).filter(|number| is_chosen(*number, share)).count();
        assert_eq!((chosen(0.0), chosen(0.01), chosen(0.5), chosen(1.0)), (0, 10, 500, 1000));
    }
}
