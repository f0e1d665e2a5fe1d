//! SPIFFE as types: identities, SVIDs, bundles and the wire protocols.

pub mod proto;
