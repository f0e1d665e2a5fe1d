//! The gateway in this process, between a fake issuer and partners on real TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::large_futures,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod admin;
mod issuer_work;
mod mtls;
mod oidc;
mod refresh;
mod refusals;
mod restart;
mod serving;
mod support;
