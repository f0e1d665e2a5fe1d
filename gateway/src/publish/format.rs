//! Bundles written down for a place.

use federation_specs::{
    bundle::{Bundle, X509Authority},
    bundle_json,
};

use super::PublisherError;
use crate::{config::BundleFormat, settings::Content};

/// The bundle in the format of a place, the same bytes for the same content.
pub(super) fn render(bundle: &Bundle, content: Content) -> Result<Vec<u8>, PublisherError> {
    Ok(match content.format {
        BundleFormat::Spiffe => match content.refresh_hint {
            Some(hint) => bundle_json::encode(&bundle.clone().with_refresh_hint(Some(hint))),
            None => bundle_json::encode(bundle),
        },
        BundleFormat::Jwks => bundle_json::encode_plain_jwks(bundle),
        // Nothing at all is a revocation that was accepted; no certificates beside other keys is a wrong format.
        BundleFormat::Pem if bundle.x509_authorities().is_empty() && !bundle.is_empty() => {
            return Err(PublisherError::Unfit(
                "the bundle has no X.509 authorities, and format pem holds nothing else; use format: spiffe".to_owned(),
            ));
        }
        BundleFormat::Pem => pem(bundle).into_bytes(),
    })
}

/// The X.509 authorities oldest first, as PEM.
pub(super) fn pem(bundle: &Bundle) -> String {
    let mut authorities: Vec<X509Authority> = bundle.x509_authorities().to_vec();
    authorities.sort_by(|a, b| (a.not_before(), a.der()).cmp(&(b.not_before(), b.der())));
    Bundle::new(bundle.trust_domain().clone()).with_x509_authorities(authorities).to_pem()
}

#[cfg(any(feature = "publish-kubernetes", feature = "publish-roles-anywhere"))]
/// As [`pem`], for a place that cannot be without certificates.
pub(super) fn pem_of_some(bundle: &Bundle, place: &str) -> Result<Vec<u8>, PublisherError> {
    if bundle.x509_authorities().is_empty() {
        return Err(PublisherError::Unfit(format!(
            "the bundle has no X.509 authorities, and a {place} cannot be empty; what it holds stays: delete it there \
             if the trust domain is to be revoked"
        )));
    }
    Ok(pem(bundle).into_bytes())
}

#[cfg(test)]
mod tests {
    use federation_specs::id::TrustDomain;

    use super::*;

    #[test]
    fn an_empty_bundle_is_written_in_every_format() {
        let bundle = Bundle::new(TrustDomain::parse("cloud.example").unwrap()).with_sequence(Some(3));
        let written = |format| {
            let hint = (format == BundleFormat::Spiffe).then_some(std::time::Duration::from_secs(60));
            String::from_utf8(render(&bundle, Content { format, refresh_hint: hint }).unwrap()).unwrap()
        };
        let spiffe = written(BundleFormat::Spiffe);
        assert!(
            spiffe.contains("\"spiffe_sequence\": 3") && spiffe.contains("\"spiffe_refresh_hint\": 60"),
            "{spiffe}"
        );
        assert!(!written(BundleFormat::Jwks).contains("spiffe"));
        assert_eq!(written(BundleFormat::Pem), "");
    }
}
