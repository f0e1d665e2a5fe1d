//! Amazon S3 (moto's server) and Roles Anywhere (a server here that verifies signatures as AWS does).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{
    conformance::{Place, conformance, pem, setup, until},
    gate::Gate,
    programs::{free_port, python, start},
    sigv4,
};
use crate::support::{LOCAL, authority::Authority, td};

const KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const BUCKET: &str = "bundles";
const OBJECT: &str = "spiffe/cloud.example.json";

fn credentials(folder: &std::path::Path) -> std::path::PathBuf {
    let path = folder.join("credentials");
    let text = format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&path, text).unwrap();
    path
}

struct S3 {
    folder: tempfile::TempDir,
    _server: Child,
    direct: String,
    gate: Gate,
    client: reqwest::Client,
}

impl S3 {
    async fn start() -> Self {
        service_kit::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(python());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = start(&mut command, port, &folder.path().join("moto.log")).await;
        let gate = Gate::before(SocketAddr::from(([127, 0, 0, 1], port))).await;
        let direct = format!("http://127.0.0.1:{port}");
        Self { folder, _server: server, direct, gate, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// A request of somebody else; moto looks at who asks, not at the signature.
    async fn call(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, HeaderMap, Bytes) {
        let authorization = "AWS4-HMAC-SHA256 Credential=other/20260101/eu-west-1/s3/aws4_request, \
                             SignedHeaders=host, Signature=0";
        let url = format!("{}{path}", self.direct);
        let request = self.client.request(method, url).header("authorization", authorization).body(body);
        let response = request.send().await.unwrap();
        (response.status(), response.headers().clone(), response.bytes().await.unwrap())
    }

    async fn make_bucket(&self) {
        let place = "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint>\
                     </CreateBucketConfiguration>";
        let (status, _, body) = self.call(Method::PUT, &format!("/{BUCKET}"), place).await;
        assert!(status.is_success(), "{body:?}");
    }

    fn object(&self) -> String {
        format!("/{BUCKET}/{OBJECT}")
    }
}

#[async_trait]
impl Place for S3 {
    fn config(&self) -> Value {
        json!({"aws_s3": {
            "region": "eu-west-1", "bucket": BUCKET, "object_key": OBJECT, "refresh_hint": "10m",
            "endpoint": format!("http://{}", self.gate.address()), "credentials_file": credentials(self.folder.path()),
        }})
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        bundle_json::encode(&bundle.clone().with_refresh_hint(Some(std::time::Duration::from_secs(600))))
    }

    async fn held(&self) -> Option<Vec<u8>> {
        let (status, headers, body) = self.call(Method::GET, &self.object(), "").await;
        if status.is_success() {
            assert!(headers.contains_key("content-type"));
        }
        status.is_success().then(|| body.to_vec())
    }

    async fn version(&self) -> String {
        let (_, headers, _) = self.call(Method::HEAD, &self.object(), "").await;
        format!("{:?} {:?}", headers["etag"], headers["last-modified"])
    }

    async fn put(&self, document: &[u8]) {
        assert!(self.call(Method::PUT, &self.object(), document.to_vec()).await.0.is_success());
    }

    async fn remove(&self) -> bool {
        self.call(Method::DELETE, &self.object(), "").await.0.is_success()
    }

    async fn deny(&self, denied: bool) -> &'static str {
        let path = format!("/{BUCKET}?policy");
        let policy = json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
            "Resource": format!("arn:aws:s3:::{BUCKET}/*"),
        }]});
        let (status, _, body) = match denied {
            true => self.call(Method::PUT, &path, policy.to_string()).await,
            false => self.call(Method::DELETE, &path, "").await,
        };
        assert!(status.is_success(), "{body:?}");
        "access denied: 403 Forbidden; give this gateway the permissions"
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
async fn an_s3_object_conforms() {
    let place = S3::start().await;
    let setup = setup(place.config()).await;
    let gateway = setup.start().await;
    let missing = until(&gateway, "missing bucket", |now| now.last_error.is_some()).await;
    let error = missing.last_error.unwrap();
    assert!(error.starts_with("not found: NoSuchBucket: "), "{error}");
    gateway.stop().await;
    place.make_bucket().await;
    conformance(&place).await;
}

const ANCHOR: &str = "153d3e58-cab5-4a59-a0a1-3febad2937c4";

/// The trust anchor and who may touch it.
struct Anchor {
    certificates: String,
    source_type: &'static str,
    updates: u64,
    denied: bool,
}

#[derive(Clone)]
struct RolesAnywhere(Arc<Mutex<Anchor>>);

