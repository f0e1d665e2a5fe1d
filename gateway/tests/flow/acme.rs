//! What Pebble does not do: renewal windows (RFC 9773) and rate limits.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, head, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::CertificateSigningRequestDer;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{Setup, authority::WebAuthority, eventually};

/// A certificate authority that asks for no proof.
#[derive(Clone)]
struct FakeCa {
    base: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
    state: Arc<Mutex<CaState>>,
}

#[derive(Default)]
struct CaState {
    /// Payloads of the orders.
    orders: Vec<Value>,
    /// The certificate of the last order, PEM.
    certificate: String,
    /// How many orders are taken before the limit is reached.
    limit: usize,
    /// Life of certificates.
    life: Duration,
    /// Payloads of changes to the account.
    changes: Vec<Value>,
    /// How often it was asked when to renew.
    asked: usize,
}

impl FakeCa {
    async fn start(web: &WebAuthority, limit: usize, life: Duration) -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Arc::new(Issuer::new(params, KeyPair::generate().unwrap()));
        let state = Arc::new(Mutex::new(CaState { limit, life, ..CaState::default() }));
        let ca = Self { base: format!("https://{address}"), issuer, state };
        let router = Router::new()
            .route("/dir", get(directory))
            .route("/nonce", head(|| async { nonce(StatusCode::OK, json!({})) }))
            .route("/account", post(account))
            .route("/account/1", post(change_account))
            .route("/order", post(order))
            .route("/order/1", post(|State(ca): State<Self>| async move { nonce(StatusCode::OK, ca.order("valid")) }))
            .route("/finalize", post(finalize))
            .route("/certificate", post(certificate))
            .route("/renewal/{id}", get(renewal))
            .with_state(ca.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(web.server_config());
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let service = TowerToHyperService::new(router);
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        ca
    }

    fn order(&self, status: &str) -> Value {
        let mut order = json!({
            "status": status, "authorizations": [], "finalize": format!("{}/finalize", self.base),
            "certificate": format!("{}/certificate", self.base),
        });
        if let Some(replaces) = self.state.lock().unwrap().orders.last().and_then(|last| last.get("replaces")) {
            order["replaces"] = replaces.clone();
        }
        order
    }
}

fn nonce(status: StatusCode, body: Value) -> Response {
    (status, [("replay-nonce", "n")], Json(body)).into_response()
}

/// The payload of a JWS; nobody looks at the signature.
fn payload(body: &Bytes) -> Value {
    let jws: Value = serde_json::from_slice(body).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap_or_default()
}

async fn directory(State(ca): State<FakeCa>) -> Json<Value> {
    let at = |path: &str| format!("{}/{path}", ca.base);
    Json(json!({
        "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"), "renewalInfo": at("renewal"),
    }))
}

async fn account(State(ca): State<FakeCa>, body: Bytes) -> Response {
    assert_eq!(payload(&body), json!({"termsOfServiceAgreed": true, "contact": ["mailto:ops@cloud.example"]}));
    let mut answer = nonce(StatusCode::CREATED, json!({"status": "valid"}));
    answer.headers_mut().insert(header::LOCATION, format!("{}/account/1", ca.base).parse().unwrap());
    answer
}

async fn change_account(State(ca): State<FakeCa>, body: Bytes) -> Response {
    ca.state.lock().unwrap().changes.push(payload(&body));
    nonce(StatusCode::OK, json!({"status": "valid"}))
}

async fn order(State(ca): State<FakeCa>, body: Bytes) -> Response {
    {
        let mut state = ca.state.lock().unwrap();
        state.orders.push(payload(&body));
        if state.orders.len() > state.limit {
            let problem = json!({
                "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates", "status": 429,
            });
            let mut answer = nonce(StatusCode::TOO_MANY_REQUESTS, problem);
            answer.headers_mut().insert(header::CONTENT_TYPE, "application/problem+json".parse().unwrap());
            answer.headers_mut().insert(header::RETRY_AFTER, "86400".parse().unwrap());
            return answer;
        }
    }
    let mut answer = nonce(StatusCode::CREATED, ca.order("ready"));
    answer.headers_mut().insert(header::LOCATION, format!("{}/order/1", ca.base).parse().unwrap());
    answer
}

async fn finalize(State(ca): State<FakeCa>, body: Bytes) -> Response {
    let csr = URL_SAFE_NO_PAD.decode(payload(&body)["csr"].as_str().unwrap()).unwrap();
    let mut request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
    request.params.not_before = OffsetDateTime::now_utc() - Duration::SECOND;
    request.params.not_after = OffsetDateTime::now_utc() + ca.state.lock().unwrap().life;
    request.params.use_authority_key_identifier_extension = true;
    ca.state.lock().unwrap().certificate = request.signed_by(&ca.issuer).unwrap().pem();
    nonce(StatusCode::OK, ca.order("processing"))
}

