//! What goes wrong with ACME, in words an operator can act on.

use instant_acme::{Error, Problem};
use service_kit::{csr::CsrError, fetch::FetchError, keys::KeyError, tls::TlsError};

/// Longest text of a certificate authority that is repeated, in characters.
const MAX_DETAIL: usize = 300;

/// Prefix of the problem types of ACME (RFC 8555 section 6.7).
const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// Why there is no (new) certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// Nobody answers, or not in time.
    #[error("the ACME directory cannot be reached: {0}")]
    Unreachable(FetchError),
    /// The directory's own certificate is not trusted.
    #[error(
        "the ACME directory {url} was not trusted: {reason}; for a private one set listeners.https_web.acme.ca_file to the PEM certificates of its authorities"
    )]
    Untrusted {
        /// What was asked.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Something that is no ACME answers.
    #[error("{0} did not answer as an ACME directory does; check listeners.https_web.acme.directory_url")]
    NotAcme(String),
    /// The directory has a passing trouble of its own.
    #[error("the ACME directory cannot answer now: {0}; nothing to do here unless it lasts")]
    Trouble(String),
    /// The file with the directory's authorities.
    #[error("listeners.https_web.acme.ca_file: {0}")]
    CaFile(String),
    /// The HMAC key of the external account.
    #[error("listeners.https_web.acme.external_account.hmac_key_file: {0}")]
    HmacKey(String),
    /// No account without the terms.
    #[error(
        "the certificate authority asks to accept its terms of service: {0}; read them and set listeners.https_web.acme.tos_accepted"
    )]
    Terms(String),
    /// No account without an external one.
    #[error(
        "the certificate authority knows only accounts it was told of before: {0}; set listeners.https_web.acme.external_account to what it gave you"
    )]
    ExternalAccount(String),
    /// The account is not known (any more).
    #[error("the certificate authority does not know this account: {0}")]
    UnknownAccount(String),
    /// Too many orders or failures.
    #[error("the certificate authority's rate limit is reached: {0}; the next attempt waits as long as it asks")]
    RateLimited(String),
    /// CAA records forbid it.
    #[error(
        "CAA records of the domain do not allow this certificate authority: {0}; add one that names it, or use another directory_url"
    )]
    Caa(String),
    /// A name the certificate authority will never sign.
    #[error("the certificate authority refuses a name: {0}; correct listeners.https_web.acme.domain_names")]
    Name(String),
    /// The proof failed.
    #[error("`{name}` was not proven by {challenge}: {detail}; {remedy}")]
    Unproven {
        /// The DNS name.
        name: String,
        /// The challenge.
        challenge: &'static str,
        /// What the certificate authority saw.
        detail: String,
        /// What to look at.
        remedy: &'static str,
    },
    /// The challenge is not there to be chosen.
    #[error(
        "the certificate authority does not offer {challenge} for `{name}`; change listeners.https_web.acme.challenge"
    )]
    NotOffered {
        /// The DNS name.
        name: String,
        /// The challenge.
        challenge: &'static str,
    },
    /// Anything else it refuses.
    #[error("the certificate authority refused: {0}")]
    Refused(String),
    /// The order did not come to an end.
    #[error("the order was not done within {0:?}; the certificate authority is slow, or cannot reach this gateway")]
    Slow(std::time::Duration),
    /// The certificate is not what was ordered.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// The key could not be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// The request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Csr(#[from] CsrError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What is kept cannot be written.
    #[error("cannot write below {folder}: {source}; make data_dir writable for this user")]
    Store {
        /// The folder.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How soon it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The certificate authority has counted nothing against the account: soon.
    Passing,
    /// It has, or will say the same again: later.
    Lasting,
}

impl AcmeError {
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::Unreachable(_)
            | Self::Trouble(_)
            | Self::Untrusted { .. }
            | Self::NotAcme(_)
            | Self::CaFile(_)
            | Self::HmacKey(_) => Severity::Passing,
            _ => Severity::Lasting,
        }
    }
}

/// What a request to the directory failed with, carried through `instant_acme`.
#[derive(Debug, thiserror::Error)]
#[error("request to the ACME directory failed")]
pub(super) struct Failed(pub(super) std::sync::Mutex<Option<AcmeError>>);

