//! `Debug` of messages that carry secrets: private keys, bearer tokens and
//! attestation proofs are left out, so that no log can hold them.

use std::fmt;

use super::{agent::delegatedidentity, broker, server, types, workload};

macro_rules! debug_only {
    ($($message:ty: $($shown:ident),*;)*) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter
                    .debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    .finish_non_exhaustive()
            }
        })*
    };
}

debug_only! {
    workload::X509svid: spiffe_id, hint;
    workload::Jwtsvid: spiffe_id, hint;
    workload::Witsvid: spiffe_id, hint;
    workload::ValidateJwtsvidRequest: audience;
    broker::X509svid: spiffe_id, hint;
    broker::Jwtsvid: spiffe_id, hint;
    delegatedidentity::X509svidWithKey: x509_svid;
    server::agent::CreateJoinTokenRequest: ttl, agent_id;
    types::AttestationData: r#type;
    types::Jwtsvid: id, expires_at, issued_at, hint;
    types::JoinToken: expires_at;
    types::Witsvid: id;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = || "hunter2".to_owned();
        let bytes = || b"hunter2".to_vec();
        let svid =
            workload::X509svid { spiffe_id: "spiffe://td/a".into(), x509_svid_key: bytes(), ..Default::default() };
        let shown = [
            format!("{:?}", workload::X509svidResponse { svids: vec![svid], ..Default::default() }),
            format!("{:?}", workload::Jwtsvid { svid: secret(), ..Default::default() }),
            format!("{:?}", workload::Witsvid { wit_svid_key: secret(), wit_svid: secret(), ..Default::default() }),
            format!("{:?}", workload::ValidateJwtsvidRequest { svid: secret(), ..Default::default() }),
            format!("{:?}", broker::X509svid { x509_svid_key: bytes(), ..Default::default() }),
            format!("{:?}", broker::Jwtsvid { svid: secret(), ..Default::default() }),
            format!("{:?}", delegatedidentity::X509svidWithKey { x509_svid_key: bytes(), ..Default::default() }),
            format!("{:?}", server::agent::CreateJoinTokenRequest { token: secret(), ..Default::default() }),
            format!("{:?}", types::AttestationData { payload: bytes(), ..Default::default() }),
            format!("{:?}", types::Jwtsvid { token: secret(), ..Default::default() }),
            format!("{:?}", types::JoinToken { value: secret(), ..Default::default() }),
            format!("{:?}", types::Witsvid { token: secret(), ..Default::default() }),
        ];
        assert!(shown[0].contains("spiffe://td/a"));
        for text in shown {
            assert!(!text.contains("hunter2") && !text.contains("[104, 117"), "{text}");
        }
    }
}
