//! The JSON of the admin API: what the gateway answers and the command line reads.
//!
//! Times are RFC 3339 in UTC, durations are seconds. Errors are [`Problem`] bodies (RFC 9457) with media type
//! [`PROBLEM_MEDIA_TYPE`].

pub mod audit;
mod bundles;
mod decision;
mod health;
pub mod managed;
mod problem;
pub mod publishers;
mod relationships;
mod role;
pub mod sources;
mod waiting;
pub mod webhooks;

pub use crate::refresh::{
    control::OfferReason,
    policy::{Drift, Emptied, Mode},
};
pub use bundles::{BundleHistory, BundleKind, BundleList, BundleSummary, HistoryEntry, Via};
pub use decision::{ApproveRequest, Decided, ReasonRequest, RestoreRequest};
pub use health::{HealthReport, SubsystemHealth};
pub use problem::{PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX, Problem};
pub use relationships::{
    Delivery, DeliveryDrift, Document, Frozen, Health, Origin, Profile, RefreshRequest, RefreshResult, Relationship,
    RelationshipList, RelationshipState,
};
pub use role::Role;
pub use waiting::{KeyDifference, KeyDifferences, WaitingBundle};