impl From<AcmeError> for Failed {
    fn from(error: AcmeError) -> Self {
        Self(std::sync::Mutex::new(Some(error)))
    }
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::from(&problem),
            Error::Json(_) => Self::NotAcme("what is at directory_url".to_owned()),
            Error::Other(cause) => match cause.downcast::<Failed>() {
                Ok(failed) => {
                    let taken = failed.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                    taken.unwrap_or_else(|| Self::Trouble("unknown failure".to_owned()))
                }
                Err(cause) => Self::Refused(shown(&cause.to_string())),
            },
            Error::Str(what) => Self::NotAcme(format!("the directory ({what})")),
            other => Self::Refused(shown(&other.to_string())),
        }
    }
}

impl From<&Problem> for AcmeError {
    fn from(problem: &Problem) -> Self {
        let detail = detail(problem);
        match kind(problem) {
            "rateLimited" => Self::RateLimited(detail),
            "userActionRequired" | "agreementRequired" => Self::Terms(detail),
            "externalAccountRequired" => Self::ExternalAccount(detail),
            "accountDoesNotExist" => Self::UnknownAccount(detail),
            "caa" => Self::Caa(detail),
            "rejectedIdentifier" | "unsupportedIdentifier" => Self::Name(detail),
            "badNonce" | "serverInternal" => Self::Trouble(detail),
            _ if problem.status.is_some_and(|status| status >= 500) => Self::Trouble(detail),
            _ => Self::Refused(detail),
        }
    }
}

/// The failure of one name's challenge.
pub(super) fn unproven(name: &str, challenge: &'static str, problem: &Problem) -> AcmeError {
    let tls = challenge == super::challenge_kind::TLS_ALPN_01;
    let remedy = match kind(problem) {
        "caa" => return AcmeError::Caa(detail(problem)),
        "rateLimited" => return AcmeError::RateLimited(detail(problem)),
        "dns" => "check the DNS records of the name, seen from the internet",
        "connection" if tls => "port 443 of the name must lead from the internet to the https_web listener",
        "connection" => "port 80 of the name must lead from the internet to the http_01 listener",
        _ if tls => {
            "port 443 of the name must lead to the https_web listener with TLS passed through; another server or a proxy \
             that ends TLS may answer there"
        }
        _ => {
            "port 80 of the name must lead to the http_01 listener; another server may answer there and must pass \
             /.well-known/acme-challenge/ on"
        }
    };
    AcmeError::Unproven { name: name.to_owned(), challenge, detail: detail(problem), remedy }
}

fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix(PROBLEM).unwrap_or(kind)
}

fn detail(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_default();
    for sub in &problem.subproblems {
        if let Some(detail) = &sub.detail {
            text.push_str("; ");
            text.push_str(detail);
        }
    }
    match (text.is_empty(), kind(problem)) {
        (false, "") => shown(&text),
        (false, kind) => format!("{} ({})", shown(&text), shown(kind)),
        (true, kind) => shown(kind),
    }
}

/// Foreign text without control characters, bounded.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MAX_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn problems_become_remedies() {
        for (kind, wanted) in [
            ("rateLimited", "waits as long as it asks"),
            ("userActionRequired", "tos_accepted"),
            ("externalAccountRequired", "external_account"),
            ("caa", "CAA records"),
            ("rejectedIdentifier", "domain_names"),
            ("serverInternal", "nothing to do here"),
            ("malformed", "refused: it says so (malformed)"),
        ] {
            let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"it says so","status":400}}"#);
            let message = AcmeError::from(&problem(&text)).to_string();
            assert!(message.contains(wanted) && message.contains("it says so"), "{kind}: {message}");
        }
        let down = AcmeError::from(&problem(r#"{"type":"x","status":503}"#));
        assert_eq!(down.severity(), Severity::Passing);
        assert_eq!(AcmeError::Caa(String::new()).severity(), Severity::Lasting);
    }

    #[test]
    fn a_failed_challenge_names_the_port_to_look_at() {
        let refused = problem(r#"{"type":"urn:ietf:params:acme:error:connection","detail":"refused\u0007"}"#);
        let message = unproven("a.example", "TLS-ALPN-01", &refused).to_string();
        assert!(
            message.contains("`a.example` was not proven by TLS-ALPN-01: refused  (connection); port 443"),
            "{message}"
        );
        let message = unproven("a.example", "HTTP-01", &refused).to_string();
        assert!(message.contains("port 80"), "{message}");
        let long = problem(&format!(r#"{{"type":"urn:ietf:params:acme:error:tls","detail":"{}"}}"#, "x".repeat(5000)));
        assert!(unproven("a.example", "TLS-ALPN-01", &long).to_string().len() < 600);
        let caa = problem(r#"{"type":"urn:ietf:params:acme:error:caa","detail":"no"}"#);
        assert!(matches!(unproven("a.example", "HTTP-01", &caa), AcmeError::Caa(_)));
    }
}
