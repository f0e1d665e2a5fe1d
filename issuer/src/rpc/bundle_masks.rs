//! Bundles as messages, reduced to what a mask asks for.

use federation_specs::{bundle::Bundle, convert, proto::types};

/// The bundle with the fields named in `mask` (`None`: all); the trust domain is always there.
pub(super) fn to_proto(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let mut message = convert::bundle_to_proto(bundle);
    if let Some(mask) = mask {
        if !mask.x509_authorities {
            message.x509_authorities.clear();
        }
        if !mask.jwt_authorities {
            message.jwt_authorities.clear();
        }
        if !mask.wit_authorities {
            message.wit_authorities.clear();
        }
        if !mask.refresh_hint {
            message.refresh_hint = 0;
        }
        if !mask.sequence_number {
            message.sequence_number = 0;
        }
    }
    message
}
