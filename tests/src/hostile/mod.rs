//! Partners that are hostile or broken on every level, each in its own way: [`rows`] lists them with the words a
//! gateway must find for each. Beside them [`good`] ones, which must not notice.

pub mod authority;
pub mod certificate;
pub mod connection;
pub mod dns;
pub mod document;
pub mod good;
pub mod http2;
pub mod response;
pub mod rows;
pub mod server;
pub mod table;
