//! SPIFFE as types: identities, SVIDs, bundles, federation and the wire
//! protocols that carry them. No I/O and no clock: bytes come in, checked
//! values come out, and the time is an argument.
//!
//! Section numbers such as "svid.md section 5" refer to the wire facts the
//! project keeps; "X509-SVID section 5.2" and the like to the SPIFFE standards.

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
