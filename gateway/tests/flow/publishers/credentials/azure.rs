//! Azure: workload identity, an application with a secret, managed identity.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Form, Json, Router,
    extract::Query,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{Elsewhere, KEPT, LAST_MINUTES, expiry, token_file};
use crate::publishers::azure::{Service, publisher};

const BLOBS: &str = "https://ententetest.blob.core.windows.net";
const LOGIN: &str = "https://login.microsoftonline.com";
const METADATA: &str = "http://169.254.169.254";
const TENANT: &str = "0c0f4a1e-0000-4000-8000-000000000001";
const CLIENT: &str = "0c0f4a1e-0000-4000-8000-000000000002";

type Fields = BTreeMap<String, String>;

fn place(identity: &Value) -> Value {
    let mut publisher = publisher();
    publisher.as_object_mut().unwrap().extend(identity.as_object().unwrap().clone());
    json!({ "azure_blob": publisher })
}

/// Microsoft's login: gives out tokens for what carries these fields.
fn login(service: &Service, expected: Arc<Mutex<Fields>>) -> Router {
    let tokens = service.tokens.clone();
    let token = move |Form(form): Form<Fields>| async move {
        if form != *expected.lock().unwrap() {
            let error = json!({"error": "invalid_client", "error_description": "AADSTS700016: not you"});
            return (StatusCode::UNAUTHORIZED, Json(error)).into_response();
        }
        let life = LAST_MINUTES + KEPT;
        let token = json!({
            "token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": tokens.issue(),
        });
        Json(token).into_response()
    };
    Router::new().route(&format!("/{TENANT}/oauth2/v2.0/token"), post(token))
}

fn fields(all: &[(&str, &str)]) -> Fields {
    let common =
        [("client_id", CLIENT), ("grant_type", "client_credentials"), ("scope", "https://storage.azure.com/.default")];
    common.iter().chain(all).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn assertion(token: &str) -> Fields {
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    fields(&[("client_assertion_type", kind), ("client_assertion", token)])
}

fn application() -> [(&'static str, String); 2] {
    [("AZURE_TENANT_ID", TENANT.to_owned()), ("AZURE_CLIENT_ID", CLIENT.to_owned())]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_identity_becomes_tokens_with_the_file_read_again() {
    let service = Service::default();
    let (_folder, file) = token_file("first token of the service account");
    let expected = Arc::new(Mutex::new(assertion("first token of the service account")));
    let hosts = vec![(BLOBS, service.router()), (LOGIN, login(&service, Arc::clone(&expected)))];
    let [tenant, client] = application();
    let environment = [tenant, client, ("AZURE_FEDERATED_TOKEN_FILE", file.display().to_string())];
    let gateway = Elsewhere::start(place(&json!({})), &environment, hosts).await;
    gateway.published(1).await;
    *expected.lock().unwrap() = assertion("second");
    std::fs::write(&file, "second").unwrap();
    let before = service.tokens.count();
    gateway.goes_on_with_renewed(|| service.tokens.count().saturating_sub(before)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_has_a_secret_in_the_environment() {
    let service = Service::default();
    let expected = Arc::new(Mutex::new(fields(&[("client_secret", "of the environment")])));
    let hosts = vec![(BLOBS, service.router()), (LOGIN, login(&service, expected))];
    let [tenant, client] = application();
    let environment = [tenant, client, ("AZURE_CLIENT_SECRET", "of the environment".to_owned())];
    let gateway = Elsewhere::start(place(&json!({})), &environment, hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| service.tokens.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_has_a_secret_in_a_file_which_is_read_again_after_a_failure() {
    let service = Service::default();
    let (_folder, file) = token_file("wrong\n");
    let expected = Arc::new(Mutex::new(fields(&[("client_secret", "of the file")])));
    let hosts = vec![(BLOBS, service.router()), (LOGIN, login(&service, expected))];
    let identity = json!({"tenant_id": TENANT, "app_id": CLIENT, "app_secret_file": file});
    let gateway = Elsewhere::start(place(&identity), &[], hosts).await;
    let error = gateway.refused().await;
    assert!(error.contains("401") && !error.contains("wrong"), "{error}");
    std::fs::write(&file, "of the file\n").unwrap();
    gateway.published(1).await;
}

/// The instance's metadata service; `client_id` is the user-assigned identity that has to be asked for.
fn metadata(service: &Service, client_id: Option<&'static str>) -> Router {
    let tokens = service.tokens.clone();
    let token = move |Query(asked): Query<Fields>, headers: HeaderMap| async move {
        let refused: Response = StatusCode::BAD_REQUEST.into_response();
        if headers.get("metadata").is_none_or(|value| value != "true") {
            return refused;
        }
        let mut expected = BTreeMap::from([("api-version", "2019-08-01"), ("resource", "https://storage.azure.com")]);
        expected.extend(client_id.map(|id| ("client_id", id)));
        if asked.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<BTreeMap<_, _>>() != expected {
            return refused;
        }
        let expires_on = expiry().unix_timestamp().to_string();
        let token = json!({
            "access_token": tokens.issue(), "refresh_token": "", "token_type": "Bearer", "resource": "https://storage.azure.com",
            "expires_in": (LAST_MINUTES + KEPT).to_string(), "expires_on": expires_on, "not_before": "0",
        });
        Json(token).into_response()
    };
    Router::new().route("/metadata/identity/oauth2/token", get(token))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_identity_has_tokens_which_are_renewed() {
    let service = Service::default();
    let hosts = vec![(BLOBS, service.router()), (METADATA, metadata(&service, None))];
    let gateway = Elsewhere::start(place(&json!({})), &[], hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| service.tokens.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_managed_identities_is_chosen_by_its_client_id() {
    let service = Service::default();
    let hosts = vec![(BLOBS, service.router()), (METADATA, metadata(&service, Some(CLIENT)))];
    let gateway = Elsewhere::start(place(&json!({"app_id": CLIENT})), &[], hosts).await;
    gateway.published(1).await;
}
