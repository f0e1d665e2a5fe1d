//! The demo's workload: it knows its Workload API socket and its peer's SPIFFE ID, nothing else.
//!
//! It serves HTTP over mTLS and calls its peer the same way, again and again, each side checking the
//! other's SPIFFE ID. Each change and each call is one JSON line on standard output.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use federation_specs::bundle::{Bundle, BundleSet, X509Authority};
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use federation_specs::proto::workload::{X509svidRequest, X509svidResponse};
use federation_specs::x509_svid::split_der_certificates;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use service_kit::clock::SystemClock;
use service_kit::keys::PrivateKey;
use service_kit::tls::{self, BundleCell, ClientAuth, PeerPolicy, SvidCell, X509Identity};
use tokio::net::{TcpListener, TcpStream};
use tonic::metadata::MetadataValue;

/// Between two calls to the peer.
const CALL_INTERVAL: Duration = Duration::from_millis(100);

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Most bytes read of an answer.
const MAX_ANSWER: usize = 4096;

/// `entente demo-workload`: started by `entente demo`, not meant to be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Workload API's Unix socket.
    #[arg(long)]
    socket: PathBuf,
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the peer serves.
    #[arg(long)]
    peer: SocketAddr,
    /// The peer's SPIFFE ID.
    #[arg(long)]
    peer_id: String,
}

/// One line of the workload's standard output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The Workload API delivered an identity.
    Identity {
        /// Every SPIFFE ID the workload was given.
        ids: Vec<String>,
        /// Key ID of the authority that signed the first SVID, lowercase hex.
        authority: String,
        /// For each foreign trust domain whose bundle came with it, the key IDs of its authorities.
        federated: BTreeMap<String, Vec<String>>,
    },
    /// A call was answered; `answer` is the peer's greeting.
    Called { answer: String },
    /// A call failed.
    Failed { error: String },
}

/// Runs until it is stopped.
pub(crate) async fn run(args: Args) -> Result<()> {
    let peer_id = SpiffeId::parse(&args.peer_id).context("--peer-id")?;
    let svid = Arc::new(SvidCell::new());
    let bundles = Arc::new(BundleCell::new(BundleSet::default()));
    let clock = SystemClock::shared();

    let mut updates = open_stream(&args.socket).await?;
    let first = updates.message().await?.context("the Workload API ended the stream")?;
    take(&first, &svid, &bundles)?;

    let server = tls::server_config(
        svid.clone(),
        &ClientAuth::Required { bundles: bundles.clone(), policy: PeerPolicy::Exactly(peer_id.clone()) },
        &clock,
        &[tls::ALPN_HTTP11],
    )?;
    let client = tls::spiffe_client_config(
        bundles.clone(),
        Some(svid.clone()),
        PeerPolicy::Exactly(peer_id.clone()),
        clock,
        &[tls::ALPN_HTTP11],
    )?;
    let own = own_id(&first)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tokio::spawn(serve(listener, server, format!("{own} greets {peer_id}")));
    tokio::spawn(call_again_and_again(args.peer, client));
    loop {
        let update = updates.message().await?.context("the Workload API ended the stream")?;
        take(&update, &svid, &bundles)?;
    }
}

async fn open_stream(socket: &std::path::Path) -> Result<tonic::Streaming<X509svidResponse>> {
    let mut client = SpiffeWorkloadApiClient::new(service_kit::grpc::connect::unix_channel(socket));
    let mut request = tonic::Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(client.fetch_x509svid(request).await.context("FetchX509SVID")?.into_inner())
}

fn own_id(update: &X509svidResponse) -> Result<SpiffeId> {
    let svid = update.svids.first().context("the Workload API gave no identity")?;
    Ok(SpiffeId::parse(&svid.spiffe_id)?)
}

/// Puts one update into use and reports it.
fn take(update: &X509svidResponse, svid: &SvidCell, bundles: &BundleCell) -> Result<()> {
    let own = own_id(update)?;
    let first = update.svids.first().context("the Workload API gave no identity")?;
    let mut set = BundleSet::default();
    set.insert(Arc::new(bundle(own.trust_domain(), &first.bundle)?));
    let mut federated = BTreeMap::new();
    for (name, roots) in &update.federated_bundles {
        let bundle = bundle(&TrustDomain::from_name_or_id(name)?, roots)?;
        federated.insert(
            bundle.trust_domain().to_string(),
            bundle.x509_authorities().iter().map(X509Authority::key_id_hex).collect(),
        );
        set.insert(Arc::new(bundle));
    }
    let chain = split_der_certificates(&first.x509_svid)?;
    let authority = authority_of(chain.first().map(Vec::as_slice).unwrap_or_default())?;
    let chain = chain.into_iter().map(Into::into).collect();
    bundles.set(Arc::new(set));
    svid.set(Arc::new(X509Identity::new(chain, &PrivateKey::from_pkcs8(&first.x509_svid_key)?)?));
    report(&Event::Identity {
        ids: update.svids.iter().map(|svid| svid.spiffe_id.clone()).collect(),
        authority,
        federated,
    });
    Ok(())
}

fn bundle(trust_domain: &TrustDomain, roots: &[u8]) -> Result<Bundle> {
    let authorities =
        split_der_certificates(roots)?.iter().map(|der| X509Authority::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    Ok(Bundle::new(trust_domain.clone()).with_x509_authorities(authorities))
}

/// The authority key identifier of a certificate, lowercase hex.
pub(crate) fn authority_of(der: &[u8]) -> Result<String> {
    use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).context("the SVID is no certificate")?;
    let key = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref(),
        _ => None,
    });
    let key = key.context("the SVID names no authority")?;
    Ok(key.0.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn serve(listener: TcpListener, config: Arc<rustls::ServerConfig>, greeting: String) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, greeting) = (acceptor.clone(), greeting.clone());
        tokio::spawn(async move {
            // A refused handshake is the other side's news; there is nobody to tell here.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = Response::new(Full::new(Bytes::from(greeting.clone())));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn call_again_and_again(peer: SocketAddr, config: Arc<rustls::ClientConfig>) {
    let mut ticks = tokio::time::interval(CALL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        report(&match tokio::time::timeout(CALL_LIMIT, call(peer, config.clone())).await {
            Ok(Ok(answer)) => Event::Called { answer },
            Ok(Err(error)) => Event::Failed { error: format!("{error:#}") },
            Err(_) => Event::Failed { error: format!("no answer within {} s", CALL_LIMIT.as_secs()) },
        });
    }
}

/// One HTTP GET on a new mTLS connection; the body as text.
pub(crate) async fn call(peer: SocketAddr, config: Arc<rustls::ClientConfig>) -> Result<String> {
    let stream = TcpStream::connect(peer).await.with_context(|| format!("cannot connect to {peer}"))?;
    // The SPIFFE ID in the certificate is checked, not this name.
    let name = rustls::pki_types::ServerName::IpAddress(peer.ip().into());
    let stream =
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.context("the TLS handshake failed")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/").header("host", peer.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let body = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("cannot read the answer: {error}"))?;
        anyhow::Ok(String::from_utf8(body.to_bytes().to_vec())?)
    };
    // The connection's own end carries the TLS alert, which says more than the request's.
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                connection.await.context("refused")?;
                Err(error)
            }
        },
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(cause) => Err(anyhow::Error::new(cause).context("refused")),
        },
    }
}

#[expect(clippy::print_stdout, reason = "the parent reads these lines")]
fn report(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        println!("{line}");
    }
}
