//! Requests a second of one client: a token bucket each, kept as one number (the generic cell rate algorithm).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;

use super::client::ClientKey;

/// Clients watched at a time. Of more, those that come last are not limited one by one; the limits of connections
/// and of requests at a time hold for them still.
pub(crate) const MAX_CLIENTS: usize = 64 * 1024;

/// The table is divided, so that requests seldom wait for each other.
const SHARDS: usize = 16;

/// How often a full shard is searched for clients that may be forgotten.
const SWEEP_INTERVAL: i64 = 1_000_000_000;

/// A second in nanoseconds.
const SECOND: i64 = 1_000_000_000;

#[derive(Debug, Default)]
struct Shard {
    /// When each client's bucket is full again, in Unix nanoseconds. Whose time has come is as good as not there.
    full_at: HashMap<ClientKey, i64>,
    swept_at: i64,
}

/// The buckets of every client.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Nanoseconds one request costs.
    cost: i64,
    /// Nanoseconds a client may be ahead of its rate.
    ahead: i64,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

impl RateLimiter {
    /// `rate` requests a second on average, `burst` at once.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let cost = SECOND / i64::from(rate.max(1));
        Self {
            cost,
            ahead: cost.saturating_mul(i64::from(burst.max(1)) - 1),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one request of `client`.
    ///
    /// # Errors
    /// How long the client has to wait, at least a second.
    pub(crate) fn take(&self, client: ClientKey, now: OffsetDateTime) -> Result<(), Duration> {
        let now = i64::try_from(now.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        let index = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(index) else { return Ok(()) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shard.full_at.get(&client).copied();
        if held.is_none() && !shard.make_room(now) {
            return Ok(());
        }
        // What lies further ahead than any request can lead to is from before the clock was set back.
        let possible = now.saturating_add(self.ahead).saturating_add(self.cost);
        let full_at = held.filter(|at| *at <= possible).unwrap_or(now).max(now);
        let ahead = full_at - now;
        if ahead > self.ahead {
            let wait = u64::try_from(ahead - self.ahead).unwrap_or(0);
            return Err(Duration::from_secs(wait.div_ceil(SECOND.unsigned_abs())));
        }
        shard.full_at.insert(client, full_at + self.cost);
        Ok(())
    }
}

impl Shard {
    /// Whether another client has room, after forgetting those that have asked for nothing lately.
    fn make_room(&mut self, now: i64) -> bool {
        if self.full_at.len() < MAX_CLIENTS / SHARDS {
            return true;
        }
        if now.saturating_sub(self.swept_at).unsigned_abs() >= SWEEP_INTERVAL.unsigned_abs() {
            self.swept_at = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < MAX_CLIENTS / SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::client::ClientAddress;
    use time::macros::datetime;

    const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn client(number: u32) -> ClientKey {
        ClientAddress(std::net::Ipv4Addr::from_bits(number).into()).into()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = RateLimiter::new(10, 3);
        for _ in 0..3 {
            limiter.take(client(1), NOON).unwrap();
        }
        assert_eq!(limiter.take(client(1), NOON), Err(Duration::from_secs(1)));
        limiter.take(client(2), NOON).unwrap();
        limiter.take(client(1), NOON + Duration::from_millis(100)).unwrap();
        assert!(limiter.take(client(1), NOON + Duration::from_millis(150)).is_err());
        for _ in 0..3 {
            limiter.take(client(1), NOON + Duration::from_secs(5)).unwrap();
        }
        assert!(limiter.take(client(1), NOON + Duration::from_secs(5)).is_err());
    }

    #[test]
    fn a_clock_set_back_blocks_nobody() {
        let limiter = RateLimiter::new(1, 1);
        limiter.take(client(1), NOON).unwrap();
        limiter.take(client(1), NOON - Duration::from_secs(3600)).unwrap();
        assert!(limiter.take(client(1), NOON - Duration::from_secs(3600)).is_err());
    }

    #[test]
    fn the_table_stays_bounded_and_nobody_is_refused_for_want_of_room() {
        let limiter = RateLimiter::new(1, 1);
        for number in 0..200_000 {
            limiter.take(client(number), NOON).unwrap();
        }
        let held = |limiter: &RateLimiter| -> usize {
            limiter.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum()
        };
        assert!(held(&limiter) <= MAX_CLIENTS);
        for number in 200_000..200_100 {
            limiter.take(client(number), NOON + Duration::from_secs(2)).unwrap();
        }
        assert!(held(&limiter) < MAX_CLIENTS, "who asked long ago is forgotten");
    }
}
