//! An HTTP proxy on the way out: a tunnel (CONNECT, RFC 9110 section 9.3.6) with TLS end to end inside.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::{Host, Url};
use zeroize::Zeroizing;

/// Longest head of a proxy's answer.
const MAX_HEAD_BYTES: usize = 8192;

/// Most entries of `no_proxy`.
pub const MAX_NO_PROXY: usize = 256;

/// Why a proxy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The URL is of no use.
    #[error("`{url}` is not the URL of an HTTP proxy: {reason}; write for example http://proxy.example:3128")]
    Url {
        /// The URL, without user and password.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An exception is of no use.
    #[error("`{0}` is no host, domain, address or network; write for example internal.example or 10.0.0.0/8")]
    Exception(String),
    /// Too many exceptions.
    #[error("there are more than {MAX_NO_PROXY} exceptions; name domains and networks")]
    TooManyExceptions,
}

/// A proxy and for which hosts it is not used.
#[derive(Clone)]
pub struct Proxy {
    host: Host,
    port: u16,
    /// The value of `proxy-authorization`.
    authorization: Option<Zeroizing<String>>,
    exceptions: Vec<Exception>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, exceptions, .. } = self;
        f.debug_struct("Proxy").field("host", host).field("port", port).field("exceptions", exceptions).finish()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A domain and all below it.
    Domain {
        name: String,
        port: Option<u16>,
    },
    Network(IpNet),
    Address {
        address: IpAddr,
        port: u16,
    },
}

