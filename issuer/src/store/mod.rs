//! What the issuer keeps: entries, nodes, join tokens, bundles, relationships and the CA journal.
//!
//! One aggregate a file. Every write is one named transaction; each takes the next value of a change counter and marks
//! the rows it touched with it, so that readers that hold a snapshot ([`crate::authorized`], the bundle snapshot) load
//! only what changed. [`Store::changes`] wakes them.

mod error;
mod page;
mod signatures;

pub use error::StoreError;
pub use page::{Page, Paged};
pub use signatures::*;

/// Most values of a set in one list filter.
pub const MAX_FILTER_VALUES: usize = 1000;
