//! Which challenge proves the names: TLS-ALPN-01 (RFC 8737) or HTTP-01 (RFC 8555 section 8.3).

use instant_acme::ChallengeType;

use crate::settings::ChallengeSettings;

pub(super) const TLS_ALPN_01: &str = "TLS-ALPN-01";
const HTTP_01: &str = "HTTP-01";

/// How names are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChallengeKind {
    /// By a certificate in a handshake.
    TlsAlpn01,
    /// By a document.
    Http01,
}

impl ChallengeKind {
    pub(super) fn of(settings: &ChallengeSettings) -> Self {
        match settings {
            ChallengeSettings::TlsAlpn01 => Self::TlsAlpn01,
            ChallengeSettings::Http01(_) => Self::Http01,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => TLS_ALPN_01,
            Self::Http01 => HTTP_01,
        }
    }

    pub(super) fn acme(self) -> ChallengeType {
        match self {
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Http01 => ChallengeType::Http01,
        }
    }
}
