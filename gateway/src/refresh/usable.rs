//! Whether a fetched bundle can verify anybody at all. One that cannot is refused before it is compared with the bundle
//! held: it would end all trust in the partner without saying so.

use federation_specs::bundle_json::ParsedBundle;

/// Longest reason shown why a key was passed over, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Why nobody could be verified with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// There are keys, and every one of them had to be passed over.
    #[error(
        "none of the {count} keys of the partner's bundle can be used here ({reason}); ask the partner for keys of \
         kinds known here, or upgrade this gateway"
    )]
    NoKnownKey {
        /// How many were passed over.
        count: usize,
        /// Why the first one was.
        reason: String,
    },
    /// No X.509 authority is one.
    #[error(
        "no X.509 authority of the partner's bundle may sign certificates; the partner has to publish the certificates \
         of its authorities, not those of servers"
    )]
    NoAuthority,
}

/// Refuses a bundle none of whose keys is known here, and one with X.509 authorities none of which may sign. A bundle
/// without keys is a revocation and none of this module's business.
///
/// # Errors
/// [`Unusable`].
pub fn check(parsed: &ParsedBundle) -> Result<(), Unusable> {
    if let Some(first) = parsed.skipped.first().filter(|_| parsed.bundle.is_empty()) {
        let reason = first.to_string().chars().filter(|letter| !letter.is_control()).take(MAX_REASON_CHARS).collect();
        return Err(Unusable::NoKnownKey { count: parsed.skipped.len(), reason });
    }
    let authorities = parsed.bundle.x509_authorities();
    if authorities.is_empty() || authorities.iter().any(|authority| authority.certificate().may_sign_certificates()) {
        return Ok(());
    }
    Err(Unusable::NoAuthority)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use federation_specs::{bundle_json, id::TrustDomain, public_key::PublicKey};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _};
    use serde_json::{Value, json};

    use super::*;

    fn root(ca: bool) -> Value {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        let certificate = params.self_signed(&key).unwrap();
        let mut jwk = PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap().to_jwk();
        jwk.insert("use".into(), json!("x509-svid"));
        jwk.insert("x5c".into(), json!([STANDARD.encode(certificate.der())]));
        jwk.into()
    }

    fn judged(keys: &Value) -> Result<(), Unusable> {
        let document = json!({ "keys": keys }).to_string();
        check(&bundle_json::parse(&TrustDomain::parse("p.example").unwrap(), document.as_bytes()).unwrap())
    }

    #[test]
    fn one_authority_that_may_sign_is_enough() {
        assert_eq!(judged(&json!([root(false), root(true)])), Ok(()));
        assert_eq!(judged(&json!([])), Ok(()));
        assert_eq!(judged(&json!([root(false)])), Err(Unusable::NoAuthority));
    }

    #[test]
    fn keys_that_are_all_unknown_are_no_revocation() {
        let strange = json!({"use": "jwt-svid", "kty": format!("\u{1b}[31m{}", "x".repeat(500)), "kid": "k"});
        let Err(Unusable::NoKnownKey { count, reason }) = judged(&json!([strange, {"use": "tomorrow"}])) else {
            panic!("accepted");
        };
        assert_eq!(count, 2);
        assert!(reason.starts_with("key 0: public key type [31mxxx"), "{reason}");
        assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
    }
}
