//! Places own bundles are published to, by a whole gateway: the same suite for each kind of place.

mod aws;
mod azure;
mod conformance;
mod file;
mod gate;
mod google;
mod kubernetes;
mod programs;
mod replicas;
mod sigv4;
