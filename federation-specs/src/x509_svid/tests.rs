use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair, KeyUsagePurpose,
    NameConstraints, SanType,
};
use time::macros::datetime;

use super::*;
use crate::test_data::*;

const ID: &str = "spiffe://cloud.example/billing";

fn verify(chain: &[Vec<u8>], bundles: &BundleSet) -> Result<VerifiedX509Svid, X509SvidError> {
    verify_chain(chain, bundles, NOW)
}

fn error_of(params: CertificateParams) -> X509SvidError {
    let root = ca("root");
    let der = leaf(params, &root);
    let error = verify(std::slice::from_ref(&der), &x509_bundles(&[("cloud.example", &[&root])])).unwrap_err();
    assert_eq!(leaf_spiffe_id(&der).unwrap_err(), error, "the leaf rules alone say the same");
    error
}

#[test]
fn a_plain_leaf_verifies() {
    let root = ca("root");
    let der = leaf(leaf_params(ID), &root);
    let svid = verify(std::slice::from_ref(&der), &x509_bundles(&[("cloud.example", &[&root])])).unwrap();
    assert_eq!((svid.id().as_str(), svid.leaf_der()), (ID, der.as_slice()));
    assert_eq!(svid.not_after(), datetime!(2039-01-01 00:00 UTC));
    assert!(svid.serial_decimal().bytes().all(|byte| byte.is_ascii_digit()));
}

#[test]
fn each_leaf_rule_has_a_bad_certificate() {
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = leaf_params(ID);
        change(&mut params);
        error_of(params)
    };
    assert_eq!(with(|params| params.subject_alt_names.clear()), X509SvidError::NoUriSan);
    assert_eq!(
        with(|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]),
        X509SvidError::NoUriSan
    );
    assert_eq!(
        with(|params| params.subject_alt_names.push(uri("spiffe://cloud.example/other"))),
        X509SvidError::SeveralUriSans
    );
    assert_eq!(
        with(|params| params.subject_alt_names.push(uri("https://cloud.example"))),
        X509SvidError::SeveralUriSans
    );
    assert_eq!(
        with(|params| params.subject_alt_names = vec![uri("https://cloud.example/a")]),
        X509SvidError::InvalidId(IdError::Scheme)
    );
    assert_eq!(
        with(|params| params.subject_alt_names = vec![uri("spiffe://cloud.example/%41")]),
        X509SvidError::InvalidId(IdError::PathCharacter)
    );
    assert_eq!(with(|params| params.subject_alt_names = vec![uri("spiffe://cloud.example")]), X509SvidError::NoPath);
    assert_eq!(with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), X509SvidError::LeafIsCa);
    assert_eq!(with(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)), X509SvidError::LeafKeyCertSign);
    assert_eq!(with(|params| params.key_usages.push(KeyUsagePurpose::CrlSign)), X509SvidError::LeafCrlSign);
}

#[test]
fn leaves_within_the_rules_pass() {
    let root = ca("root");
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let changes: [fn(&mut CertificateParams); 4] = [
        |params| params.key_usages.clear(),
        |params| params.is_ca = IsCa::NoCa,
        |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning],
        |params| params.subject_alt_names.push(SanType::DnsName("a.example".try_into().unwrap())),
    ];
    for change in changes {
        let mut params = leaf_params(ID);
        change(&mut params);
        verify(&[leaf(params, &root)], &bundles).unwrap();
    }
}

#[test]
fn the_bundle_is_that_of_the_leafs_own_trust_domain() {
    let (cloud, onprem) = (ca("cloud"), ca("onprem"));
    let both = x509_bundles(&[("cloud.example", &[&cloud]), ("onprem.example", &[&onprem])]);
    let forged = leaf(leaf_params("spiffe://onprem.example/x"), &cloud);
    assert_eq!(verify(&[forged], &both).unwrap_err(), X509SvidError::UnknownAuthority);
    let stranger = leaf(leaf_params("spiffe://third.example/x"), &cloud);
    assert_eq!(
        verify(&[stranger], &both).unwrap_err(),
        X509SvidError::NoBundle(TrustDomain::parse("third.example").unwrap())
    );
    let empty = x509_bundles(&[("cloud.example", &[])]);
    assert_eq!(
        verify(&[leaf(leaf_params(ID), &cloud)], &empty).unwrap_err(),
        X509SvidError::NoAuthorities(TrustDomain::parse("cloud.example").unwrap())
    );
}

