//! Google: the metadata server, and the application default credentials.

use axum::{
    Form, Json, Router,
    response::IntoResponse as _,
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{Elsewhere, token_file};
use crate::publishers::google::{publisher, service_account};

const STORAGE: &str = "https://storage.googleapis.com";
const METADATA: &str = "http://metadata.google.internal";

/// Clients of Google renew what lasts for less than four minutes more.
const LIFE: u64 = 4 * 60 + 2;

fn place() -> Value {
    json!({ "gcp_cloudstorage": publisher() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_server_gives_tokens_which_are_renewed() {
    let (_, storage) = service_account();
    let tokens = storage.tokens.clone();
    let token = move |headers: HeaderMap| async move {
        if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return StatusCode::FORBIDDEN.into_response();
        }
        let token = json!({"access_token": tokens.issue(), "expires_in": LIFE, "token_type": "Bearer"});
        ([("metadata-flavor", "Google")], Json(token)).into_response()
    };
    let metadata = Router::new().route("/computeMetadata/v1/instance/service-accounts/default/token", get(token));
    let hosts = vec![(STORAGE, storage.router()), (METADATA, metadata)];
    let gateway = Elsewhere::start(place(), &[], hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| storage.tokens.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn application_default_credentials_of_a_service_account_sign_their_own_tokens() {
    let (account, storage) = service_account();
    let (_folder, file) = token_file(&account.to_string());
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
    let gateway = Elsewhere::start(place(), &environment, vec![(STORAGE, storage.router())]).await;
    gateway.published(1).await;
    assert!(gateway.internet.asked().iter().all(|asked| asked.contains("storage.googleapis.com")), "nobody is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn application_default_credentials_of_a_user_are_exchanged_and_renewed() {
    let (_, storage) = service_account();
    let tokens = storage.tokens.clone();
    let exchange = move |Form(form): Form<std::collections::BTreeMap<String, String>>| async move {
        let expected = [
            ("client_id", "an-application"),
            ("client_secret", "its-secret"),
            ("grant_type", "refresh_token"),
            ("refresh_token", "1//of-the-user"),
        ];
        assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        Json(json!({"access_token": tokens.issue(), "expires_in": LIFE, "token_type": "Bearer", "scope": "all"}))
    };
    let user = json!({
        "type": "authorized_user", "client_id": "an-application", "client_secret": "its-secret",
        "refresh_token": "1//of-the-user",
    });
    let (_folder, file) = token_file(&user.to_string());
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
    let accounts = Router::new().route("/o/oauth2/token", post(exchange));
    let hosts = vec![(STORAGE, storage.router()), ("https://accounts.google.com", accounts)];
    let gateway = Elsewhere::start(place(), &environment, hosts).await;
    gateway.published(1).await;
    gateway.goes_on_with_renewed(|| storage.tokens.count()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_identity_federation_is_refused_by_name() {
    let (_, storage) = service_account();
    let external =
        json!({"type": "external_account", "audience": "//iam.googleapis.com/x", "token_url": "https://sts"});
    let (_folder, file) = token_file(&external.to_string());
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
    let gateway = Elsewhere::start(place(), &environment, vec![(STORAGE, storage.router())]).await;
    let error = gateway.refused().await;
    assert!(error.starts_with("no usable credentials: ") && error.contains("external_account"), "{error}");
    assert_eq!(gateway.internet.asked(), [""; 0]);
}
