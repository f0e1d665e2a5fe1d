//! Bounded POST: one request within a deadline, no redirects; of the answer only its status and the beginning of its
//! body are looked at.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, redirect};
use rustls::ClientConfig;
use url::{Host, Url};

use super::{FetchError, MAX_URL_BYTES, explain::explain};
use crate::{clock::SharedClock, tls};

/// Most bytes read of an answer's body.
pub const MAX_ANSWER_BYTES: usize = 256;

/// How long connecting may take, within the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections kept to one server.
const MAX_IDLE_CONNECTIONS: usize = 1;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostAnswer {
    /// Its status; redirects are not followed.
    pub status: StatusCode,
    /// How long it asks to wait before the next request, in whole seconds.
    pub retry_after: Option<Duration>,
    /// The beginning of its body as one line of text, without control characters.
    pub beginning: String,
}

/// Posts over https with one TLS policy, or over plain http to this machine.
#[derive(Clone)]
pub struct Poster {
    client: Client,
    clock: SharedClock,
    deadline: Duration,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Poster {
    /// A client that connects with `tls`, whose ALPN is set here. `deadline` is for a whole exchange.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(tls: &Arc<ClientConfig>, deadline: Duration, clock: SharedClock) -> Result<Self, FetchError> {
        let mut tls = (**tls).clone();
        tls.alpn_protocols = vec![tls::ALPN_H2.to_vec(), tls::ALPN_HTTP11.to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("entente/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| FetchError::Client(error.into()))?;
        Ok(Self { client, clock, deadline })
    }

    /// Posts `body` with `headers` to `url`.
    ///
    /// # Errors
    /// [`FetchError`] unless the server answered, with whatever status. It shows only scheme, host and port of the URL,
    /// because the path of such URLs is often a secret.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<PostAnswer, FetchError> {
        let shown = origin(url);
        check_post_url(url).map_err(|reason| FetchError::Url { url: shown.to_string(), reason })?;
        tokio::select! {
            answer = self.exchange(url, &shown, headers, body) => answer,
            () = self.clock.sleep(self.deadline) => {
                Err(FetchError::Timeout { url: shown.to_string(), deadline: self.deadline })
            }
        }
    }

    async fn exchange(
        &self,
        url: &Url,
        shown: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<PostAnswer, FetchError> {
        let request = self.client.post(url.clone()).headers(headers).body(body);
        let response = request.send().await.map_err(|error| explain(shown, &error.without_url()))?;
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        Ok(PostAnswer { status: response.status(), retry_after, beginning: beginning(response).await })
    }
}

/// Whether something may be posted there: https, or http to this machine.
///
/// # Errors
/// What is wrong with the URL.
pub fn check_post_url(url: &Url) -> Result<(), &'static str> {
    if url.as_str().len() > MAX_URL_BYTES {
        return Err("it is too long");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(url) => {}
        _ => return Err("only https is allowed, and http to 127.0.0.1 or [::1]"),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name or password");
    }
    Ok(())
}

/// Scheme, host and port of a URL: all of it that may be shown where its path may be a secret.
pub fn origin(url: &Url) -> Url {
    let mut origin = url.clone();
    origin.set_path("");
    origin.set_query(None);
    origin.set_fragment(None);
    // Neither fails for a URL that carries them.
    let _ = origin.set_username("");
    let _ = origin.set_password(None);
    origin
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    }
}

async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    // What breaks off after the status changes nothing about it.
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(chunk.get(..MAX_ANSWER_BYTES - bytes.len()).unwrap_or(&chunk));
        if bytes.len() >= MAX_ANSWER_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["https://hooks.example/x", "http://127.0.0.1:8080/x", "http://[::1]/x"] {
            assert_eq!(check_post_url(&good.parse().unwrap()), Ok(()), "{good}");
        }
        let cases = [
            ("http://hooks.example/x", "only https"),
            ("http://localhost/x", "only https"),
            ("http://10.0.0.1/x", "only https"),
            ("ftp://127.0.0.1/x", "only https"),
            ("https://user:secret@hooks.example/x", "user name"),
        ];
        for (bad, reason) in cases {
            assert!(check_post_url(&bad.parse().unwrap()).unwrap_err().contains(reason), "{bad}");
        }
    }

    #[test]
    fn what_may_be_secret_of_a_url_is_not_shown() {
        let url = "https://user:pass@hooks.example:8443/T0/B1/secret?token=t#f".parse().unwrap();
        assert_eq!(origin(&url).as_str(), "https://hooks.example:8443/");
    }
}
