//! The federation gateway: serves the bundles of trust domains to partners, keeps partners' bundles fresh, delivers
//! what it accepted to the issuers, and publishes OIDC documents.
//!
//! How a bundle request goes: [`listeners`] → [`http`] → [`served`], with neither lock nor database. How a partner's
//! bundle goes: [`refresh::manager`] (one task a relationship) → [`refresh::updater`] (one fetch) → [`store`] →
//! [`refresh::deliver`] (to the issuers).

mod admin_socket;
pub mod api;
mod app;
pub mod audit;
pub mod config;
pub mod http;
mod identity;
pub mod issuer_client;
pub mod listeners;
pub mod managed;
pub mod metrics;
pub mod partners;
pub mod publish;
mod readiness;
pub mod refresh;
pub mod replicas;
pub mod served;
pub mod settings;
pub mod source;
pub mod store;
pub mod webhook;

use futures::future::BoxFuture;
use service_kit::{clock::SharedClock, lifecycle::Shutdown, telemetry::LogHandle};

pub use app::{Error, Gateway};
use config::Config;

/// Runs a gateway until `shutdown` is triggered or something fails for good.
///
/// # Errors
/// [`Error`] naming what to change.
pub fn run(
    config: Config,
    log: LogHandle,
    clock: SharedClock,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed, so that the whole service is compiled here and not once more in every binary.
    Box::pin(async move {
        tracing::info!(data_dir = %config.data_dir.display(), level = log.current().as_str(), "gateway starts");
        let gateway = Gateway::start(&config, clock, shutdown).await?;
        // There may be thousands of relationships in it.
        drop(config);
        let outcome = gateway.run().await;
        tracing::info!("gateway stopped");
        outcome
    })
}
