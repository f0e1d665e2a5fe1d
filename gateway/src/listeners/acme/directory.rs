//! Requests to the certificate authority: bounded in time and size, its `Retry-After` kept.

use std::{
    fmt,
    io::Read as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use instant_acme::{Account, AccountBuilder, BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::{Client, redirect};
use service_kit::{
    clock::SharedClock,
    fetch,
    tls::{ALPN_H2, ALPN_HTTP11, WebRoots, web_client_config},
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use url::Url;

use super::error::{AcmeError, Failed};
use crate::settings::AcmeSettings;

/// Time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Largest file of authorities.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// Longest pause a directory can ask for.
const MAX_RETRY_AFTER: time::Duration = time::Duration::days(7);

/// The certificate authority's directory. Clones share the connection.
#[derive(Clone)]
pub(super) struct Directory {
    client: Client,
    clock: SharedClock,
    retry_after: Arc<Mutex<Option<OffsetDateTime>>>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

impl Directory {
    /// Reads the authorities that sign the directory's certificate. Asks nothing yet.
    pub(super) fn new(settings: &AcmeSettings, clock: SharedClock) -> Result<Self, AcmeError> {
        let roots = match &settings.ca_file {
            None => WebRoots::System,
            Some(path) => WebRoots::Pem(read_ca_file(path)?),
        };
        let tls = web_client_config(&roots, Arc::clone(&clock), &[ALPN_H2, ALPN_HTTP11])
            .map_err(|error| AcmeError::CaFile(error.to_string()))?;
        let client = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .https_only(true)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("entente/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| AcmeError::Unreachable(fetch::FetchError::Client(error.into())))?;
        Ok(Self { client, clock, retry_after: Arc::default() })
    }

    /// Makes accounts that speak to this directory.
    pub(super) fn builder(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.clone()))
    }

    /// When the last answer that said so asked to come again; forgotten with this call.
    pub(super) fn take_retry_after(&self) -> Option<OffsetDateTime> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await.map_err(|error| Error::Other(error.into()))?;
        let bad_url = || AcmeError::NotAcme(format!("the directory (it names the URL `{}`)", parts.uri));
        let url = Url::parse(&parts.uri.to_string()).map_err(|_| failed(bad_url()))?;
        let mut request = self.client.request(parts.method, url.clone()).body(body);
        if let Some(value) = parts.headers.get(header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, value);
        }
        let exchange = async {
            let answer = request.send().await.map_err(|error| unreachable(&url, &error))?;
            let mut made = http::Response::new(());
            *made.status_mut() = answer.status();
            *made.headers_mut() = answer.headers().clone();
            *made.version_mut() = answer.version();
            let body = read(answer, &url).await?;
            Ok((made.into_parts().0, body))
        };
        let timeout =
            || AcmeError::Unreachable(fetch::FetchError::Timeout { url: url.to_string(), deadline: REQUEST_TIMEOUT });
        let (parts, body) = tokio::select! {
            done = exchange => done.map_err(failed)?,
            () = self.clock.sleep(REQUEST_TIMEOUT) => return Err(failed(timeout())),
        };
        let asked = retry_after(&parts.headers, self.clock.now());
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        // Proxies and web servers in front of the directory answer failures in formats of their own.
        if !parts.status.is_success() && !is_problem(&parts.headers) {
            let what = format!("{url} answered {}", parts.status);
            let passing = parts.status.is_server_error() || parts.status == http::StatusCode::TOO_MANY_REQUESTS;
            return Err(failed(if passing { AcmeError::Trouble(what) } else { AcmeError::NotAcme(what) }));
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Directory {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

fn failed(error: AcmeError) -> Error {
    Error::Other(Box::new(Failed::from(error)))
}

fn unreachable(url: &Url, error: &reqwest::Error) -> AcmeError {
    match fetch::explain(url, error) {
        fetch::FetchError::Untrusted { url, reason } => AcmeError::Untrusted { url, reason },
        other => AcmeError::Unreachable(other),
    }
}

async fn read(mut answer: reqwest::Response, url: &Url) -> Result<Bytes, AcmeError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(url, &error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(AcmeError::NotAcme(format!("{url} (it sent more than {MAX_BODY_BYTES} bytes)")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn read_ca_file(path: &Path) -> Result<Vec<u8>, AcmeError> {
    let error = |source: std::io::Error| AcmeError::CaFile(format!("cannot read {}: {source}", path.display()));
    let mut pem = Vec::new();
    std::fs::File::open(path).map_err(error)?.take(MAX_CA_FILE_BYTES).read_to_end(&mut pem).map_err(error)?;
    Ok(pem)
}

fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/problem+json"))
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date.
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u32>() {
        Ok(seconds) => time::Duration::seconds(seconds.into()),
        Err(_) => OffsetDateTime::parse(text, &Rfc2822).ok()? - now,
    };
    Some(now + wait.clamp(time::Duration::ZERO, MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = datetime!(2026-11-22 10:00 UTC);
        let parsed = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(parsed("120"), Some(datetime!(2026-11-22 10:02 UTC)));
        assert_eq!(parsed("Sun, 22 Nov 2026 11:00:00 GMT"), Some(datetime!(2026-11-22 11:00 UTC)));
        assert_eq!(parsed("Sun, 22 Nov 2020 11:00:00 GMT"), Some(now), "the past is now");
        assert_eq!(parsed("4294967295"), Some(now + MAX_RETRY_AFTER));
        assert_eq!(parsed("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
