//! gRPC over mutual TLS and over Unix sockets, both ends.

pub mod authority;
pub mod connect;
mod connection;
pub mod listen;
pub mod logger;
pub mod peer;
mod turns;
pub mod unix_socket;
