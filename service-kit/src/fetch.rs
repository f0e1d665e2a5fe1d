//! Bounded HTTPS GET: deadline, body cap, redirect rules, conditional requests, and a guard on the addresses asked. Bounded
//! POST for notifications.

mod address;
mod connection;
mod error;
mod explain;
mod names;
mod network;
mod post;
mod proxy;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use rustls::ClientConfig;
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::tls::{self, ServerTrust};
use connection::{Connection, Maker};
use explain::{Stage, classify};

pub use address::{AddressGuard, AddressKind};
pub use error::FetchError;
pub use explain::explain;
pub use network::{KEPT_FOR, MAX_KEPT_CONNECTIONS, Network};
pub use post::{MAX_ANSWER_BYTES, PostAnswer, Poster, check_post_url, origin};
pub use proxy::{MAX_NO_PROXY, Proxy, ProxyError};

/// Redirects followed in one fetch. None is remembered.
pub const MAX_REDIRECTS: usize = 5;

/// Longest URL asked for or redirected to.
pub const MAX_URL_BYTES: usize = 2048;

/// What servers are told who asks.
const USER_AGENT: &str = concat!("entente/", env!("CARGO_PKG_VERSION"));

/// Longest ETag kept.
pub const MAX_ETAG_BYTES: usize = 512;

/// What bounds a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// For the whole fetch, redirects and body included.
    pub deadline: Duration,
    /// For the body, in bytes.
    pub max_body_bytes: usize,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The server still has what `etag` named.
    NotModified,
    /// A document.
    Body {
        /// Its bytes, as sent.
        bytes: Vec<u8>,
        /// Its ETag, to ask with the next time.
        etag: Option<String>,
        /// The URL it came from, after redirects.
        url: Url,
    },
}

/// Fetches over https with one trust and one guard, which redirects are held to as well.
pub struct Fetcher {
    network: Network,
    guard: AddressGuard,
    trust: ServerTrust,
    tls: Arc<ClientConfig>,
    kept: Mutex<Option<Kept>>,
}

/// The connection of the last fetch.
struct Kept {
    connection: Connection,
    /// Held while nothing is fetched.
    room: Option<OwnedSemaphorePermit>,
}

