//! Bundles from the issuer.

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    convert,
    id::TrustDomain,
    proto::types,
    x509_svid,
};

/// Authorities of one kind taken from one bundle.
pub const MAX_AUTHORITIES: usize = 10_000;

/// The bundle of `expected` as the issuer sent it. Authorities that cannot be read are left out with a warning: less is
/// trusted then, and the rest of the trust domain goes on working (an empty or doubled certificate in a bundle would
/// otherwise stop every agent).
///
/// # Errors
/// A text if the bundle is for another trust domain or too large.
pub fn from_issuer(bundle: &types::Bundle, expected: &TrustDomain) -> Result<Bundle, String> {
    let named = TrustDomain::from_name_or_id(&bundle.trust_domain)
        .map_err(|error| format!("has a bundle without a valid trust domain: {error}"))?;
    if named != *expected {
        return Err(format!("has the bundle of {named} instead of {expected}"));
    }
    if bundle.x509_authorities.len() > MAX_AUTHORITIES || bundle.jwt_authorities.len() > MAX_AUTHORITIES {
        return Err(format!("has a bundle of {expected} with more than {MAX_AUTHORITIES} authorities"));
    }
    let mut x509 = Vec::with_capacity(bundle.x509_authorities.len());
    for authority in &bundle.x509_authorities {
        match certificates(&authority.asn1) {
            Ok(found) => x509.extend(found.into_iter().map(|found| found.with_tainted(authority.tainted))),
            Err(reason) => left_out(expected, "an X.509 authority", &reason),
        }
    }
    let mut jwt = Vec::with_capacity(bundle.jwt_authorities.len());
    for key in &bundle.jwt_authorities {
        match jwt_authority(key) {
            Ok(authority) => jwt.push(authority),
            Err(reason) => left_out(expected, &format!("JWT authority {:?}", key.key_id), &reason),
        }
    }
    Ok(Bundle::new(expected.clone()).with_x509_authorities(x509).with_jwt_authorities(jwt))
}

fn certificates(der: &[u8]) -> Result<Vec<X509Authority>, String> {
    let split = x509_svid::split_der_certificates(der).map_err(|error| error.to_string())?;
    if split.is_empty() {
        return Err("it is empty".into());
    }
    split.iter().map(|der| X509Authority::from_der(der).map_err(|error| error.to_string())).collect()
}

fn jwt_authority(key: &types::JwtKey) -> Result<JwtAuthority, String> {
    convert::jwt_authority_from_proto(key).map_err(|error| error.to_string())
}

fn left_out(trust_domain: &TrustDomain, what: &str, reason: &str) {
    tracing::warn!(%trust_domain, reason, "{what} in the bundle cannot be read and is left out");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::authority::Authority;

    #[test]
    fn unreadable_authorities_cost_only_themselves() {
        let (one, two) = (Authority::new("cloud.example"), Authority::new("cloud.example"));
        let certificate = |asn1: Vec<u8>, tainted| types::X509Certificate { asn1, tainted };
        let key = |key_id: &str, public_key: &[u8]| types::JwtKey {
            key_id: key_id.into(),
            public_key: public_key.to_vec(),
            ..Default::default()
        };
        let spki = one.jwt_authority().public_key().spki_der().to_vec();
        let proto = types::Bundle {
            trust_domain: "cloud.example".into(),
            x509_authorities: vec![
                certificate(vec![], false),
                certificate([one.certificate_der(), two.certificate_der()].concat(), true),
                certificate(b"garbage".to_vec(), false),
            ],
            jwt_authorities: vec![key("", &spki), key("k", b"x"), key("good", &spki)],
            ..Default::default()
        };
        let trust_domain = TrustDomain::parse("cloud.example").unwrap();
        let bundle = from_issuer(&proto, &trust_domain).unwrap();
        assert_eq!(bundle.x509_authorities().len(), 2);
        assert!(bundle.x509_authorities().iter().all(X509Authority::tainted));
        assert_eq!(bundle.jwt_authorities().iter().map(JwtAuthority::key_id).collect::<Vec<_>>(), ["good"]);

        let other = TrustDomain::parse("other.example").unwrap();
        assert_eq!(
            from_issuer(&proto, &other).unwrap_err(),
            "has the bundle of cloud.example instead of other.example"
        );
    }
}
