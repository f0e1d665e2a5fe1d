//! What every upstream authority must do. A new implementation gets a test module that calls [`run`].

use std::time::Duration;

use federation_specs::certificate::Certificate;
use federation_specs::id::TrustDomain;
use federation_specs::x509_svid::check_ca_certificate;
use service_kit::csr::{self, CsrSubject};
use service_kit::keys::{KeyType, PrivateKey};
use time::OffsetDateTime;

use super::{UpstreamAuthority, UpstreamError};

/// Runs the suite against an authority for `trust_domain` whose clock says `now`.
pub(super) async fn run(authority: &dyn UpstreamAuthority, trust_domain: &TrustDomain, now: OffsetDateTime) {
    signs_what_leads_to_a_root(authority, trust_domain, now).await;
    never_signs_beyond_its_own_end(authority, trust_domain, now).await;
    refuses_other_requests(authority, trust_domain).await;
}

fn subject() -> CsrSubject {
    CsrSubject::parse("CN=my CA,O=Example,C=CH").unwrap()
}

async fn signs_what_leads_to_a_root(
    authority: &dyn UpstreamAuthority,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(key_type).unwrap();
        let request = csr::create(&key, subject(), Some(&trust_domain.id()), &[]).unwrap();
        let ttl = Duration::from_secs(3600);
        let minted = authority.mint_x509_ca(&request, ttl).await.unwrap();
        let ca = check_ca_certificate(&minted.chain[0], trust_domain, now).unwrap();
        assert_eq!(ca.public_key().unwrap(), key.public_key());
        assert_eq!(ca.names().uris, [trust_domain.id_string()]);
        assert_eq!(ca.not_after().unix_timestamp(), (now + ttl).unix_timestamp());
        assert_eq!(ca.not_before().unix_timestamp(), now.unix_timestamp() - 10);
        assert_eq!(ca.subject_key_id().unwrap(), key.public_key().key_id_sha1());
        // Each certificate is signed by the next one, the last one by a root; no root is in the chain.
        let chain: Vec<Certificate> = minted.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
        for pair in chain.windows(2) {
            assert!(pair[0].is_signed_by(pair[1].public_key().unwrap()));
            assert_eq!(pair[0].issuer_der(), pair[1].subject_der());
        }
        let last = chain.last().unwrap();
        let signer = minted.roots.iter().find(|root| {
            root.certificate().subject_der() == last.issuer_der()
                && last.is_signed_by(root.certificate().public_key().unwrap())
        });
        let signer = signer.expect("a root that signed the chain");
        assert_eq!(last.authority_key_id(), signer.certificate().subject_key_id());
        assert!(minted.roots.iter().all(|root| !minted.chain.contains(&root.der().to_vec())));
    }
}

async fn never_signs_beyond_its_own_end(
    authority: &dyn UpstreamAuthority,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let request = csr::create(&key, subject(), Some(&trust_domain.id()), &[]).unwrap();
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    let minted = authority.mint_x509_ca(&request, century).await.unwrap();
    let ca = Certificate::from_der(&minted.chain[0]).unwrap();
    assert!(ca.not_after() < now + century);
    let above = minted.chain.get(1).map(|der| Certificate::from_der(der).unwrap().not_after());
    let above = above.unwrap_or_else(|| minted.roots.iter().map(|root| root.not_after()).max().unwrap());
    assert!(ca.not_after() <= above);
}

async fn refuses_other_requests(authority: &dyn UpstreamAuthority, trust_domain: &TrustDomain) {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let other = TrustDomain::parse("other.example").unwrap();
    let workload = federation_specs::id::SpiffeId::from_parts(trust_domain, "/w").unwrap();
    let good = csr::create(&key, subject(), Some(&trust_domain.id()), &[]).unwrap();
    let mut forged = good.clone();
    // The signature is the last part.
    *forged.last_mut().unwrap() ^= 1;
    for (what, request) in [
        ("no URI", csr::create(&key, subject(), None, &[]).unwrap()),
        ("another trust domain", csr::create(&key, subject(), Some(&other.id()), &[]).unwrap()),
        ("an ID with a path", csr::create(&key, subject(), Some(&workload), &[]).unwrap()),
        ("a wrong signature", forged),
        ("no request", b"nonsense".to_vec()),
    ] {
        let outcome = authority.mint_x509_ca(&request, Duration::from_secs(60)).await;
        assert!(matches!(outcome, Err(UpstreamError::Request(_))), "{what}: {outcome:?}");
    }
}
