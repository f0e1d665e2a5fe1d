//! What the suites in `tests/tests` are built from: trust domains made of real `entente` processes on loopback, a small
//! web certificate authority, and drivers of client programs nobody here wrote.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use entente_tests::domain::Domain;
//!
//! let cloud = Domain::start("cloud.example").await?; // issuer, agent and gateway, all ready
//! cloud.create_entry("/web", &[]).await?;
//! println!("SPIFFE_ENDPOINT_SOCKET={}", cloud.endpoint_socket());
//! cloud.stop().await // SIGTERM; fails unless every process ends with 0
//! # }
//! ```
//!
//! Nothing waits for a fixed time: [`wait::until`] polls a condition against a deadline.

pub mod binary;
pub mod cli;
pub mod documented;
pub mod domain;
pub mod federation;
pub mod forgery;
pub mod hostile;
pub mod observe;
pub mod partner;
pub mod pebble;
pub mod peer;
pub mod plan;
pub mod ports;
pub mod process;
pub mod receiver;
pub mod rotation;
pub mod tls;
pub mod wait;
pub mod web;
pub mod web_ca;
pub mod workload;

/// A rustls crypto provider for this process; needed once before any TLS.
pub fn install_crypto() {
    // Fails only if another test of the same process was first, with the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