#[test]
fn same_name_and_another_key_is_a_bad_signature() {
    let (real, fake) = (ca("root"), ca("root"));
    let bundles = x509_bundles(&[("cloud.example", &[&real])]);
    assert_eq!(verify(&[leaf(leaf_params(ID), &fake)], &bundles).unwrap_err(), X509SvidError::BadSignature);
}

#[test]
fn tainted_authorities_still_verify() {
    let root = ca("root");
    let bundle = crate::bundle::Bundle::new(trust_domain("cloud.example"))
        .with_x509_authorities([authority(&root).with_tainted(true)]);
    verify(&[leaf(leaf_params(ID), &root)], &BundleSet::from_iter([bundle.into()])).unwrap();
}

#[test]
fn every_signature_algorithm_verifies() {
    let mut keys: Vec<KeyPair> = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ]
    .into_iter()
    .map(|algorithm| KeyPair::generate_for(algorithm).unwrap())
    .collect();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_RSA_SHA384, &rcgen::PKCS_RSA_SHA512] {
        keys.push(KeyPair::from_pkcs8_der_and_sign_algo(&rsa.serialize_der().as_slice().into(), algorithm).unwrap());
    }
    for key in keys {
        let root = CertifiedIssuer::self_signed(ca_params("root"), key).unwrap();
        let der = leaf(leaf_params(ID), &root);
        let bundles = x509_bundles(&[("cloud.example", &[&root])]);
        verify(std::slice::from_ref(&der), &bundles).unwrap();
        assert!(authority(&root).certificate().is_self_signed());

        let mut altered = der;
        let position = altered.len() - 5;
        altered[position] ^= 1;
        assert!(verify(&[altered], &bundles).is_err());
    }
}

#[test]
fn times_are_checked_all_the_way_up() {
    let expired = |mut params: CertificateParams| {
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params
    };
    let root = ca("root");
    let roots = x509_bundles(&[("cloud.example", &[&root])]);
    let end = datetime!(2030-01-01 00:00 UTC);
    let der = leaf(expired(leaf_params(ID)), &root);
    assert_eq!(verify(std::slice::from_ref(&der), &roots).unwrap_err(), X509SvidError::Expired(end));
    verify_chain(std::slice::from_ref(&der), &roots, end).unwrap();
    assert_eq!(
        verify_chain(&[der], &roots, datetime!(2019-12-31 23:59:59 UTC)).unwrap_err(),
        X509SvidError::NotYetValid(datetime!(2020-01-01 00:00 UTC))
    );

    let intermediate = sub_ca(expired(ca_params("intermediate")), &root);
    let chain = [leaf(leaf_params(ID), &intermediate), intermediate.der().to_vec()];
    assert_eq!(verify(&chain, &roots).unwrap_err(), X509SvidError::Expired(end));

    let old_root = CertifiedIssuer::self_signed(expired(ca_params("old")), p256()).unwrap();
    let bundles = x509_bundles(&[("cloud.example", &[&old_root])]);
    assert_eq!(verify(&[leaf(leaf_params(ID), &old_root)], &bundles).unwrap_err(), X509SvidError::Expired(end));
}

