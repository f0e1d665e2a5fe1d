//! The agent of a node: proves the node to the trust domain's issuer, keeps SVIDs and bundles in step with it, and serves
//! them to the workloads on this node through the SPIFFE Workload API.
//!
//! How data goes through it: [`node`] attests and [`own_svid`] keeps the agent's own SVID; [`sync`] brings entries,
//! bundles and signed SVIDs into the [`cache`]; [`api`] answers workloads from there, once [`peer`] and [`workload`] have
//! told who calls. The issuer may be away for as long as the SVIDs last.

pub mod api;
pub mod app;
pub mod cache;
pub mod config;
pub mod identity;
pub mod issuer;
pub mod node;
pub mod own_svid;
pub mod peer;
pub mod rotation;
pub mod saved;
pub mod sync;
pub mod workload;

#[cfg(test)]
mod testing;

pub use app::{Error, run};
