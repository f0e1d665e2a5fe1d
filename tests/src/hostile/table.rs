//! What a misbehaviour is, and what a gateway must make of it. The misbehaviours themselves are in [`super::rows`].

use std::fmt::Write as _;

use super::{
    certificate::Certificate, connection::Connection, dns::Name, document::Document, http2::Http2, response::Response,
};

/// How a partner misbehaves, by the level it happens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misbehaviour {
    /// The name of the host.
    Name(Name),
    /// TCP and the first bytes of TLS.
    Connection(Connection),
    /// The rest of TLS.
    Certificate(Certificate),
    /// HTTP/1.1.
    Response(Response),
    /// HTTP/2.
    Http2(Http2),
    /// The bundle.
    Document(Document),
}

/// Bundle endpoint profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `https_web`.
    HttpsWeb,
    /// `https_spiffe`, serving its own trust domain.
    HttpsSpiffe,
}

impl Profile {
    /// Its name in configurations.
    pub fn word(self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe => "https_spiffe",
        }
    }
}

/// What a gateway makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The refresh fails with exactly this text. `<url>` stands for the relationship's URL, `…` for whatever differs
    /// from case to case. docs/partner-errors.md shows it.
    Refused(&'static str),
    /// The bundle is accepted.
    Accepted,
}

/// One misbehaviour.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// What the partner does.
    pub misbehaviour: Misbehaviour,
    /// How its endpoint proves itself.
    pub profile: Profile,
    /// What comes of it.
    pub outcome: Outcome,
}

impl Row {
    /// The name of the partner's trust domain, made of the misbehaviour and the profile.
    pub fn trust_domain(&self) -> String {
        let word = format!("{:?}{:?}", self.misbehaviour, self.profile);
        let mut name = String::new();
        for letter in word.chars() {
            match letter {
                '(' | ')' => {}
                _ if letter.is_ascii_uppercase() && !name.is_empty() => {
                    let _ = write!(name, "-{}", letter.to_ascii_lowercase());
                }
                _ => name.push(letter.to_ascii_lowercase()),
            }
        }
        name + ".example"
    }
}

/// Whether `text` is what `pattern` says, with `url` for `<url>` and anything for each `…`.
pub fn matches(pattern: &str, url: &str, text: &str) -> bool {
    let pattern = pattern.replace("<url>", url);
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.is_empty()
}
