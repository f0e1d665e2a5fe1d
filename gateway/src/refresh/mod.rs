//! Keeping partners' bundles fresh: one isolated task a relationship, and delivery of what was accepted.

pub mod clients;
pub mod control;
pub mod decision_error;
pub mod decisions;
pub mod deliver;
pub mod failover;
pub mod lanes;
pub mod limits;
pub mod manager;
pub mod policy;
pub mod relationship;
mod requests;
pub mod schedule;
pub mod states;
mod task;
pub mod trust;
pub mod updater;
pub mod usable;
pub mod work;
