//! The API over a real TLS port and a real Unix socket.

mod attestation;
mod entries;
mod federation;
mod harness;
mod limits;
mod recorded;
mod svids;
