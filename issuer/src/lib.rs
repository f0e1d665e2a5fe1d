//! The issuer: certificate and token authority of one trust domain.

pub mod authorized;
pub mod ca;
pub mod entry;
pub mod node;
pub mod store;
pub mod upstream;
