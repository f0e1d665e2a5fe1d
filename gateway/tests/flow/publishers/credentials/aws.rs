//! AWS: keys of the environment, a web identity (STS), ECS, EKS Pod Identity, EC2's instance metadata. What the chain finds
//! is proven by the signatures of the requests to S3.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract,
    response::{IntoResponse as _, Response},
    routing::{get, put},
};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Elsewhere, expiry, rfc3339, token_file};
use crate::publishers::{
    object::Object,
    programs::{free_port, python, start},
    sigv4,
};

const REGION: &str = "eu-west-1";
const PATH: &str = "/bundles/cloud.example.json";
const S3: &str = "https://s3.eu-west-1.amazonaws.com";
const METADATA: &str = "http://169.254.169.254";
const ROLE: &str = "arn:aws:iam::123456789012:role/entente";

#[derive(Debug, Clone)]
struct Key {
    id: String,
    secret: String,
    token: Option<String>,
}

/// The keys AWS gave out.
#[derive(Debug, Clone, Default)]
struct Keys(Arc<Mutex<Vec<Key>>>);

impl Keys {
    fn add(&self, key: Key) {
        self.0.lock().unwrap().push(key);
    }

    /// Gives out another one, as the services here write it. Only the last two are good.
    fn issue(&self) -> Value {
        let number = self.count() + 1;
        let (id, secret, token) = (format!("ASIA{number}"), format!("secret-{number}"), format!("token-{number}"));
        self.add(Key { id: id.clone(), secret: secret.clone(), token: Some(token.clone()) });
        json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-11-22T12:00:00Z", "RoleArn": ROLE,
            "AccessKeyId": id, "SecretAccessKey": secret, "Token": token, "Expiration": rfc3339(expiry()),
        })
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn verify(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
        let token = headers.get("x-amz-security-token").map(|token| token.to_str().unwrap());
        let good: Vec<Key> = self.0.lock().unwrap().iter().rev().take(2).cloned().collect();
        let mut problem = "no keys".to_owned();
        for key in good.iter().filter(|key| key.token.as_deref() == token) {
            let signer = sigv4::Signer { key_id: &key.id, secret: &key.secret, region: REGION, service: "s3" };
            match sigv4::verify(&signer, method.as_str(), uri.path(), headers, body) {
                Ok(()) => return Ok(()),
                Err(reason) => problem = reason,
            }
        }
        Err(problem)
    }
}

/// S3 with one object.
#[derive(Debug, Clone, Default)]
struct Storage {
    keys: Keys,
    object: Object,
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(Body::from(body)).unwrap()
}

async fn s3(
    extract::State(storage): extract::State<Storage>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(problem) = storage.keys.verify(&method, &uri, &headers, &body) {
        return refusal(403, "SignatureDoesNotMatch", &problem);
    }
    assert_eq!(uri.path(), PATH);
    let mut object = storage.object.state();
    let tag = |version: u64| format!("\"{version}\"");
    match (&method, object.document.clone()) {
        (&Method::GET, None) => refusal(404, "NoSuchKey", "The specified key does not exist."),
        (&Method::GET, Some(document)) => Response::builder()
            .header("etag", tag(object.version))
            .header("last-modified", "Sun, 22 Nov 2026 12:00:00 GMT")
            .header("content-length", document.len())
            .body(Body::from(document))
            .unwrap(),
        (_, held) => {
            let condition = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let expected = held.map(|_| tag(object.version));
            if condition("if-match") != expected || condition("if-none-match").is_some() == expected.is_some() {
                return refusal(412, "PreconditionFailed", "At least one of the pre-conditions did not hold");
            }
            object.put(&body);
            Response::builder().header("etag", tag(object.version)).body(Body::empty()).unwrap()
        }
    }
}

impl Storage {
    fn router(&self) -> Router {
        Router::new().fallback(s3).with_state(self.clone())
    }
}

