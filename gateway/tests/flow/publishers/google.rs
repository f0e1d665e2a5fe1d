//! Google Cloud Storage: a server here with the calls of its XML API that are made, which verifies the self-signed token
//! of a service account.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{HeaderMap, Method, StatusCode, Uri};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use service_kit::keys::{KeyType, PrivateKey};

use super::{
    conformance::{Place, conformance, setup, until},
    gate::Gate,
};

const ACCOUNT: &str = "entente@project.iam.gserviceaccount.com";
const OBJECT: &str = "/bundles/cloud%2Eexample%2Ejson";

#[derive(Default)]
struct Bucket {
    object: Option<Vec<u8>>,
    generation: u64,
    denied: bool,
}

#[derive(Clone)]
struct Storage {
    bucket: Arc<Mutex<Bucket>>,
    key: Arc<DecodingKey>,
}

impl Storage {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap()
    }

    fn is_authentic(&self, headers: &HeaderMap) -> bool {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[ACCOUNT]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = token.and_then(|token| jsonwebtoken::decode::<Value>(token, &self.key, &validation).ok());
        claims.is_some_and(|token| {
            token.claims["scope"] == "https://www.googleapis.com/auth/cloud-platform" && token.header.kid.is_some()
        })
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(body.into()).unwrap()
}

async fn answer(State(storage): State<Storage>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if !storage.is_authentic(&headers) {
        return error(401, "AuthenticationRequired", "Authentication required.");
    }
    let mut bucket = storage.bucket();
    if !uri.path().starts_with("/bundles/") {
        return error(404, "NoSuchBucket", "The specified bucket does not exist.");
    }
    if bucket.denied {
        return error(403, "AccessDenied", "Access denied.");
    }
    assert_eq!(uri.path().replace('.', "%2E"), OBJECT);
    let answer = |bucket: &Bucket, body: Vec<u8>| {
        let (etag, generation) = (format!("\"{}\"", bucket.generation), bucket.generation.to_string());
        let response = Response::builder().status(StatusCode::OK).header("etag", etag);
        let response = response.header("x-goog-generation", generation).header("content-length", body.len());
        response.header("last-modified", "Sun, 22 Nov 2026 12:00:00 GMT").body(Body::from(body)).unwrap()
    };
    match method {
        Method::GET => match bucket.object.clone() {
            Some(object) => answer(&bucket, object),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
        },
        Method::PUT => {
            assert_eq!(headers["content-type"], "application/json");
            let wanted = headers["x-goog-if-generation-match"].to_str().unwrap().to_owned();
            let there = if bucket.object.is_some() { bucket.generation } else { 0 };
            if wanted != there.to_string() {
                return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.");
            }
            bucket.object = Some(body.to_vec());
            bucket.generation += 1;
            answer(&bucket, Vec::new())
        }
        _ => error(405, "MethodNotAllowed", "Not here."),
    }
}

struct CloudStorage {
    folder: tempfile::TempDir,
    storage: Storage,
    gate: Gate,
    account: Value,
}

impl CloudStorage {
    async fn start() -> Self {
        service_kit::crypto::install();
        let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let pem = |label: &str, der: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
        };
        let public = pem("PUBLIC KEY", key.public_key().spki_der());
        let storage =
            Storage { bucket: Arc::default(), key: Arc::new(DecodingKey::from_rsa_pem(public.as_bytes()).unwrap()) };
        let account = json!({
            "type": "service_account", "client_email": ACCOUNT, "private_key_id": "k1",
            "private_key": pem("PRIVATE KEY", key.pkcs8_der()),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Gate::before(listener.local_addr().unwrap()).await;
        let router = Router::new().fallback(answer).with_state(storage.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { folder: tempfile::tempdir().unwrap(), storage, gate, account }
    }
}

#[async_trait]
impl Place for CloudStorage {
    fn config(&self) -> Value {
        let path = self.folder.path().join("account.json");
        std::fs::write(&path, self.account.to_string()).unwrap();
        json!({"gcp_cloudstorage": {
            "bucket_name": "bundles", "object_name": "cloud.example.json", "format": "spiffe",
            "service_account_file": path, "endpoint": format!("http://{}", self.gate.address()),
        }})
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        bundle_json::encode(bundle)
    }

    async fn held(&self) -> Option<Vec<u8>> {
        self.storage.bucket().object.clone()
    }

    async fn version(&self) -> String {
        self.storage.bucket().generation.to_string()
    }

    async fn put(&self, document: &[u8]) {
        let mut bucket = self.storage.bucket();
        bucket.object = Some(document.to_vec());
        bucket.generation += 1;
    }

    async fn remove(&self) -> bool {
        self.storage.bucket().object.take().is_some()
    }

    async fn deny(&self, denied: bool) -> &'static str {
        self.storage.bucket().denied = denied;
        "access denied: AccessDenied: Access denied.; give this gateway the permissions"
    }

    async fn down(&self, down: bool) -> bool {
        self.gate.set_open(!down);
        true
    }

    fn has_sequence(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_google_cloud_storage_object_conforms() {
    conformance(&CloudStorage::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_nobody_knows_is_said_and_a_new_key_file_is_read() {
    let place = CloudStorage::start().await;
    let setup = setup(place.config()).await;
    let path = place.folder.path().join("account.json");
    std::fs::remove_file(&path).unwrap();
    let gateway = setup.start().await;
    let error = until(&gateway, "missing file", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(error.starts_with("no usable credentials: ") && error.contains("account.json"), "{error}");
    let mut stranger = place.account.clone();
    stranger["client_email"] = json!("stranger@project.iam.gserviceaccount.com");
    std::fs::write(&path, stranger.to_string()).unwrap();
    let refused = |now: &gateway::api::publishers::Publisher| {
        now.last_error.as_ref().is_some_and(|error| error.contains("AuthenticationRequired: Authentication required."))
    };
    let error = until(&gateway, "refusal", refused).await.last_error.unwrap();
    assert!(error.starts_with("no usable credentials: ") && !error.contains("PRIVATE"), "{error}");
    std::fs::write(&path, place.account.to_string()).unwrap();
    until(&gateway, "publication", |now| now.published.is_some()).await;
    gateway.stop().await;
}
