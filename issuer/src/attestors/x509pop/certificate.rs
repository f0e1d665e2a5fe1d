//! What the attestor reads from a node's certificate.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use federation_specs::{
    certificate::{Certificate, CertificateError},
    id::SpiffeId,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest common name that becomes a selector, in bytes.
const MAX_COMMON_NAME_BYTES: usize = 1024;

/// A node's own certificate.
#[derive(Debug)]
pub(super) struct NodeCertificate {
    parsed: Certificate,
    common_name: Option<String>,
    serial_hex: String,
    san_selectors: Vec<(String, String)>,
    spiffe_path: Option<String>,
}

impl NodeCertificate {
    /// Reads a certificate; `trust_domain` picks the `x509pop://` names meant for this issuer.
    pub(super) fn from_der(der: &[u8], trust_domain: &str) -> Result<Self, CertificateError> {
        let parsed = Certificate::from_der(der)?;
        let (_, raw) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        let common_name = raw.subject().iter_common_name().filter_map(|name| name.as_str().ok()).last();
        let common_name = common_name.filter(|name| !name.is_empty() && name.len() <= MAX_COMMON_NAME_BYTES);
        let prefix = format!("x509pop://{trust_domain}/");
        let selector = |uri: &String| {
            let (key, value) = uri.strip_prefix(&prefix)?.split_once('/')?;
            (!key.is_empty() && !value.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        };
        let spiffe_id = parsed.names().uris.iter().find(|uri| uri.starts_with("spiffe://"));
        let spiffe_id = spiffe_id.and_then(|uri| SpiffeId::parse(uri).ok());
        Ok(Self {
            common_name: common_name.map(str::to_owned),
            serial_hex: hex(raw.raw_serial()),
            san_selectors: parsed.names().uris.iter().filter_map(selector).collect(),
            spiffe_path: spiffe_id.map(|id| id.path().to_owned()),
            parsed,
        })
    }

    pub(super) fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    /// SHA-1 of the certificate, lowercase hex.
    pub(super) fn fingerprint(&self) -> String {
        fingerprint(self.parsed.der())
    }

    /// The last common name of the subject.
    pub(super) fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Serial number, lowercase hex of even length without leading zero bytes.
    pub(super) fn serial_hex(&self) -> &str {
        &self.serial_hex
    }

    /// Key and value of each `x509pop://<trust domain>/<key>/<value>` name.
    pub(super) fn san_selectors(&self) -> &[(String, String)] {
        &self.san_selectors
    }

    /// Path of the first SPIFFE ID among the names.
    pub(super) fn spiffe_path(&self) -> Option<&str> {
        self.spiffe_path.as_deref()
    }
}

/// SHA-1 of a certificate, lowercase hex.
pub(super) fn fingerprint(der: &[u8]) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(serial: &[u8]) -> String {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len().saturating_sub(1));
    serial[first..].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_padded_to_whole_bytes() {
        assert_eq!(hex(&[0, 0x8a, 1]), "8a01");
        assert_eq!(hex(&[5]), "05");
        assert_eq!(hex(&[0]), "00");
    }
}
