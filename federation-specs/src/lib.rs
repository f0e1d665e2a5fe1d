//! SPIFFE as types: identities, SVIDs, bundles, federation and the wire
//! protocols that carry them. No I/O and no clock: bytes come in, checked
//! values come out, and the time is an argument.
//!
//! Sources are named in brackets: "X509-SVID section 5.2" and the like are the
//! SPIFFE standards, "SPIRE 1.15" is what that version was seen to do.

pub mod attestation;
pub mod bundle;
pub mod bundle_change;
pub mod bundle_json;
pub mod certificate;
pub mod convert;
mod der;
pub mod distinguished_name;
pub mod dns_name;
pub mod id;
pub mod jwt_svid;
pub mod oidc;
pub mod profile;
pub mod proto;
pub mod public_key;
pub mod selector;
mod signature;
mod strict_json;
pub mod x509_svid;

#[cfg(test)]
mod test_data;