async fn certificate(State(ca): State<FakeCa>) -> Response {
    let pem = ca.state.lock().unwrap().certificate.clone();
    ([("replay-nonce", "n"), ("content-type", "application/pem-certificate-chain")], pem).into_response()
}

/// The first certificate is to be renewed at once, every later one in a month.
async fn renewal(State(ca): State<FakeCa>, _: HeaderMap) -> Response {
    let mut state = ca.state.lock().unwrap();
    state.asked += 1;
    let start = OffsetDateTime::now_utc() + if state.orders.len() == 1 { -Duration::DAY } else { Duration::days(30) };
    let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap();
    let window = json!({"start": time(start), "end": time(start + Duration::HOUR)});
    ([("retry-after", "21600")], Json(json!({"suggestedWindow": window}))).into_response()
}

fn setup_for(setup: &mut Setup, ca: &FakeCa) {
    std::fs::write(setup.file("acme-ca.pem"), setup.web.ca_pem()).unwrap();
    setup.config["listeners"]["https_web"] = json!({
        "bind_address": "127.0.0.1",
        "bind_port": 0,
        "acme": {
            "directory_url": format!("{}/dir", ca.base),
            "domain_name": "gateway.cloud.example",
            "email": "ops@cloud.example",
            "tos_accepted": true,
            "ca_file": setup.file("acme-ca.pem"),
        },
    });
}

#[tokio::test]
async fn renews_when_the_certificate_authority_suggests_it_and_says_what_it_replaces() {
    let mut setup = Setup::new().await;
    let ca = FakeCa::start(&setup.web, usize::MAX, Duration::days(90)).await;
    setup_for(&mut setup, &ca);
    let gateway = setup.start().await;
    eventually("the suggested renewal", || async { ca.state.lock().unwrap().asked >= 2 }).await;
    let orders = ca.state.lock().unwrap().orders.clone();
    assert_eq!(orders.len(), 2, "{orders:?}");
    assert_eq!(orders[0], json!({"identifiers": [{"type": "dns", "value": "gateway.cloud.example"}]}));
    assert!(orders[1]["replaces"].as_str().is_some_and(|id| id.contains('.')), "{orders:?}");
    assert!(gateway.readiness.is_ready());
    gateway.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_account_and_tells_it_another_address() {
    let mut setup = Setup::new().await;
    let ca = FakeCa::start(&setup.web, usize::MAX, Duration::days(90)).await;
    setup_for(&mut setup, &ca);
    let gateway = setup.start().await;
    eventually("both orders", || async { ca.state.lock().unwrap().asked >= 2 }).await;
    gateway.stop().await;

    setup.config["listeners"]["https_web"]["acme"]["email"] = json!("new@cloud.example");
    for _ in 0..2 {
        let asked = ca.state.lock().unwrap().asked;
        let gateway = setup.start().await;
        eventually("the question when to renew", || async { ca.state.lock().unwrap().asked > asked }).await;
        gateway.stop().await;
    }
    let state = ca.state.lock().unwrap();
    // Once, although it was started twice; the handler of new accounts would refuse that address.
    assert_eq!(state.changes, [json!({"contact": ["mailto:new@cloud.example"]})]);
    assert_eq!(state.orders.len(), 2, "the stored certificate is used");
}

#[tokio::test]
async fn a_rate_limit_is_obeyed_while_the_certificate_goes_on_until_it_expires() {
    let mut setup = Setup::new().await;
    let ca = FakeCa::start(&setup.web, 1, Duration::seconds(4)).await;
    setup_for(&mut setup, &ca);
    let gateway = setup.start().await;
    let remark = || gateway.readiness.snapshot()["listeners"].reason.clone().unwrap_or_default();
    eventually("the rate limit to be reported", || async { remark().contains("rate limit is reached") }).await;
    assert!(gateway.readiness.is_ready(), "the certificate in use goes on");
    let next = remark().rsplit_once("next attempt at ").map(|(_, at)| OffsetDateTime::parse(at, &Rfc3339).unwrap());
    let wait = next.unwrap() - OffsetDateTime::now_utc();
    assert!(wait > Duration::hours(23) && wait <= Duration::DAY, "{wait}: {}", remark());
    eventually("the certificate to expire", || async { !gateway.readiness.is_ready() }).await;
    assert!(
        remark().starts_with("https_web: certificate expired at ") && remark().contains("rate limit"),
        "{}",
        remark()
    );
    assert_eq!(ca.state.lock().unwrap().orders.len(), 2, "nothing was ordered before the time");
    gateway.stop().await;
}
