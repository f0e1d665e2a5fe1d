//! Gateways that share a database divide the work: every trust domain's name belongs to one of [`shards::SHARDS`] parts, and
//! each part to one replica at a time. What a replica without the lease tries to store is refused by the database.
//!
//! A gateway on SQLite is alone and has everything, at no cost.

pub(crate) mod coordinator;
pub mod leases;
pub mod shards;