impl Proxy {
    /// The proxy at `url` (`http://host:port`), not used for `exceptions`: a host or domain with all names below it, with
    /// or without leading dot and port, an address, a network, or `*`.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn new<'a>(url: &str, exceptions: impl IntoIterator<Item = &'a str>) -> Result<Self, ProxyError> {
        let bad = |reason| {
            // Nobody gets to see a password.
            let shown = url.rsplit_once('@').map_or(url, |(_, behind)| behind);
            ProxyError::Url { url: shown.chars().take(200).collect(), reason }
        };
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed = Url::parse(&with_scheme).map_err(|_| bad("it cannot be read"))?;
        match parsed.scheme() {
            "http" => {}
            "https" => {
                return Err(bad("TLS to the proxy itself is not supported (TLS to the partner runs through it)"));
            }
            _ => return Err(bad("only http proxies are supported")),
        }
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
            return Err(bad("it has a path"));
        }
        let host = parsed.host().ok_or_else(|| bad("it names no host"))?.to_owned();
        let port = parsed.port_or_known_default().ok_or_else(|| bad("it names no port"))?;
        let mut checked = Vec::new();
        for text in exceptions {
            if checked.len() == MAX_NO_PROXY {
                return Err(ProxyError::TooManyExceptions);
            }
            checked.push(Exception::parse(text)?);
        }
        let proxy = Self { host, port, authorization: None, exceptions: checked };
        match (parsed.username(), parsed.password()) {
            ("", None) => Ok(proxy),
            (user, password) => {
                let user = percent_decoded(user).ok_or_else(|| bad("its user name is not text"))?;
                let password =
                    percent_decoded(password.unwrap_or_default()).ok_or_else(|| bad("its password is not text"))?;
                Ok(proxy.with_login(&user, &password))
            }
        }
    }

    /// Logs in at the proxy (RFC 7617).
    #[must_use]
    pub fn with_login(self, user: &str, password: &str) -> Self {
        let login = Zeroizing::new(format!("{user}:{password}"));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(login.as_bytes())));
        Self { authorization: Some(value), ..self }
    }

    /// What the environment says: `HTTPS_PROXY` and `NO_PROXY`, or both in lower case.
    ///
    /// # Errors
    /// [`ProxyError`] when it says what cannot be used.
    pub fn from_environment() -> Result<Option<Self>, ProxyError> {
        let read = |name: &str| {
            let lower = name.to_ascii_lowercase();
            [name, &lower]
                .into_iter()
                .filter_map(|name| std::env::var(name).ok())
                .find(|value| !value.trim().is_empty())
        };
        let Some(url) = read("HTTPS_PROXY") else { return Ok(None) };
        let exceptions = read("NO_PROXY").unwrap_or_default();
        let exceptions = exceptions.split([',', ' ']).map(str::trim).filter(|text| !text.is_empty());
        Self::new(url.trim(), exceptions).map(Some)
    }

    /// Where it listens.
    pub(super) fn place(&self) -> (&Host, u16) {
        (&self.host, self.port)
    }

    /// Whether connections to that host go through it. Those to this machine never do.
    pub(super) fn serves(&self, host: &Host<&str>, port: u16) -> bool {
        let address: Option<IpAddr> = match host {
            Host::Domain(name) if is_localhost(name) => return false,
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some(IpAddr::V6(*address).to_canonical()),
        };
        if address.is_some_and(|address| address.is_loopback()) {
            return false;
        }
        !self.exceptions.iter().any(|exception| match (exception, host, address) {
            (Exception::Everything, ..) => true,
            (Exception::Domain { name, port: only }, Host::Domain(host), _) => {
                let host = host.trim_end_matches('.');
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && only.is_none_or(|only| only == port)
            }
            (Exception::Network(network), _, Some(address)) => network.contains(&address),
            (Exception::Address { address: one, port: only }, _, Some(address)) => *one == address && *only == port,
            _ => false,
        })
    }

    /// Has the proxy connect `stream` to `host:port`.
    pub(super) async fn tunnel(&self, stream: &mut TcpStream, host: &Host<&str>, port: u16) -> Result<(), String> {
        let mut head = Zeroizing::new(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"));
        if let Some(value) = &self.authorization {
            head.push_str("Proxy-Authorization: ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        // One byte at a time: what follows the head belongs to TLS.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_HEAD_BYTES {
                return Err("its answer has no end".to_owned());
            }
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err("it closed the connection instead of answering".to_owned());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        let mut words = answer.split(|byte| matches!(byte, b' ' | b'\r'));
        let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !version.starts_with(b"HTTP/1.") {
            return Err("what answers there is no HTTP proxy".to_owned());
        }
        match status {
            [b'2', _, _] => Ok(()),
            b"407" => {
                Err("it asks for a user name and password that it was not given, or refuses them (407)".to_owned())
            }
            [_, _, _] if status.iter().all(u8::is_ascii_digit) => {
                Err(format!("it refuses the connection ({})", String::from_utf8_lossy(status)))
            }
            _ => Err("what answers there is no HTTP proxy".to_owned()),
        }
    }
}

/// Names of this machine (RFC 6761 section 6.3).
pub(super) fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn percent_decoded(text: &str) -> Option<Zeroizing<String>> {
    // A query pair decodes `%xx`; `+` has no meaning here.
    let escaped = Zeroizing::new(format!("x={}", text.replace('+', "%2B").replace('&', "%26")));
    let (_, value) = url::form_urlencoded::parse(escaped.as_bytes()).next()?;
    Some(Zeroizing::new(value.into_owned()))
}

impl Exception {
    fn parse(text: &str) -> Result<Self, ProxyError> {
        let bad = || ProxyError::Exception(text.chars().take(200).collect());
        if text == "*" {
            return Ok(Self::Everything);
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok(Self::Address { address: address.ip(), port: address.port() });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let name = name.strip_prefix("*.").unwrap_or(name).trim_matches('.').to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(bad());
        }
        Ok(Self::Domain { name, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(proxy: &Proxy, url: &str) -> bool {
        let url = Url::parse(url).unwrap();
        proxy.serves(&url.host().unwrap(), url.port_or_known_default().unwrap())
    }

    #[test]
    fn exceptions_go_directly() {
        let exceptions = [".internal.example", "one.example:8443", "10.0.0.0/8", "192.0.2.7", "*.wild.example"];
        let proxy = Proxy::new("http://proxy.example:3128", exceptions).unwrap();
        for url in [
            "https://internal.example",
            "https://a.b.internal.example/x",
            "https://INTERNAL.example.",
            "https://one.example:8443",
            "https://10.1.2.3",
            "https://[::ffff:10.1.2.3]",
            "https://192.0.2.7:9",
            "https://a.wild.example",
            "https://localhost:8443",
            "https://a.localhost",
            "https://127.0.0.9",
            "https://[::1]",
        ] {
            assert!(!serves(&proxy, url), "{url}");
        }
        for url in ["https://notinternal.example", "https://one.example", "https://11.1.2.3", "https://[2001:db8::1]"] {
            assert!(serves(&proxy, url), "{url}");
        }
        assert!(!serves(&Proxy::new("http://p:1", ["*"]).unwrap(), "https://a.example"));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_without_its_password() {
        for url in ["https://p.example", "socks5://p.example", "http://p.example/path", "http://", "http://u:secret@"] {
            let error = Proxy::new(url, []).unwrap_err().to_string();
            assert!(error.contains("not the URL of an HTTP proxy") && !error.contains("secret"), "{error}");
        }
        for exception in ["a b", "", ":", "a:b", "a/b"] {
            assert!(Proxy::new("p.example:3128", [exception]).is_err(), "{exception}");
        }
        let proxy = Proxy::new("http://user:p%40ss+word@p.example:3128", []).unwrap();
        assert_eq!(proxy.to_string(), "http://p.example:3128");
        assert!(!format!("{proxy:?}").contains("dXNlc"), "{proxy:?}");
        assert_eq!(proxy.authorization.as_ref().unwrap().as_str(), "Basic dXNlcjpwQHNzK3dvcmQ=");
    }
}
