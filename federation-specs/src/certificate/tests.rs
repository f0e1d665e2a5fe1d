use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, SanType, SerialNumber};

use super::*;
use crate::test_data::*;

fn error(bytes: &[u8]) -> CertificateError {
    Certificate::from_der(bytes).unwrap_err()
}

#[test]
fn fields_are_those_of_the_certificate() {
    let root = ca("root");
    let mut params = leaf_params("spiffe://td/a");
    params.serial_number = Some(SerialNumber::from_slice(&[0xff; 16]));
    params.subject_alt_names.push(SanType::DnsName("a.example".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = Certificate::from_der(&leaf(params, &root)).unwrap();
    assert_eq!(certificate.serial_decimal(), u128::MAX.to_string());
    assert_eq!(certificate.names().uris, ["spiffe://td/a"]);
    assert_eq!(certificate.names().dns, ["a.example"]);
    assert_eq!(certificate.names().ips, [[127, 0, 0, 1]]);
    assert_eq!(certificate.extended_key_usage(), Some(ExtendedKeyUsage { server_auth: true, client_auth: false }));
    assert_eq!(certificate.key_usage(), Some(KeyUsage::DIGITAL_SIGNATURE));
    let issuer = Certificate::from_der(root.der()).unwrap();
    assert_eq!(certificate.issuer_der(), issuer.subject_der());
    assert_eq!(certificate.authority_key_id(), issuer.subject_key_id());
    assert!(certificate.is_signed_by(issuer.public_key().unwrap()) && !certificate.is_self_signed());
    assert!(issuer.is_ca() && issuer.is_self_signed());
}

#[test]
fn anything_but_one_certificate_is_refused() {
    let der = ca("a").der().to_vec();
    assert_eq!(error(&[]), CertificateError::Empty);
    assert_eq!(error(b"not der").to_string(), "x509: malformed certificate");
    assert_eq!(error(&der[..der.len() - 1]), CertificateError::Malformed);
    assert_eq!(error(&[der.as_slice(), der.as_slice()].concat()), CertificateError::TrailingBytes);
    assert_eq!(error(&[der.as_slice(), &[0]].concat()), CertificateError::TrailingBytes);
    assert_eq!(error(&vec![0x30; MAX_CERTIFICATE_BYTES + 1]), CertificateError::TooLong);
}

#[test]
fn repeated_and_malformed_extensions_are_refused() {
    let with = |oid: &[u64], content: &[u8], times: usize| {
        let mut params: CertificateParams = leaf_params("spiffe://td/a");
        params.custom_extensions = vec![CustomExtension::from_oid_content(oid, content.to_vec()); times];
        Certificate::from_der(&leaf(params, &ca("root")))
    };
    assert!(with(&[1, 2, 3], &[5, 0], 1).is_ok());
    assert_eq!(with(&[1, 2, 3], &[5, 0], 2), Err(CertificateError::Extension("1.2.3".into())));
    assert_eq!(with(&[2, 5, 29, 30], &[1, 2, 3], 1), Err(CertificateError::Extension("2.5.29.30".into())));
    assert!(with(&[2, 5, 29, 17], &[0x30, 0], 1).is_err(), "a second subjectAltName");
}

#[test]
fn names_are_counted() {
    let mut params = leaf_params("spiffe://td/a");
    params.subject_alt_names =
        (0..=MAX_SUBJECT_ALT_NAMES).map(|n| SanType::DnsName(format!("n{n}.example").try_into().unwrap())).collect();
    assert_eq!(error(&leaf(params, &ca("root"))), CertificateError::TooManyNames);
}

#[test]
fn two_signature_algorithms_are_refused() {
    let mut der = ca("root").der().to_vec();
    // The last ecdsa-with-SHA256 identifier is the one outside the signed part.
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let position = der.windows(oid.len()).rposition(|window| window == oid).unwrap();
    der[position + 7] = 0x03;
    assert_eq!(error(&der), CertificateError::AlgorithmMismatch);
}

#[test]
fn concatenations_are_divided() {
    let (a, b) = (ca("a").der().to_vec(), ca("b").der().to_vec());
    assert_eq!(split_der_certificates(&[a.clone(), b.clone()].concat()).unwrap(), [a.clone(), b]);
    assert_eq!(split_der_certificates(&[]).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(split_der_certificates(&a[..a.len() - 1]), Err(CertificateError::Malformed));
    assert_eq!(split_der_certificates(&[a.as_slice(), &[1]].concat()), Err(CertificateError::Malformed));
    assert_eq!(split_der_certificates(&[0x30, 0].repeat(MAX_CERTIFICATES + 1)), Err(CertificateError::TooMany));
}

#[test]
fn a_certificate_has_one_encoding() {
    let der = ca("root").der().to_vec();
    // The tag of the algorithm identifier outside the signed part.
    let oid = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let position = der.windows(oid.len()).rposition(|window| window == oid).unwrap();
    let mut altered = der;
    altered[position] = 0x80;
    assert_eq!(error(&altered), CertificateError::AlgorithmMismatch);
}

proptest! {
    #[test]
    fn altered_certificates_never_panic(position in 0usize..400, value: u8) {
        let mut der = POOL.0[0].der().to_vec();
        let length = der.len();
        der[position % length] = value;
        if let Ok(certificate) = Certificate::from_der(&der) {
            prop_assert_eq!(certificate.der(), der.as_slice());
            prop_assert!(!certificate.is_self_signed() || der == POOL.0[0].der(), "an altered certificate is not signed: {}", hex(&der));
        }
    }
}