#[test]
fn intermediates_are_used_in_any_order_and_only_if_they_are_cas() {
    let root = ca("root");
    let upper = sub_ca(ca_params("upper"), &root);
    let lower = sub_ca(ca_params("lower"), &upper);
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let der = leaf(leaf_params(ID), &lower);
    let (upper_der, lower_der) = (upper.der().to_vec(), lower.der().to_vec());
    verify(&[der.clone(), lower_der.clone(), upper_der.clone()], &bundles).unwrap();
    verify(&[der.clone(), upper_der.clone(), root.der().to_vec(), lower_der.clone()], &bundles).unwrap();
    assert_eq!(verify(&[der.clone(), lower_der], &bundles).unwrap_err(), X509SvidError::UnknownAuthority);
    assert_eq!(verify(&[der], &bundles).unwrap_err(), X509SvidError::UnknownAuthority);

    let mut no_flag = ca_params("not a CA");
    no_flag.is_ca = IsCa::ExplicitNoCa;
    let mut no_usage = ca_params("no keyCertSign");
    no_usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    for params in [no_flag, no_usage] {
        let issuer = sub_ca(params, &root);
        let chain = [leaf(leaf_params(ID), &issuer), issuer.der().to_vec()];
        assert_eq!(verify(&chain, &bundles).unwrap_err(), X509SvidError::IssuerNotCa);
    }
}

#[test]
fn a_leaf_cannot_issue() {
    let root = ca("root");
    let workload = sub_ca(leaf_params("spiffe://cloud.example/workload"), &root);
    let forged = leaf(leaf_params("spiffe://cloud.example/admin"), &workload);
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    assert_eq!(verify(&[forged, workload.der().to_vec()], &bundles).unwrap_err(), X509SvidError::IssuerNotCa);
}

#[test]
fn path_length_is_honoured_on_roots_and_intermediates() {
    let limited = |name: &str, length| {
        let mut params = ca_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params
    };
    let root = CertifiedIssuer::self_signed(limited("root", 1), p256()).unwrap();
    let upper = sub_ca(limited("upper", 0), &root);
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    verify(&[leaf(leaf_params(ID), &upper), upper.der().to_vec()], &bundles).unwrap();

    let lower = sub_ca(ca_params("lower"), &upper);
    let chain = [leaf(leaf_params(ID), &lower), lower.der().to_vec(), upper.der().to_vec()];
    assert_eq!(verify(&chain, &bundles).unwrap_err(), X509SvidError::PathLength);
    let open = sub_ca(ca_params("open"), &root);
    let below = sub_ca(ca_params("below"), &open);
    let chain = [leaf(leaf_params(ID), &below), below.der().to_vec(), open.der().to_vec()];
    assert_eq!(verify(&chain, &bundles).unwrap_err(), X509SvidError::PathLength);
}

#[test]
fn dns_name_constraints_hold_for_the_leaf() {
    let mut params = ca_params("constrained");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("cloud.example".to_owned())],
        excluded_subtrees: vec![],
    });
    let root = CertifiedIssuer::self_signed(params, p256()).unwrap();
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let named = |dns: &str| {
        let mut params = leaf_params(ID);
        params.subject_alt_names.push(SanType::DnsName(dns.try_into().unwrap()));
        leaf(params, &root)
    };
    verify(&[named("a.cloud.example")], &bundles).unwrap();
    verify(&[leaf(leaf_params(ID), &root)], &bundles).unwrap();
    assert_eq!(
        verify(&[named("a.other.example")], &bundles).unwrap_err(),
        X509SvidError::NameConstraint("a.other.example".to_owned())
    );
}

#[test]
fn critical_extensions_must_be_understood() {
    let root = ca("root");
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let with_extension = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        let mut params = leaf_params(ID);
        params.custom_extensions = vec![extension];
        leaf(params, &root)
    };
    verify(&[with_extension(false)], &bundles).unwrap();
    assert_eq!(
        verify(&[with_extension(true)], &bundles).unwrap_err(),
        X509SvidError::UnknownCriticalExtension("1.2.3.4".to_owned())
    );

    let mut params = ca_params("directory names only");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DirectoryName(rcgen::DistinguishedName::new())],
        excluded_subtrees: vec![],
    });
    let constrained = CertifiedIssuer::self_signed(params, p256()).unwrap();
    let bundles = x509_bundles(&[("cloud.example", &[&constrained])]);
    assert_eq!(
        verify(&[leaf(leaf_params(ID), &constrained)], &bundles).unwrap_err(),
        X509SvidError::UnknownCriticalExtension("2.5.29.30".to_owned())
    );
}

