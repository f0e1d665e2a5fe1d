//! Signing requests: what is read has one valid key and exact length.
#![no_main]

use federation_specs::public_key::PublicKey;
use federation_specs::x509_svid::CertificateRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = CertificateRequest::from_der(bytes) else { return };
    let key = request.public_key();
    assert_eq!(PublicKey::from_spki_der(key.spki_der()).as_ref(), Ok(key));
    assert!(request.uri_sans().iter().chain(request.dns_sans()).all(|name| name.is_ascii()));
    assert_eq!(request.verify_signature(), request.verify_signature());
    let longer = [bytes, &[0]].concat();
    assert!(CertificateRequest::from_der(&longer).is_err());
});
