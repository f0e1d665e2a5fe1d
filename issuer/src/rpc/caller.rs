//! Who is calling: derived from the connection, filled in by the authorization layer, read by the handlers.

use std::{net::IpAddr, sync::Arc};

use federation_specs::{id::SpiffeId, x509_svid::VerifiedX509Svid};
use service_kit::grpc::listen::{TcpPeer, UnixPeer};
use time::OffsetDateTime;
use tonic::{Extensions, Status, codegen::http};

use crate::node::Node;

/// How the caller proved who it is.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Connected to the issuer's Unix socket.
    Local,
    /// Connected over TLS without a certificate.
    Anonymous,
    /// Connected over TLS with a verified X509-SVID.
    Svid(Arc<VerifiedX509Svid>),
}

/// The caller of one request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// How it proved who it is.
    pub identity: Identity,
    /// Address it connected from; `None` on the Unix socket.
    pub address: Option<IpAddr>,
    /// When it stops waiting for an answer, from `grpc-timeout`.
    pub deadline: Option<OffsetDateTime>,
    /// The stored agent, when the call was permitted because the caller is one.
    pub agent: Option<Arc<Node>>,
}

impl Caller {
    /// Reads peer and deadline from a request that has just arrived; `None` when the connection says nothing about its
    /// peer, which must not happen.
    pub(super) fn from_connection(
        extensions: &http::Extensions,
        headers: &http::HeaderMap,
        now: OffsetDateTime,
    ) -> Option<Self> {
        let deadline = headers.get("grpc-timeout").and_then(|value| deadline(value.to_str().ok()?, now));
        let (identity, address) = if extensions.get::<UnixPeer>().is_some() {
            (Identity::Local, None)
        } else {
            let peer = extensions.get::<TcpPeer>()?;
            let identity = peer.svid.clone().map_or(Identity::Anonymous, Identity::Svid);
            (identity, Some(peer.remote.ip()))
        };
        Some(Self { identity, address, deadline, agent: None })
    }

    /// The caller the authorization layer attached to a request.
    pub(super) fn of(extensions: &Extensions) -> Result<&Self, Status> {
        extensions.get().ok_or_else(|| Status::internal("caller is not known"))
    }

    /// The caller's SPIFFE ID; `None` for local and anonymous callers.
    pub fn id(&self) -> Option<&SpiffeId> {
        match &self.identity {
            Identity::Svid(svid) => Some(svid.id()),
            Identity::Local | Identity::Anonymous => None,
        }
    }

    /// Whether the call came over the Unix socket.
    pub fn is_local(&self) -> bool {
        matches!(self.identity, Identity::Local)
    }

    /// How the caller appears in the log.
    pub fn label(&self) -> String {
        match &self.identity {
            Identity::Local => "local".into(),
            Identity::Anonymous => "anonymous".into(),
            Identity::Svid(svid) => svid.id().to_string(),
        }
    }

    /// The agent that calls.
    pub(super) fn agent(&self) -> Result<&Arc<Node>, Status> {
        self.agent.as_ref().ok_or_else(|| Status::internal("caller is not an agent"))
    }
}

/// Parses `grpc-timeout`: at most eight digits and a unit.
fn deadline(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let unit_at = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit_at)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: i64 = digits.parse().ok()?;
    let duration = match unit {
        "H" => time::Duration::hours(amount),
        "M" => time::Duration::minutes(amount),
        "S" => time::Duration::seconds(amount),
        "m" => time::Duration::milliseconds(amount),
        "u" => time::Duration::microseconds(amount),
        "n" => time::Duration::nanoseconds(amount),
        _ => return None,
    };
    now.checked_add(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn reads_the_timeout_header() {
        let now = datetime!(2026-11-22 10:00 UTC);
        assert_eq!(deadline("30S", now), Some(datetime!(2026-11-22 10:00:30 UTC)));
        assert_eq!(deadline("1500m", now), Some(datetime!(2026-11-22 10:00:01.5 UTC)));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(deadline(bad, now), None, "{bad:?}");
        }
    }
}