#[test]
fn work_is_bounded_and_key_identifiers_save_it() {
    // More authorities of one name than signatures may be checked.
    let crowd: Vec<Ca> = (0..MAX_SIGNATURE_CHECKS + 5).map(|_| ca("crowd")).collect();
    let cas: Vec<&Ca> = crowd.iter().collect();
    let bundles = x509_bundles(&[("cloud.example", &cas)]);
    let last = cas[cas.len() - 1];
    verify(&[leaf(leaf_params(ID), last)], &bundles).unwrap();
    let mut without_hint = leaf_params(ID);
    without_hint.use_authority_key_identifier_extension = false;
    let stranger = ca("crowd");
    assert_eq!(verify(&[leaf(without_hint, &stranger)], &bundles).unwrap_err(), X509SvidError::BadSignature);

    // Cross-signed CAs that lead in circles.
    let (a, b) = (ca("a"), ca("b"));
    let a_by_b = sub_ca_with(&a, "a", &b);
    let b_by_a = sub_ca_with(&b, "b", &a);
    let chain = [leaf(leaf_params(ID), &a), a_by_b, b_by_a];
    assert_eq!(verify(&chain, &bundles).unwrap_err(), X509SvidError::UnknownAuthority);

    assert_eq!(verify(&vec![vec![0]; MAX_CHAIN_CERTIFICATES + 1], &bundles).unwrap_err(), X509SvidError::ChainTooLong);
    assert_eq!(verify(&[], &bundles).unwrap_err(), X509SvidError::EmptyChain);
}

/// The key of `subject` certified again by `issuer`.
fn sub_ca_with(subject: &Ca, name: &str, issuer: &Ca) -> Vec<u8> {
    ca_params(name).signed_by(subject.key(), issuer).unwrap().der().to_vec()
}

#[test]
fn long_chains_stop() {
    let root = ca("root");
    let mut cas = vec![sub_ca(ca_params("ca 0"), &root)];
    for index in 1..=MAX_INTERMEDIATES {
        cas.push(sub_ca(ca_params(&format!("ca {index}")), &cas[index - 1]));
    }
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let chain = |count: usize| {
        let mut chain = vec![leaf(leaf_params(ID), &cas[count - 1])];
        chain.extend(cas[..count].iter().rev().map(|ca| ca.der().to_vec()));
        chain
    };
    verify(&chain(MAX_INTERMEDIATES), &bundles).unwrap();
    assert_eq!(verify(&chain(MAX_INTERMEDIATES + 1), &bundles).unwrap_err(), X509SvidError::TooManyIntermediates);
}

#[test]
fn unreadable_certificates_are_named_by_position() {
    let root = ca("root");
    let bundles = x509_bundles(&[("cloud.example", &[&root])]);
    let der = leaf(leaf_params(ID), &root);
    assert_eq!(
        verify(&[der.clone(), b"junk".to_vec()], &bundles).unwrap_err(),
        X509SvidError::Certificate { index: 1, source: CertificateError::Malformed }
    );
    assert_eq!(
        verify(&[[der.clone(), der].concat()], &bundles).unwrap_err(),
        X509SvidError::Certificate { index: 0, source: CertificateError::TrailingBytes }
    );
}