fn publisher() -> Value {
    json!({"aws_s3": {"region": REGION, "bucket": "bundles", "object_key": "cloud.example.json"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_environment() {
    let storage = Storage::default();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "of the environment".to_owned()),
        ("AWS_SESSION_TOKEN", "session".to_owned()),
    ];
    let gateway = Elsewhere::start(publisher(), &environment, vec![(S3, storage.router())]).await;
    assert!(gateway.refused().await.contains("SignatureDoesNotMatch: no keys"));
    let [id, secret, token] = environment.map(|(_, value)| value);
    storage.keys.add(Key { id, secret, token: Some(token) });
    gateway.published(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_becomes_keys_at_the_regions_sts() {
    let storage = Storage::default();
    let (_folder, token) = token_file("the token of the service account");
    // moto answers as STS does; what it gives out is good from then on.
    let port = free_port();
    let mut command = Command::new(python());
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let log = tempfile::tempdir().unwrap();
    let _moto = start(&mut command, port, &log.path().join("moto.log")).await;
    let (keys, client) = (storage.keys.clone(), reqwest::Client::builder().no_proxy().build().unwrap());
    let sts = move |uri: Uri, headers: HeaderMap| async move {
        let query = uri.query().unwrap_or_default();
        let asked: std::collections::BTreeMap<String, String> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(asked["Action"], "AssumeRoleWithWebIdentity");
        assert_eq!(
            (asked["RoleArn"].as_str(), asked["RoleSessionName"].as_str(), asked["WebIdentityToken"].as_str()),
            (ROLE, "gateway-1", "the token of the service account")
        );
        assert!(!headers.contains_key("authorization"), "STS is asked without keys");
        // STS takes either; moto looks for the action in the body.
        let request = client.post(format!("http://127.0.0.1:{port}/")).body(query.to_owned());
        let answer = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let tag = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name}: {text}"));
            rest.split_once("</").unwrap().0.to_owned()
        };
        let token = Some(tag("SessionToken"));
        keys.add(Key { id: tag("AccessKeyId"), secret: tag("SecretAccessKey"), token });
        (status, text)
    };
    let hosts = vec![(S3, storage.router()), ("https://sts.eu-west-1.amazonaws.com", Router::new().fallback(sts))];
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_ROLE_ARN", ROLE.to_owned()),
        ("AWS_ROLE_SESSION_NAME", "gateway-1".to_owned()),
    ];
    let gateway = Elsewhere::start(publisher(), &environment, hosts).await;
    gateway.published(1).await;
    assert_eq!(storage.keys.count(), 1, "kept while they are good");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_of_ecs_has_its_tasks_role() {
    let storage = Storage::default();
    let keys = storage.keys.clone();
    let task = Router::new().route("/v2/credentials/a-task", get(move || async move { Json(keys.issue()) }));
    let hosts = vec![(S3, storage.router()), ("http://169.254.170.2", task)];
    let environment = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/a-task".to_owned())];
    let gateway = Elsewhere::start(publisher(), &environment, hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| storage.keys.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_eks_has_its_identity_by_a_token_that_is_renewed_too() {
    let storage = Storage::default();
    let (_folder, token) = token_file("first");
    let (keys, expected) = (storage.keys.clone(), token.clone());
    let agent = move |headers: HeaderMap| async move {
        if headers["authorization"].as_bytes() != std::fs::read(&expected).unwrap() {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        Json(keys.issue()).into_response()
    };
    let hosts =
        vec![(S3, storage.router()), ("http://169.254.170.23", Router::new().route("/v1/credentials", get(agent)))];
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials".to_owned()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string()),
    ];
    let gateway = Elsewhere::start(publisher(), &environment, hosts).await;
    gateway.published(1).await;
    std::fs::write(&token, "second").unwrap();
    gateway.goes_on_with_renewed(|| storage.keys.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_ec2_has_its_profile_by_imdsv2() {
    const SESSION: &str = "session-of-imds";
    let storage = Storage::default();
    let session = |headers: HeaderMap| async move {
        assert_eq!(headers["x-aws-ec2-metadata-token-ttl-seconds"], "600");
        SESSION
    };
    let known = |headers: &HeaderMap| headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == SESSION);
    let role = move |headers: HeaderMap| async move {
        if known(&headers) { "entente".into_response() } else { StatusCode::UNAUTHORIZED.into_response() }
    };
    let keys = storage.keys.clone();
    let credentials = move |extract::Path(role): extract::Path<String>, headers: HeaderMap| async move {
        assert_eq!(role, "entente");
        if known(&headers) { Json(keys.issue()).into_response() } else { StatusCode::UNAUTHORIZED.into_response() }
    };
    let metadata = Router::new()
        .route("/latest/api/token", put(session))
        .route("/latest/meta-data/iam/security-credentials/", get(role))
        .route("/latest/meta-data/iam/security-credentials/{role}", get(credentials));
    let hosts = vec![(S3, storage.router()), (METADATA, metadata)];
    let gateway = Elsewhere::start(publisher(), &[], hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| storage.keys.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_credentials_the_error_says_so() {
    let storage = Storage::default();
    let nothing = Router::new().fallback(|| async { StatusCode::NOT_FOUND });
    let hosts = vec![(S3, storage.router()), (METADATA, nothing)];
    let gateway = Elsewhere::start(publisher(), &[], hosts).await;
    let error = gateway.refused().await;
    assert!(error.contains("404"), "{error}");
    assert!(gateway.internet.asked().iter().all(|asked| !asked.contains("s3.")), "S3 is not asked without");
}
