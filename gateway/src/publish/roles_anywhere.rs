//! A trust anchor of AWS IAM Roles Anywhere (its API Reference: GetTrustAnchor, UpdateTrustAnchor).
//!
//! The service has no conditional update. A request ends with its timeout, which is shorter than the wait before the
//! next attempt can begin to write, and every write is read back, so that a late one is put right at the next look.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use federation_specs::{bundle::Bundle, id::TrustDomain};
use http::{Method, StatusCode, header};
use object_store::{
    aws::{AwsAuthorizer, AwsCredentialProvider},
    client::{HttpRequest, HttpRequestBody},
};
use reqwest::redirect;
use serde::Deserialize;
use serde_json::json;
use service_kit::{
    clock::SystemClock,
    tls::{WebRoots, web_client_config},
};

use super::{
    BundlePublisher, PublisherError, Seen, aws_credentials,
    cloud::{failed, said},
    error::{chain, reason},
    format,
};
use crate::settings::TrustAnchorPlace;

/// Name of the service in signatures and host names.
const SERVICE: &str = "rolesanywhere";

/// Most certificates of a trust anchor; the quota cannot be raised.
const MAX_CERTIFICATES: usize = 2;

/// Most characters of `x509CertificateData`.
const MAX_PEM_BYTES: usize = 8000;

/// Longest one request takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A trust anchor.
struct TrustAnchor {
    url: String,
    region: String,
    trust_domain: TrustDomain,
    credentials: AwsCredentialProvider,
    client: reqwest::Client,
}

/// Prepares access to one trust anchor.
pub(super) fn connect(
    place: &TrustAnchorPlace,
    trust_domain: &TrustDomain,
) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let TrustAnchorPlace { id, account } = place;
    let base = match &account.endpoint {
        Some(endpoint) => endpoint.url.clone(),
        None => {
            let suffix = if account.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://{SERVICE}.{}.{suffix}", account.region)
        }
    };
    // Nothing is asked of S3: its builder knows where AWS credentials come from.
    let s3 = aws_credentials::builder(account)?.with_bucket_name(SERVICE).build();
    let credentials = s3.map_err(|error| PublisherError::Credentials(said(&error)))?.credentials().clone();
    let unusable = |error: &(dyn std::error::Error + 'static)| PublisherError::Unreachable(chain(error));
    let tls = web_client_config(&WebRoots::System, SystemClock::shared(), &[]).map_err(|error| unusable(&error))?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured((*tls).clone())
        .timeout(TIMEOUT)
        .redirect(redirect::Policy::none())
        .build()
        .map_err(|error| unusable(&error))?;
    Ok(Arc::new(TrustAnchor {
        url: format!("{base}/trustanchor/{id}"),
        region: account.region.clone(),
        trust_domain: trust_domain.clone(),
        credentials,
        client,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    trust_anchor: Anchor,
}

#[derive(Debug, Deserialize)]
struct Anchor {
    source: Source,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    source_type: String,
    #[serde(default)]
    source_data: SourceData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceData {
    #[serde(default)]
    x509_certificate_data: Option<String>,
}

/// The `source` of a trust anchor that is a list of certificates.
const CERTIFICATE_BUNDLE: &str = "CERTIFICATE_BUNDLE";

impl TrustAnchor {
    async fn call(&self, action: &'static str, method: Method, body: Vec<u8>) -> Result<Anchor, PublisherError> {
        let credential = self.credentials.get_credential().await.map_err(|error| match failed(action, &error) {
            network @ PublisherError::Unreachable(_) => network,
            _ => PublisherError::Credentials(said(&error)),
        })?;
        let request = http::Request::builder()
            .method(method)
            .uri(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(HttpRequestBody::from(body.clone()));
        let mut request: HttpRequest = request.map_err(|error| PublisherError::Refused(chain(&error)))?;
        let authorizer = AwsAuthorizer::new(&credential, SERVICE, &self.region);
        authorizer.try_authorize(&mut request, None).map_err(|error| PublisherError::Credentials(said(&error)))?;
        let (parts, _) = request.into_parts();
        let sent = self.client.request(parts.method, &self.url).headers(parts.headers).body(body).send().await;
        let unreachable = |error: reqwest::Error| PublisherError::Unreachable(chain(&error.without_url()));
        let mut response = sent.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(PublisherError::Refused(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(refusal(action, status, &bytes));
        }
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| PublisherError::Refused(format!("the answer is not understood: {error}")))?;
        Ok(answer.trust_anchor)
    }
}

/// What an error answer means; its body is `{"message": …}`.
fn refusal(action: &'static str, status: StatusCode, body: &[u8]) -> PublisherError {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value.get("message").or_else(|| value.get("Message"))?.as_str().map(reason));
    let said = message.unwrap_or_else(|| format!("status {status}"));
    match status {
        StatusCode::UNAUTHORIZED => PublisherError::Credentials(said),
        StatusCode::FORBIDDEN => PublisherError::Denied { action, reason: said },
        StatusCode::NOT_FOUND => PublisherError::Missing(format!("{said}; create the trust anchor first")),
        StatusCode::TOO_MANY_REQUESTS => PublisherError::Unreachable(said),
        status if status.is_server_error() => PublisherError::Unreachable(said),
        _ => PublisherError::Refused(said),
    }
}

#[async_trait]
impl BundlePublisher for TrustAnchor {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        let document = format::pem_of_some(bundle, "trust anchor")?;
        let count = bundle.x509_authorities().len();
        if count > MAX_CERTIFICATES {
            return Err(PublisherError::Unfit(format!(
                "the bundle has {count} X.509 authorities, and AWS takes at most {MAX_CERTIFICATES} a trust anchor; \
                 it is published once the issuer has removed old ones"
            )));
        }
        if document.len() > MAX_PEM_BYTES {
            return Err(PublisherError::Unfit(format!(
                "the X.509 authorities have {} bytes as PEM, and AWS takes at most {MAX_PEM_BYTES}; use smaller keys",
                document.len()
            )));
        }
        Ok(document)
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let source = self.call("reading", Method::GET, Vec::new()).await?.source;
        if source.source_type != CERTIFICATE_BUNDLE {
            return Err(PublisherError::Unfit(format!(
                "the trust anchor is of type {}, which is not replaced; use one of type {CERTIFICATE_BUNDLE}",
                reason(&source.source_type)
            )));
        }
        let pem = source.source_data.x509_certificate_data.unwrap_or_default();
        // The service may write the same certificates differently.
        let document = match Bundle::parse_pem_roots(self.trust_domain.clone(), pem.as_bytes()) {
            Ok(bundle) => format::pem(&bundle).into_bytes(),
            Err(_) => pem.into_bytes(),
        };
        Ok(Seen { document: Some(document), version: None })
    }

    async fn write(&self, document: &[u8], _seen: &Seen) -> Result<(), PublisherError> {
        let source = json!({ "source": {
            "sourceType": CERTIFICATE_BUNDLE,
            "sourceData": { "x509CertificateData": String::from_utf8_lossy(document) },
        }});
        self.call("writing", Method::PATCH, source.to_string().into_bytes()).await.map(|_| ())
    }
}