#[test]
fn ca_rules_of_the_issuer() {
    let domain = trust_domain("cloud.example");
    let check = |change: fn(&mut CertificateParams), now| {
        let mut params = ca_params("ca");
        params.subject_alt_names = vec![uri("spiffe://cloud.example")];
        change(&mut params);
        let ca = CertifiedIssuer::self_signed(params, p256()).unwrap();
        check_ca_certificate(ca.der(), &domain, now).map(drop)
    };
    use CaCertificateError as Fault;
    assert_eq!(check(|_| {}, NOW), Ok(()));
    assert_eq!(check(|params| params.subject_alt_names.clear(), NOW), Ok(()));
    assert_eq!(check(|params| params.key_usages.push(KeyUsagePurpose::DigitalSignature), NOW), Ok(()));
    assert_eq!(check(|params| params.is_ca = IsCa::NoCa, NOW), Err(Fault::NoBasicConstraints));
    assert_eq!(check(|params| params.is_ca = IsCa::ExplicitNoCa, NOW), Err(Fault::NotCa));
    assert_eq!(check(|params| params.key_usages.clear(), NOW), Err(Fault::NoKeyCertSign));
    assert_eq!(check(|params| params.key_usages.push(KeyUsagePurpose::KeyAgreement), NOW), Err(Fault::ForeignKeyUsage));
    assert_eq!(
        check(|params| params.subject_alt_names.push(uri("spiffe://cloud.example")), NOW),
        Err(Fault::SeveralUriSans)
    );
    assert_eq!(
        check(|params| params.subject_alt_names = vec![uri("spiffe://cloud.example/x")], NOW),
        Err(Fault::WrongUriSan("spiffe://cloud.example".to_owned()))
    );
    assert!(matches!(check(|_| {}, datetime!(2019-01-01 00:00 UTC)), Err(Fault::NotYetValid(_))));
    assert!(matches!(check(|_| {}, datetime!(2040-01-01 00:00 UTC)), Err(Fault::Expired(_))));
}

#[test]
fn svid_rules_of_the_issuer() {
    let id = SpiffeId::parse(ID).unwrap();
    let root = ca("root");
    let check = |change: fn(&mut CertificateParams), now| {
        let mut params = leaf_params(ID);
        change(&mut params);
        check_svid_certificate(&leaf(params, &root), &id, now).map(drop)
    };
    use SvidCertificateError as Fault;
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    assert_eq!(check(|_| {}, NOW), Ok(()));
    assert_eq!(check(|params| params.extended_key_usages = vec![ServerAuth, ClientAuth], NOW), Ok(()));
    assert_eq!(check(|params| params.extended_key_usages = vec![ServerAuth], NOW), Err(Fault::ExtendedKeyUsage));
    assert_eq!(check(|params| params.is_ca = IsCa::NoCa, NOW), Err(Fault::NoBasicConstraints));
    assert_eq!(check(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), NOW), Err(Fault::IsCa));
    assert_eq!(
        check(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement], NOW),
        Err(Fault::NoDigitalSignature)
    );
    assert_eq!(check(|params| params.key_usages.push(KeyUsagePurpose::CrlSign), NOW), Err(Fault::ForeignKeyUsage));
    assert_eq!(check(|params| params.subject_alt_names.clear(), NOW), Err(Fault::UriSanCount));
    assert_eq!(
        check(|params| params.subject_alt_names = vec![uri("spiffe://cloud.example/x")], NOW),
        Err(Fault::WrongUriSan(SpiffeId::parse(ID).unwrap()))
    );
    assert!(matches!(check(|_| {}, datetime!(2019-01-01 00:00 UTC)), Err(Fault::NotYetValid(_))));
    assert!(matches!(check(|_| {}, datetime!(2040-01-01 00:00 UTC)), Err(Fault::Expired(_))));
}

#[test]
fn signing_requests_are_read_and_checked() {
    let key = p256();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![uri(ID), SanType::DnsName("a.example".try_into().unwrap())];
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let request = CertificateRequest::from_der(&der).unwrap();
    assert_eq!((request.uri_sans(), request.dns_sans()), (&[ID.to_owned()][..], &["a.example".to_owned()][..]));
    assert_eq!(*request.public_key(), public_key(&key));
    assert!(request.has_empty_subject() && request.verify_signature().is_ok());

    let mut altered = der.clone();
    let position = altered.len() - 3;
    altered[position] ^= 1;
    let altered = CertificateRequest::from_der(&altered).unwrap();
    assert_eq!(altered.verify_signature(), Err(CertificateRequestError::Signature));

    let error = |bytes: &[u8]| CertificateRequest::from_der(bytes).unwrap_err();
    assert_eq!(error(&[]), CertificateRequestError::Empty);
    assert_eq!(error(b"not der"), CertificateRequestError::Malformed);
    assert_eq!(error(&[der.as_slice(), &[0]].concat()), CertificateRequestError::TrailingBytes);
    assert_eq!(error(&vec![0x30; MAX_REQUEST_BYTES + 1]), CertificateRequestError::TooLong);
}