impl RolesAnywhere {
    fn anchor(&self) -> MutexGuard<'_, Anchor> {
        self.0.lock().unwrap()
    }

    fn call(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Value, (StatusCode, String)> {
        let signer = sigv4::Signer { key_id: KEY_ID, secret: SECRET, region: "eu-west-1", service: "rolesanywhere" };
        sigv4::verify(&signer, method.as_str(), uri.path(), headers, body)
            .map_err(|problem| (StatusCode::FORBIDDEN, format!("signature: {problem}")))?;
        let mut anchor = self.anchor();
        if anchor.denied {
            let words = "User: arn:aws:iam::123456789012:user/entente is not authorized to perform this action";
            return Err((StatusCode::FORBIDDEN, words.to_owned()));
        }
        if uri.path() != format!("/trustanchor/{ANCHOR}") {
            return Err((StatusCode::NOT_FOUND, format!("TrustAnchor {} not found", uri.path())));
        }
        if *method == Method::PATCH {
            let request: Value = serde_json::from_slice(body).unwrap();
            let source = &request["source"];
            assert_eq!(source["sourceType"], "CERTIFICATE_BUNDLE");
            let data = source["sourceData"]["x509CertificateData"].as_str().unwrap();
            let count = data.matches("BEGIN CERTIFICATE").count();
            if data.len() > 8000 || !(1..=2).contains(&count) {
                return Err((StatusCode::BAD_REQUEST, "Value at 'x509CertificateData' failed".to_owned()));
            }
            // As the service may do: the same certificates, written differently.
            anchor.certificates = data.trim_end().to_owned();
            anchor.updates += 1;
        }
        Ok(json!({"trustAnchor": {
            "trustAnchorId": ANCHOR, "name": "spire", "enabled": true,
            "source": {
                "sourceType": anchor.source_type,
                "sourceData": {"x509CertificateData": anchor.certificates},
            },
        }}))
    }
}

async fn answer(
    State(server): State<RolesAnywhere>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match server.call(&method, &uri, &headers, &body) {
        Ok(value) => axum::Json(value).into_response(),
        Err((status, message)) => (status, axum::Json(json!({"message": message}))).into_response(),
    }
}

struct TrustAnchor {
    folder: tempfile::TempDir,
    server: RolesAnywhere,
    gate: Gate,
}

impl TrustAnchor {
    async fn start() -> Self {
        let old = Authority::new(&td("old.example")).bundle(1).to_pem();
        let anchor = Anchor { certificates: old, source_type: "CERTIFICATE_BUNDLE", updates: 0, denied: false };
        let server = RolesAnywhere(Arc::new(Mutex::new(anchor)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Gate::before(listener.local_addr().unwrap()).await;
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { folder: tempfile::tempdir().unwrap(), server, gate }
    }
}

#[async_trait]
impl Place for TrustAnchor {
    fn config(&self) -> Value {
        json!({"aws_rolesanywhere_trustanchor": {
            "region": "eu-west-1", "trust_anchor_id": ANCHOR,
            "endpoint": format!("http://{}", self.gate.address()), "credentials_file": credentials(self.folder.path()),
        }})
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        pem(bundle)
    }

    async fn held(&self) -> Option<Vec<u8>> {
        Some(format!("{}\n", self.server.anchor().certificates.trim_end()).into_bytes())
    }

    async fn version(&self) -> String {
        self.server.anchor().updates.to_string()
    }

    async fn put(&self, document: &[u8]) {
        self.server.anchor().certificates = String::from_utf8(document.to_vec()).unwrap();
    }

    async fn remove(&self) -> bool {
        false
    }

    async fn deny(&self, denied: bool) -> &'static str {
        self.server.anchor().denied = denied;
        "access denied: User: arn:aws:iam::123456789012:user/entente is not authorized"
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
async fn a_trust_anchor_conforms() {
    conformance(&TrustAnchor::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trust_anchor_cannot_hold_is_said_and_what_is_there_stays() {
    let place = TrustAnchor::start().await;
    let before = place.held().await;
    let setup = setup(place.config()).await;
    let others = [Authority::new(&td(LOCAL)), Authority::new(&td(LOCAL))];
    let own = |count: usize| {
        let state = setup.issuer.state();
        let more = others.iter().take(count.saturating_sub(1)).map(Authority::x509);
        let x509: Vec<_> = std::iter::once(state.authority.x509()).take(count).chain(more).collect();
        state.authority.bundle(2).with_x509_authorities(x509)
    };
    let (none, three) = (own(0), own(3));
    for (bundle, words) in [
        (three, "has 3 X.509 authorities, and AWS takes at most 2 a trust anchor"),
        (none, "has no X.509 authorities, and a trust anchor cannot be empty"),
    ] {
        setup.issuer.state().own = bundle;
        let gateway = setup.start().await;
        let error = until(&gateway, words, |now| now.last_error.is_some()).await.last_error.unwrap();
        assert!(error.contains(words), "{error}");
        gateway.stop().await;
        std::fs::remove_dir_all(setup.file("data")).unwrap();
    }
    place.server.anchor().source_type = "AWS_ACM_PCA";
    setup.issuer.state().own = own(1);
    let gateway = setup.start().await;
    let error = until(&gateway, "error", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(error.contains("is of type AWS_ACM_PCA, which is not replaced"), "{error}");
    assert!(!error.contains(SECRET));
    gateway.stop().await;
    assert_eq!(place.held().await, before);
}
