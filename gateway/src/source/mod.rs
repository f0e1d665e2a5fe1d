//! Where the bundle of a served trust domain comes from. One trait, one file for each kind of source.

pub mod contributions;
pub mod file;
pub(crate) mod follow;
pub mod issuer;
pub mod url;
pub mod workload_api;

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use service_kit::BoxError;

pub(crate) use follow::{Follower, accept_held};

/// A source of one trust domain's own bundle.
#[async_trait]
pub trait BundleSource: Send {
    /// What it is, for logs: `issuer /run/issuer/api.sock`.
    fn describe(&self) -> String;

    /// Whether the source tells of changes by itself, so that silence means that nothing changed.
    fn is_stream(&self) -> bool {
        false
    }

    /// The bundle as it is now. The first call answers as soon as it can; later ones wait until it is worth looking
    /// again: a polled source for its interval, a watched one for a change. After an error the caller waits.
    ///
    /// # Errors
    /// Whatever kept the source from answering, with the remedy.
    async fn next(&mut self) -> Result<Bundle, BoxError>;
}
