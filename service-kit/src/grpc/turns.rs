//! Turns at something scarce: limited in all, and for each client address, so that one client cannot take them all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bits of an IPv6 address that tell clients apart: one client usually has a whole network of this length.
const CLIENT_PREFIX: u32 = 64;

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    per_address: usize,
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Turns {
    /// At most `all` turns at once, `per_address` of them for one address.
    pub(super) fn new(all: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), per_address, by_address: Mutex::default() })
    }

    /// Waits for a turn. Those who wait for one of their address do not hold up other addresses.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr) -> Turn {
        let address = client(address);
        let of_address = {
            let mut by_address = self.by_address();
            let semaphore = by_address.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.per_address)));
            Arc::clone(semaphore)
        };
        // Made before waiting, so that one who gives up waiting leaves nothing behind.
        let mut turn = Turn { turns: Arc::clone(self), address, permits: Vec::with_capacity(2) };
        // Neither semaphore is ever closed.
        turn.permits.extend(of_address.acquire_owned().await.ok());
        turn.permits.extend(Arc::clone(&self.all).acquire_owned().await.ok());
        turn
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, over when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    address: IpAddr,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permits.clear();
        let mut by_address = self.turns.by_address();
        // Whoever has or waits for a turn of the address holds the semaphore too.
        if by_address.get(&self.address).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            by_address.remove(&self.address);
        }
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (u128::BITS - CLIENT_PREFIX))))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_turn() {
        let turns = Turns::new(3, 2);
        let one = turns.take(address("10.0.0.1")).await;
        let _two = turns.take(address("10.0.0.1")).await;
        // It waits for its own, whatever is left.
        assert!(turns.take(address("::ffff:10.0.0.1")).now_or_never().is_none());
        let other = turns.take(address("10.0.0.2")).now_or_never().unwrap();
        assert!(turns.take(address("10.0.0.3")).now_or_never().is_none(), "no more than three in all");
        drop(one);
        let again = turns.take(address("10.0.0.1")).now_or_never().unwrap();
        drop((other, again));
        assert_eq!(turns.by_address().len(), 1, "addresses without a turn are forgotten");
    }

    #[tokio::test]
    async fn a_network_counts_as_one_client() {
        let turns = Turns::new(9, 1);
        let _turn = turns.take(address("2001:db8::1")).await;
        assert!(turns.take(address("2001:db8::2")).now_or_never().is_none());
        assert!(turns.take(address("2001:db8:0:1::1")).now_or_never().is_some());
    }
}