/// What one request brought.
enum Answer {
    Outcome(FetchOutcome),
    Redirect(Url),
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher of what is served by servers `trust` believes at addresses `guard` lets pass.
    ///
    /// Make another one when the trust changes: connections and sessions end with it.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(network: Network, trust: ServerTrust, guard: AddressGuard) -> Result<Self, FetchError> {
        let tls = trust.client_config(&[tls::ALPN_H2, tls::ALPN_HTTP11]);
        let tls = Arc::new(tls.map_err(|error| FetchError::Client(error.into()))?);
        Ok(Self { network, guard, trust, tls, kept: Mutex::new(None) })
    }

    /// Fetches `url` within `limits`, unless the server says that what `etag` names is still current.
    ///
    /// # Errors
    /// [`FetchError`]; nothing is kept of a failed fetch.
    pub async fn get(&self, url: &Url, etag: Option<&str>, limits: FetchLimits) -> Result<FetchOutcome, FetchError> {
        check_url(url).map_err(|reason| FetchError::Url { url: url.to_string(), reason })?;
        tokio::select! {
            outcome = self.follow(url, etag, limits) => outcome,
            () = self.network.clock().sleep(limits.deadline) => {
                Err(FetchError::Timeout { url: url.to_string(), deadline: limits.deadline })
            }
        }
    }

    /// Says when the next fetch comes: a connection is kept for it only if that is soon, within [`KEPT_FOR`], and
    /// there are not too many already.
    pub fn rest(&self, next: Duration) {
        let mut kept = self.kept();
        if let Some(one) = kept.as_mut().filter(|_| next <= KEPT_FOR) {
            one.room = one.room.take().or_else(|| self.network.room());
        }
        if next > KEPT_FOR || kept.as_ref().is_some_and(|one| one.room.is_none()) {
            *kept = None;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self, first: &Url, etag: Option<&str>, limits: FetchLimits) -> Result<FetchOutcome, FetchError> {
        let mut url = first.clone();
        for redirects in 0..=MAX_REDIRECTS {
            match self.ask(url, etag, limits).await {
                Ok(Answer::Outcome(outcome)) => return Ok(outcome),
                Ok(Answer::Redirect(target)) => url = target,
                Err(error) if redirects == 0 => return Err(error),
                Err(error) => {
                    return Err(FetchError::Redirected { url: first.to_string(), error: Box::new(error) });
                }
            }
        }
        Err(FetchError::TooManyRedirects { url: first.to_string() })
    }

    /// One request.
    async fn ask(&self, url: Url, etag: Option<&str>, limits: FetchLimits) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*;q=0.1"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(value) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(header::IF_NONE_MATCH, value);
        }
        let (connection, response) = self.send(&url, headers, limits).await?;
        let status = response.status();
        let answer = match status {
            StatusCode::NOT_MODIFIED if etag.is_some() => Answer::Outcome(FetchOutcome::NotModified),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => return redirect_target(&url, response.headers()).map(Answer::Redirect),
            StatusCode::OK => {
                let body = body(url, response, limits.max_body_bytes);
                Answer::Outcome(body.await?)
            }
            _ => return Err(FetchError::Status { url: url.to_string(), status }),
        };
        *self.kept() = Some(Kept { connection, room: None });
        Ok(answer)
    }

    /// Sends a request over the connection kept, or over a new one.
    async fn send(
        &self,
        url: &Url,
        headers: HeaderMap,
        limits: FetchLimits,
    ) -> Result<(Connection, Response<Incoming>), FetchError> {
        let kept = self.kept().take().map(|kept| kept.connection);
        let now = self.network.clock().now();
        if let Some(mut connection) = kept.filter(|kept| kept.serves(url, &self.trust, now)) {
            // The server may have closed it in this moment; a GET may be repeated.
            match connection.send((url, url), Method::GET, headers.clone(), Bytes::new()).await {
                Ok(response) => return Ok((connection, response)),
                Err(error) => tracing::debug!(%url, %error, "connection kept is of no use any more"),
            }
        }
        let maker = Maker {
            network: &self.network,
            guard: &self.guard,
            tls: &self.tls,
            trust: &self.trust,
            deadline: limits.deadline,
        };
        let mut connection = maker.connect(url).await?;
        let response = connection.send((url, url), Method::GET, headers, Bytes::new()).await?;
        Ok((connection, response))
    }
}

async fn body(url: Url, response: Response<Incoming>, limit: usize) -> Result<FetchOutcome, FetchError> {
    let (head, mut body) = response.into_parts();
    if let Some(encoding) = head.headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).chars().take(32).collect();
        return Err(FetchError::Encoding { url: url.to_string(), encoding });
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(FetchError::TooLarge { url: url.to_string(), limit });
    }
    let etag = head.headers.get(header::ETAG).and_then(|value| value.to_str().ok()).map(str::to_string);
    let etag = etag.filter(|etag| etag.len() <= MAX_ETAG_BYTES);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| classify(&url, Stage::Http, &error))?;
        let Some(chunk) = frame.data_ref() else { continue };
        if bytes.len() + chunk.len() > limit {
            return Err(FetchError::TooLarge { url: url.to_string(), limit });
        }
        bytes.extend_from_slice(chunk);
    }
    Ok(FetchOutcome::Body { bytes: bytes.into(), etag, url })
}

fn check_url(url: &Url) -> Result<(), &'static str> {
    if url.as_str().len() > MAX_URL_BYTES {
        return Err("it is too long");
    }
    if url.scheme() != "https" {
        return Err("only https is allowed");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name or password");
    }
    Ok(())
}

/// The URL as it may be shown.
fn without_user(url: &Url) -> Url {
    let mut url = url.clone();
    // Neither fails for a URL that carries them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let bad = |location: &str, reason| FetchError::BadRedirect {
        url: from.to_string(),
        location: location.chars().take(MAX_URL_BYTES).collect(),
        reason,
    };
    let location = headers.get(header::LOCATION).ok_or_else(|| bad("", "it names no location"))?;
    let location = location.to_str().map_err(|_| bad("", "its location is not text"))?;
    let target = from.join(location).map_err(|_| bad(location, "it is not a URL"))?;
    check_url(&target).map_err(|reason| bad(without_user(&target).as_str(), reason))?;
    Ok(target)
}

#[cfg(test)]
mod tests;
