//! The captured data of `testdata/` against the public API.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod bundles;
mod certificates;
mod tokens;

use std::path::PathBuf;

use federation_specs::id::TrustDomain;

pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}
