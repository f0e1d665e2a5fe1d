//! What every Entente service is built from: clock, configuration, logs, lifecycle, health, keys, TLS, gRPC listeners,
//! bounded fetching, metrics, databases and the data folder.
//!
//! Nothing here knows about a particular service. Every module takes time from [`clock::Clock`] and names the bounds
//! of what it accepts.

pub mod atomic_file;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod csr;
pub mod data_dir;
pub mod database;
pub mod fetch;
pub mod grpc;
pub mod health;
pub mod keys;
pub mod lifecycle;
pub mod metrics;
pub mod telemetry;
#[cfg(any(test, feature = "test-postgres"))]
pub mod test_postgres;
pub mod tls;

#[cfg(test)]
mod test_pki;

/// Any error a background task may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
