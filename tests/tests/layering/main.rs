//! Code depends one way: between crates, and between the files of a crate.

mod crates;
mod files;
mod modules;
