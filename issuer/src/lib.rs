//! The issuer: certificate and token authority of one trust domain.
//!
//! It keeps registration entries, attested agents, bundles and federation relationships; makes and rotates the X.509
//! and JWT authorities; signs SVIDs; and serves the SPIRE Server API over mutual TLS and on a Unix socket. Agents and
//! the gateway dial it; it dials only its upstream authority.

mod app;
pub mod attestors;
pub mod authorized;
pub mod ca;
pub mod config;
pub mod entry;
pub mod node;
pub mod rpc;
pub mod store;
pub mod upstream;

pub use app::{Error, Issuer, run};
