//! Google Cloud Storage: a server here with the calls of its XML API that are made, which verifies the self-signed token
//! of a service account.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{HeaderMap, Method, StatusCode, Uri};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use service_kit::keys::{KeyType, PrivateKey};

use super::{
    conformance::{Place as _, conformance, setup, until},
    object::{Cloud, Object, Served, State},
    tokens::Tokens,
};

const ACCOUNT: &str = "entente@project.iam.gserviceaccount.com";
const OBJECT: &str = "/bundles/cloud%2Eexample%2Ejson";

/// The service: one object, and who may touch it.
#[derive(Clone)]
pub struct Storage {
    pub object: Object,
    /// Access tokens that are good, besides those the service account signs itself.
    pub tokens: Tokens,
    key: Arc<DecodingKey>,
}

impl Storage {
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
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

async fn answer(
    extract::State(storage): extract::State<Storage>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !storage.is_authentic(&headers) && !storage.tokens.good(&headers) {
        return error(401, "AuthenticationRequired", "Authentication required.");
    }
    let mut bucket = storage.object.state();
    if !uri.path().starts_with("/bundles/") {
        return error(404, "NoSuchBucket", "The specified bucket does not exist.");
    }
    if bucket.denied {
        return error(403, "AccessDenied", "Access denied.");
    }
    assert_eq!(uri.path().replace('.', "%2E"), OBJECT);
    let answer = |bucket: &State, body: Vec<u8>| {
        let (etag, generation) = (format!("\"{}\"", bucket.version), bucket.version.to_string());
        let response = Response::builder().status(StatusCode::OK).header("etag", etag);
        let response = response.header("x-goog-generation", generation).header("content-length", body.len());
        response.header("last-modified", "Sun, 22 Nov 2026 12:00:00 GMT").body(Body::from(body)).unwrap()
    };
    match method {
        Method::GET => match bucket.document.clone() {
            Some(object) => answer(&bucket, object),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
        },
        Method::PUT => {
            assert_eq!(headers["content-type"], "application/json");
            let wanted = headers["x-goog-if-generation-match"].to_str().unwrap().to_owned();
            let there = if bucket.document.is_some() { bucket.version } else { 0 };
            if wanted != there.to_string() {
                return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.");
            }
            bucket.put(&body);
            answer(&bucket, Vec::new())
        }
        _ => error(405, "MethodNotAllowed", "Not here."),
    }
}

/// A service account: its key file, and what the service knows of it.
pub fn service_account() -> (Value, Storage) {
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let pem =
        |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    let public = pem("PUBLIC KEY", key.public_key().spki_der());
    let key_file = json!({
        "type": "service_account", "client_email": ACCOUNT, "private_key_id": "k1",
        "private_key": pem("PRIVATE KEY", key.pkcs8_der()),
    });
    let key = Arc::new(DecodingKey::from_rsa_pem(public.as_bytes()).unwrap());
    (key_file, Storage { object: Object::default(), tokens: Tokens::default(), key })
}

struct Google {
    folder: tempfile::TempDir,
    account: Value,
}

/// The publisher without its credentials.
pub fn publisher() -> Value {
    json!({"bucket_name": "bundles", "object_name": "cloud.example.json", "format": "spiffe"})
}

async fn cloud_storage() -> Served<Google> {
    service_kit::crypto::install();
    let (account, storage) = service_account();
    let google = Google { folder: tempfile::tempdir().unwrap(), account };
    Served::start(google, storage.object.clone(), storage.router()).await
}

impl Cloud for Google {
    const DENIED: &'static str = "access denied: AccessDenied: Access denied.; give this gateway the permissions";
    const HAS_SEQUENCE: bool = true;

    fn config(&self, address: std::net::SocketAddr) -> Value {
        let path = self.folder.path().join("account.json");
        std::fs::write(&path, self.account.to_string()).unwrap();
        let mut publisher = publisher();
        publisher["service_account_file"] = json!(path);
        publisher["endpoint"] = json!(format!("http://{address}"));
        json!({ "gcp_cloudstorage": publisher })
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        bundle_json::encode(bundle)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_google_cloud_storage_object_conforms() {
    conformance(&cloud_storage().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_nobody_knows_is_said_and_a_new_key_file_is_read() {
    let place = cloud_storage().await;
    let setup = setup(place.config()).await;
    let path = place.cloud.folder.path().join("account.json");
    std::fs::remove_file(&path).unwrap();
    let gateway = setup.start().await;
    let error = until(&gateway, "missing file", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(error.starts_with("no usable credentials: ") && error.contains("account.json"), "{error}");
    let mut stranger = place.cloud.account.clone();
    stranger["client_email"] = json!("stranger@project.iam.gserviceaccount.com");
    std::fs::write(&path, stranger.to_string()).unwrap();
    let refused = |now: &gateway::api::publishers::Publisher| {
        now.last_error.as_ref().is_some_and(|error| error.contains("AuthenticationRequired: Authentication required."))
    };
    let error = until(&gateway, "refusal", refused).await.last_error.unwrap();
    assert!(error.starts_with("no usable credentials: ") && !error.contains("PRIVATE"), "{error}");
    std::fs::write(&path, place.cloud.account.to_string()).unwrap();
    until(&gateway, "publication", |now| now.published.is_some()).await;
    gateway.stop().await;
}
