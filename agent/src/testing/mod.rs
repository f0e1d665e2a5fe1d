//! What the agent's tests share: a certificate authority, an issuer in this process and agents talking to it.

pub(crate) mod agent;
pub(crate) mod authority;
pub(crate) mod issuer;

mod attestation;
mod identities;
mod outages;
mod renewal;
mod workload_api;
