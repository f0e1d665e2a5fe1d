//! Free TCP ports on loopback.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

/// Ports handed out lie below Linux's range for outgoing connections (32768 and up), so that no client connection
/// takes one between here and the moment its service binds it.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port nothing listens on, different at every call of one process.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two test processes at once begin at different places.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let candidate = FIRST + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset) % COUNT;
        let port = u16::try_from(candidate)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port between {FIRST} and {}", FIRST + COUNT)
}
