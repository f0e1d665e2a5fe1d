//! Places own bundles are published to, by a whole gateway: the same suite for each kind of place.

mod aws;
mod azure;
mod conformance;
mod credentials;
mod file;
mod gate;
mod google;
mod internet;
mod kubernetes;
mod object;
mod programs;
mod replicas;
mod sigv4;
mod tokens;
