//! Azure Blob Storage: a server here with the calls that are made, which verifies Shared Key signatures as the service
//! documents them ("Authorize with Shared Key").

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::{Body, Bytes},
    extract,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use super::{
    conformance::{Place as _, conformance, setup, until},
    object::{Cloud, Object, Served, State},
    tokens::Tokens,
};

const ACCOUNT: &str = "ententetest";
const KEY: &[u8] = b"not a secret but as long as the real one, which has 512 bits....";

/// The service: one blob, and who may touch it.
#[derive(Clone, Default)]
pub struct Service {
    pub blob: Object,
    /// Access tokens that are good, besides the account's key.
    pub tokens: Tokens,
}

impl Service {
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    fn lets_in(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        let is_versioned = headers.contains_key("x-ms-version");
        is_signed(method, uri, headers) || (is_versioned && self.tokens.good(headers))
    }
}

fn is_signed(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut extra: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| format!("{name}:{}\n", value.to_str().unwrap()))
        .collect();
    extra.sort();
    let length = Some(header("content-length")).filter(|length| *length != "0").unwrap_or_default();
    let names = ["content-encoding", "content-language"].map(header).join("\n");
    let conditions = [
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    let conditions = conditions.map(header).join("\n");
    let text = format!("{method}\n{names}\n{length}\n{conditions}\n{}/{ACCOUNT}{}", extra.concat(), uri.path());
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), text.as_bytes());
    header("authorization") == format!("SharedKey {ACCOUNT}:{}", STANDARD.encode(signature.as_ref()))
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}\nRequestId:1</Message></Error>");
    Response::builder().status(status).header("x-ms-error-code", code).body(body.into()).unwrap()
}

async fn answer(
    extract::State(service): extract::State<Service>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !service.lets_in(&method, &uri, &headers) {
        return error(403, "AuthenticationFailed", "Server failed to authenticate the request.");
    }
    let mut container = service.blob.state();
    if uri.path() != "/bundles/td/cloud.example" {
        return error(404, "ContainerNotFound", "The specified container does not exist.");
    }
    if container.denied {
        return error(403, "AuthorizationPermissionMismatch", "This request is not authorized.");
    }
    let tag = |container: &State| format!("\"0x{:X}\"", container.version);
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    match method {
        Method::GET => match container.document.clone() {
            Some(blob) => Response::builder()
                .header("etag", tag(&container))
                .header("last-modified", "Sun, 22 Nov 2026 12:00:00 GMT")
                .header("content-length", blob.len())
                .body(Body::from(blob))
                .unwrap(),
            None => error(404, "BlobNotFound", "The specified blob does not exist."),
        },
        Method::PUT => {
            assert_eq!(header("x-ms-blob-type").as_deref(), Some("BlockBlob"));
            assert_eq!(
                header("x-ms-blob-content-type").or(header("content-type")).as_deref(),
                Some("application/json")
            );
            match (header("if-match"), header("if-none-match"), container.document.is_some()) {
                (Some(wanted), None, true) if wanted == tag(&container) => {}
                (None, Some(any), false) if any == "*" => {}
                (None, Some(_), true) => return error(409, "BlobAlreadyExists", "The specified blob already exists."),
                conditions => {
                    assert!(conditions.0.is_some(), "a write without a condition");
                    return error(412, "ConditionNotMet", "The condition was not met.");
                }
            }
            container.put(&body);
            Response::builder().status(201).header("etag", tag(&container)).body(Body::empty()).unwrap()
        }
        _ => error(405, "UnsupportedHttpVerb", "Not here."),
    }
}

pub struct Azure {
    folder: tempfile::TempDir,
}

pub type Blob = Served<Azure>;

/// The publisher without its credentials.
pub fn publisher() -> Value {
    json!({
        "storage_account_name": ACCOUNT, "container_name": "bundles", "blob_name": "td/cloud.example", "format": "jwks",
    })
}

pub async fn blob() -> Blob {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), format!("{}\n", STANDARD.encode(KEY))).unwrap();
    let service = Service::default();
    Served::start(Azure { folder }, service.blob.clone(), service.router()).await
}

impl Cloud for Azure {
    const DENIED: &'static str = "access denied: AuthorizationPermissionMismatch: This request is not authorized.";
    const HAS_SEQUENCE: bool = false;

    fn config(&self, address: std::net::SocketAddr) -> Value {
        let mut publisher = publisher();
        publisher["storage_account_key_file"] = json!(self.folder.path().join("key"));
        publisher["service_endpoint"] = json!(format!("http://{address}"));
        json!({ "azure_blob": publisher })
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        let document = bundle_json::encode_plain_jwks(bundle);
        let value: Value = serde_json::from_slice(&document).unwrap();
        let keys = value["keys"].as_array().unwrap();
        assert!(value.get("spiffe_sequence").is_none() && keys.iter().all(|key| key.get("use").is_none()));
        assert!(keys.iter().any(|key| key.get("x5c").is_some()) && keys.iter().any(|key| key.get("kid").is_some()));
        document
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_azure_blob_conforms() {
    conformance(&blob().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_account_is_said_without_showing_it() {
    let place = blob().await;
    let secret = STANDARD.encode([b"another ", KEY].concat());
    let mut config = place.config();
    std::fs::write(place.cloud.folder.path().join("key"), &secret).unwrap();
    config["azure_blob"]["format"] = json!("pem");
    let setup = setup(config).await;
    let gateway = setup.start().await;
    let error = until(&gateway, "refusal", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(
        error.contains("AuthenticationFailed: Server failed to authenticate") && !error.contains(&secret),
        "{error}"
    );
    gateway.stop().await;
}
