//! A trust domain of real processes on loopback: what `entente demo` and `entente dev` start.
//!
//! Every process is this same binary, started with a configuration file written here, so what these
//! commands show is what a user gets from `entente issuer run`, `entente agent run` and
//! `entente gateway run`.

pub(crate) mod domain;
pub(crate) mod issuer_api;
pub(crate) mod layout;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod wait;
pub(crate) mod web_ca;
