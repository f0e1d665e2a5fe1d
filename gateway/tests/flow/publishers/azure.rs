//! Azure Blob Storage: a server here with the calls that are made, which verifies Shared Key signatures as the service
//! documents them ("Authorize with Shared Key").

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use super::{
    conformance::{Place, conformance, setup, until},
    gate::Gate,
};

const ACCOUNT: &str = "ententetest";
const KEY: &[u8] = b"not a secret but as long as the real one, which has 512 bits....";

#[derive(Default)]
struct Container {
    blob: Option<Vec<u8>>,
    changes: u64,
    denied: bool,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Container>>);

impl Service {
    fn container(&self) -> MutexGuard<'_, Container> {
        self.0.lock().unwrap()
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

async fn answer(State(service): State<Service>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if !is_signed(&method, &uri, &headers) {
        return error(403, "AuthenticationFailed", "Server failed to authenticate the request.");
    }
    let mut container = service.container();
    if uri.path() != "/bundles/td/cloud.example" {
        return error(404, "ContainerNotFound", "The specified container does not exist.");
    }
    if container.denied {
        return error(403, "AuthorizationPermissionMismatch", "This request is not authorized.");
    }
    let tag = |container: &Container| format!("\"0x{:X}\"", container.changes);
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    match method {
        Method::GET => match container.blob.clone() {
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
            match (header("if-match"), header("if-none-match"), container.blob.is_some()) {
                (Some(wanted), None, true) if wanted == tag(&container) => {}
                (None, Some(any), false) if any == "*" => {}
                (None, Some(_), true) => return error(409, "BlobAlreadyExists", "The specified blob already exists."),
                conditions => {
                    assert!(conditions.0.is_some(), "a write without a condition");
                    return error(412, "ConditionNotMet", "The condition was not met.");
                }
            }
            container.blob = Some(body.to_vec());
            container.changes += 1;
            Response::builder().status(201).header("etag", tag(&container)).body(Body::empty()).unwrap()
        }
        _ => error(405, "UnsupportedHttpVerb", "Not here."),
    }
}

pub(super) struct Blob {
    folder: tempfile::TempDir,
    service: Service,
    gate: Gate,
}

impl Blob {
    pub(super) async fn start() -> Self {
        service_kit::crypto::install();
        let service = Service::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Gate::before(listener.local_addr().unwrap()).await;
        let router = Router::new().fallback(answer).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), format!("{}\n", STANDARD.encode(KEY))).unwrap();
        Self { folder, service, gate }
    }
}

#[async_trait]
impl Place for Blob {
    fn config(&self) -> Value {
        json!({"azure_blob": {
            "storage_account_name": ACCOUNT, "container_name": "bundles", "blob_name": "td/cloud.example",
            "format": "jwks", "storage_account_key_file": self.folder.path().join("key"),
            "service_endpoint": format!("http://{}", self.gate.address()),
        }})
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        let document = bundle_json::encode_plain_jwks(bundle);
        let value: Value = serde_json::from_slice(&document).unwrap();
        let keys = value["keys"].as_array().unwrap();
        assert!(value.get("spiffe_sequence").is_none() && keys.iter().all(|key| key.get("use").is_none()));
        assert!(keys.iter().any(|key| key.get("x5c").is_some()) && keys.iter().any(|key| key.get("kid").is_some()));
        document
    }

    async fn held(&self) -> Option<Vec<u8>> {
        self.service.container().blob.clone()
    }

    async fn version(&self) -> String {
        self.service.container().changes.to_string()
    }

    async fn put(&self, document: &[u8]) {
        let mut container = self.service.container();
        container.blob = Some(document.to_vec());
        container.changes += 1;
    }

    async fn remove(&self) -> bool {
        self.service.container().blob.take().is_some()
    }

    async fn deny(&self, denied: bool) -> &'static str {
        self.service.container().denied = denied;
        "access denied: AuthorizationPermissionMismatch: This request is not authorized."
    }

    async fn down(&self, down: bool) -> bool {
        self.gate.set_open(!down);
        true
    }

    fn has_sequence(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_azure_blob_conforms() {
    conformance(&Blob::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_account_is_said_without_showing_it() {
    let place = Blob::start().await;
    let secret = STANDARD.encode([b"another ", KEY].concat());
    let mut config = place.config();
    std::fs::write(place.folder.path().join("key"), &secret).unwrap();
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
