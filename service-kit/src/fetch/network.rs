//! What all fetches of a process have in common: name servers, a proxy, and how many connections may be kept.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{names::Names, proxy::Proxy};
use crate::clock::SharedClock;

/// Connections kept open between two fetches, all servers together. One takes some 40 KiB.
pub const MAX_KEPT_CONNECTIONS: usize = 256;

/// A connection is kept when the next fetch comes within this time; most servers close sooner or later than that.
pub const KEPT_FOR: Duration = Duration::from_secs(90);

/// The way out. Clones share it.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    names: Names,
    proxy: Option<Proxy>,
    kept: Arc<Semaphore>,
    clock: SharedClock,
}

impl Network {
    /// Asks `nameservers`, or those of `/etc/resolv.conf` if there are none; `/etc/hosts` comes first. With a proxy,
    /// the proxy looks up the names of servers.
    pub fn new(nameservers: &[SocketAddr], proxy: Option<Proxy>, clock: SharedClock) -> Self {
        let names = Names::new(nameservers, Arc::clone(&clock));
        Self { inner: Arc::new(Inner { names, proxy, kept: Arc::new(Semaphore::new(MAX_KEPT_CONNECTIONS)), clock }) }
    }

    pub(super) fn names(&self) -> &Names {
        &self.inner.names
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.inner.proxy.as_ref()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// Room for one more connection that is kept.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.kept).try_acquire_owned().ok()
    }
}
