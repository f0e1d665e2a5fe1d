//! Why a fetch failed, in words that say what to do.

use std::{net::IpAddr, time::Duration};

use http::StatusCode;

use super::{MAX_REDIRECTS, address::AddressKind};
use crate::BoxError;

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
    /// The name of its host leads nowhere.
    #[error(
        "cannot look up the host of {url}: {reason}; check the name in the URL, then the name servers of this machine \
         (or refresh.nameservers)"
    )]
    Lookup {
        /// The URL.
        url: String,
        /// What DNS says.
        reason: String,
    },
    /// The name or address leads to where nobody is asked.
    #[error(
        "{url} leads to {address}, {kind} address, which is not asked unless it is allowed; if the partner is meant to \
         be there, add {address} or its network to refresh.allow_addresses, or to allow_addresses of the relationship"
    )]
    Address {
        /// The URL.
        url: String,
        /// The address.
        address: IpAddr,
        /// What is special about it.
        kind: AddressKind,
    },
    /// The proxy does not let the connection through.
    #[error(
        "cannot connect to {url} through the proxy {proxy}: {reason}; check refresh.proxy or HTTPS_PROXY, and the proxy"
    )]
    Proxy {
        /// The URL.
        url: String,
        /// The proxy.
        proxy: String,
        /// What it says.
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
    /// The client cannot be made, which is a defect.
    #[error("HTTPS client cannot be made: {0}")]
    Client(#[source] BoxError),
}
