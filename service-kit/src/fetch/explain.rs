//! Sorting what goes wrong with a request by what the operator can do about it, in words.

use std::{error::Error, io};

use federation_specs::x509_svid::X509SvidError;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible, pki_types::UnixTime};
use time::OffsetDateTime;
use url::Url;

use super::FetchError;
use crate::tls::{self, TlsError};

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// TLS begins.
    Handshake,
    /// HTTP is spoken inside of TLS.
    Http,
}

/// What is behind an error of `reqwest`, for whoever makes requests of another kind with it.
pub fn explain(url: &Url, error: &reqwest::Error) -> FetchError {
    let stage = if error.is_connect() { Stage::Handshake } else { Stage::Http };
    classify(url, stage, error)
}

/// What the innermost cause of `error` means.
pub(super) fn classify(url: &Url, stage: Stage, error: &(dyn Error + 'static)) -> FetchError {
    let url = url.to_string();
    if let Some(refusal) = tls::refusal(error) {
        return FetchError::Untrusted { url, reason: refusal_in_words(&refusal) };
    }
    let mut innermost = error;
    let (mut handshake, mut ended) = (None, false);
    loop {
        if let Some(fault) = innermost.downcast_ref::<rustls::Error>() {
            handshake = Some(fault);
        }
        let io = innermost.downcast_ref::<io::Error>();
        ended |= io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        let wrapped = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        match wrapped.or_else(|| innermost.source()) {
            Some(inner) => innermost = inner,
            None => break,
        }
    }
    match handshake {
        Some(rustls::Error::InvalidCertificate(fault)) => {
            FetchError::Untrusted { url, reason: certificate_in_words(fault) }
        }
        Some(fault) => FetchError::Handshake { url, reason: handshake_in_words(fault) },
        // Before the handshake nothing is read, so nothing can end.
        None if stage == Stage::Handshake && ended => {
            FetchError::Handshake { url, reason: "the server closed the connection before its end".to_owned() }
        }
        None if stage == Stage::Handshake => FetchError::Connect { url, reason: innermost.to_string() },
        None => FetchError::Transport { url, reason: innermost.to_string() },
    }
}

fn refusal_in_words(refusal: &TlsError) -> String {
    match refusal {
        // Only the bundle of the expected identity's domain is at hand, so another one would not help.
        TlsError::Svid(fault) => match &**fault {
            X509SvidError::NoBundle(other) => {
                format!("the peer presents an X509-SVID of {other}, which is not expected here")
            }
            fault => fault.to_string(),
        },
        refusal => refusal.to_string(),
    }
}

fn certificate_in_words(fault: &CertificateError) -> String {
    let shown = |time: &UnixTime| match i64::try_from(time.as_secs()).map(OffsetDateTime::from_unix_timestamp) {
        Ok(Ok(time)) => time.to_string(),
        _ => "a time nobody will see".to_owned(),
    };
    match fault {
        CertificateError::UnknownIssuer => "its certificate is not signed by a CA trusted for it".to_owned(),
        CertificateError::BadSignature => {
            "its certificate names a trusted CA but is not signed with the key of that CA".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired at {}", shown(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid yet, it begins at {}; check the clocks", shown(not_before))
        }
        other => other.to_string(),
    }
}

fn handshake_in_words(fault: &rustls::Error) -> String {
    match fault {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what listens on that port does not speak TLS".to_owned()
        }
        rustls::Error::InvalidMessage(
            InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge,
        ) => "the server sends more certificates than a handshake may carry".to_owned(),
        rustls::Error::InvalidMessage(what) => format!("the server sends what is not proper TLS ({what:?})"),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the server speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server demands a client certificate, which a public endpoint must not do".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => "the server speaks neither HTTP/1.1 nor HTTP/2".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the server refused it ({alert:?})"),
        other => other.to_string(),
    }
}
