//! Keeping partners' bundles fresh: one isolated task a relationship, and delivery of what was accepted.

pub mod deliver;
pub mod manager;
pub mod relationship;
pub mod schedule;
mod task;
pub mod trust;
pub mod updater;
pub mod work;
