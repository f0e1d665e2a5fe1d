//! Bounded HTTPS GET: deadline, body cap, redirect rules, conditional requests.

mod explain;

use std::{fmt, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, redirect};
use rustls::ClientConfig;
use url::Url;

use crate::{clock::SharedClock, tls};
pub use explain::explain;

/// Redirects followed in one fetch. None is remembered.
pub const MAX_REDIRECTS: usize = 5;

/// Longest URL asked for or redirected to.
pub const MAX_URL_BYTES: usize = 2048;

/// Longest ETag kept.
pub const MAX_ETAG_BYTES: usize = 512;

/// How long connecting may take, within the deadline of the fetch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections kept for the next fetch from the same place. None: each fetch makes a new handshake, so that the
/// server is verified with the bundle of now.
const MAX_IDLE_CONNECTIONS: usize = 0;

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

/// Why a fetch failed. Each message names the URL and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not an absolute https URL.
    #[error("`{url}` is not a usable URL: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No answer within the deadline.
    #[error("{url} did not answer within {}; check that the server is up, or raise the timeout", crate::config::HumanDuration(*deadline))]
    Timeout {
        /// The URL.
        url: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The connection could not be made.
    #[error("cannot connect to {url}: {reason}; check the host name, the port and the network between")]
    Connect {
        /// The URL.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server could not prove who it is.
    #[error("{url} was not trusted: {reason}; check the profile, the endpoint SPIFFE ID or the CA configured for it")]
    Untrusted {
        /// The URL.
        url: String,
        /// Why not.
        reason: String,
    },
    /// What answers does not complete a TLS handshake.
    #[error("the TLS handshake with {url} failed: {reason}; check the host name and the port, or ask its operator")]
    Handshake {
        /// The URL.
        url: String,
        /// What the server did.
        reason: String,
    },
    /// Any other failure on the way.
    #[error("fetching {url} failed: {reason}; ask its operator to look at it")]
    Transport {
        /// The URL.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// Too many redirects.
    #[error("{url} redirects more than {MAX_REDIRECTS} times; configure the URL it should end at")]
    TooManyRedirects {
        /// The URL asked first.
        url: String,
    },
    /// A redirect to somewhere it may not lead.
    #[error("{url} redirects to `{location}`, which is refused: {reason}")]
    BadRedirect {
        /// The URL that redirects.
        url: String,
        /// Where to.
        location: String,
        /// Why that is refused.
        reason: &'static str,
    },
    /// Not a success.
    #[error("{url} answered {status}; check the path of the URL and the server's log")]
    Status {
        /// The URL.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// A failure at the end of redirects.
    #[error("{url} redirects: {error}")]
    Redirected {
        /// The URL asked first.
        url: String,
        /// What failed.
        #[source]
        error: Box<FetchError>,
    },
    /// More bytes than allowed.
    #[error("{url} sent more than {limit} bytes, the most accepted; is it the right URL?")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// The body is compressed although that was not asked for.
    #[error("{url} sent content-encoding `{encoding}`, which was not asked for")]
    Encoding {
        /// The URL.
        url: String,
        /// The encoding.
        encoding: String,
    },
    /// The client could not be made.
    #[error("HTTPS client cannot be made: {0}")]
    Client(#[source] reqwest::Error),
}

/// Fetches over https with one TLS policy, which redirects are held to as well.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    clock: SharedClock,
    limits: FetchLimits,
}

/// What one request brought.
enum Answer {
    Outcome(FetchOutcome),
    Redirect(Url),
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher that connects with `tls`, whose ALPN is set here.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(tls: &Arc<ClientConfig>, limits: FetchLimits, clock: SharedClock) -> Result<Self, FetchError> {
        let mut tls = (**tls).clone();
        tls.alpn_protocols = vec![tls::ALPN_H2.to_vec(), tls::ALPN_HTTP11.to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .user_agent(concat!("entente/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(FetchError::Client)?;
        Ok(Self { client, clock, limits })
    }

    /// Fetches `url`, unless the server says that what `etag` names is still current.
    ///
    /// # Errors
    /// [`FetchError`]; nothing is kept of a failed fetch.
    pub async fn get(&self, url: &Url, etag: Option<&str>) -> Result<FetchOutcome, FetchError> {
        check_url(url).map_err(|reason| FetchError::Url { url: url.to_string(), reason })?;
        tokio::select! {
            outcome = self.follow(url, etag) => outcome,
            () = self.clock.sleep(self.limits.deadline) => {
                Err(FetchError::Timeout { url: url.to_string(), deadline: self.limits.deadline })
            }
        }
    }

    async fn follow(&self, first: &Url, etag: Option<&str>) -> Result<FetchOutcome, FetchError> {
        let mut url = first.clone();
        for redirects in 0..=MAX_REDIRECTS {
            match self.ask(url, etag).await {
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
    async fn ask(&self, url: Url, etag: Option<&str>) -> Result<Answer, FetchError> {
        let mut request = self.client.get(url.clone()).header(header::ACCEPT, "application/json, */*;q=0.1");
        if let Some(value) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request = request.header(header::IF_NONE_MATCH, value);
        }
        let response = request.send().await.map_err(|error| explain(&url, &error))?;
        let status = response.status();
        match status {
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(Answer::Outcome(FetchOutcome::NotModified)),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => redirect_target(&url, response.headers()).map(Answer::Redirect),
            StatusCode::OK => self.body(url, response).await.map(Answer::Outcome),
            _ => Err(FetchError::Status { url: url.to_string(), status }),
        }
    }

    async fn body(&self, url: Url, mut response: Response) -> Result<FetchOutcome, FetchError> {
        let limit = self.limits.max_body_bytes;
        if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let encoding = String::from_utf8_lossy(encoding.as_bytes()).chars().take(32).collect();
            return Err(FetchError::Encoding { url: url.to_string(), encoding });
        }
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(FetchError::TooLarge { url: url.to_string(), limit });
        }
        let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok()).map(str::to_string);
        let etag = etag.filter(|etag| etag.len() <= MAX_ETAG_BYTES);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| explain(&url, &error))? {
            if bytes.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge { url: url.to_string(), limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(FetchOutcome::Body { bytes: bytes.into(), etag, url })
    }
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
