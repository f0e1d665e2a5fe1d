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

mod acceptance;
mod acme;
mod admin;
mod admin_api;
mod admin_mtls;
mod audit;
mod delivery;
mod endpoint_svid;
mod fetching;
mod issuer_work;
mod limits;
mod managed;
mod metrics;
mod mtls;
mod oidc;
mod publishers;
mod refresh;
mod refusals;
mod replicas;
mod restart;
mod serving;
mod several_domains;
mod sources;
mod spire_server;
mod support;
mod webhooks;
