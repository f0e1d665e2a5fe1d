//! Token buckets per client address for the calls that cost a signature or an attestation.
//!
//! A call waits for its tokens instead of failing, as long as the caller's deadline allows it. Callers on the Unix
//! socket are never limited.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use service_kit::clock::SharedClock;
use time::OffsetDateTime;

/// Addresses followed by one limiter; further ones share a single bucket until idle ones are dropped.
pub const MAX_TRACKED_CLIENTS: usize = 65_536;

/// Longest time a call may wait for its tokens when the caller set no earlier deadline. Bounds the number of waiting
/// calls an address can have to rate × this time.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Buckets untouched for this long are dropped when room is needed.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Why a call may not go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RateLimitError {
    /// More tokens asked for at once than the bucket holds.
    #[error("rate ({tokens}) exceeds burst size ({burst})")]
    ExceedsBurst {
        /// Tokens asked for.
        tokens: u32,
        /// Size of the bucket.
        burst: u32,
    },
    /// The tokens will not be there before the caller's deadline.
    #[error("rate: Wait(n={tokens}) would exceed context deadline")]
    ExceedsDeadline {
        /// Tokens asked for.
        tokens: u32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens left; negative when waiting calls have taken tokens in advance.
    tokens: f64,
    updated: OffsetDateTime,
}

#[derive(Debug, Default)]
struct Buckets {
    by_client: HashMap<IpAddr, Bucket>,
    overflow: Option<Bucket>,
}

/// A token bucket per client address, `rate` tokens a second with bursts of the same size.
#[derive(Debug)]
pub struct RateLimiter {
    rate: u32,
    clock: SharedClock,
    buckets: Mutex<Buckets>,
}

impl RateLimiter {
    /// A limiter that gives each address `rate` tokens a second.
    pub fn new(rate: u32, clock: SharedClock) -> Self {
        Self { rate: rate.max(1), clock, buckets: Mutex::default() }
    }

    /// Takes `tokens` for `client`, waiting until they are there.
    ///
    /// `deadline` is when the caller gives up. A call that is dropped while it waits gives its tokens back.
    ///
    /// # Errors
    /// [`RateLimitError`]: at once, when `tokens` can never be had or not before the deadline.
    pub async fn acquire(
        &self,
        client: IpAddr,
        tokens: u32,
        deadline: Option<OffsetDateTime>,
    ) -> Result<(), RateLimitError> {
        if tokens > self.rate {
            return Err(RateLimitError::ExceedsBurst { tokens, burst: self.rate });
        }
        let now = self.clock.now();
        let wait = self.reserve(client, tokens, now, deadline)?;
        if wait.is_zero() {
            return Ok(());
        }
        let mut refund = Refund { limiter: self, client, tokens, armed: true };
        self.clock.sleep(wait).await;
        refund.armed = false;
        Ok(())
    }

    fn reserve(
        &self,
        client: IpAddr,
        tokens: u32,
        now: OffsetDateTime,
        deadline: Option<OffsetDateTime>,
    ) -> Result<Duration, RateLimitError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.bucket(client, f64::from(self.rate), now);
        let elapsed = Duration::try_from(now - bucket.updated).unwrap_or(Duration::ZERO).as_secs_f64();
        let rate = f64::from(self.rate);
        bucket.tokens = (bucket.tokens + elapsed * rate).min(rate);
        bucket.updated = now;
        let left = bucket.tokens - f64::from(tokens);
        let wait = if left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-left / rate) };
        let too_late = wait > MAX_WAIT || deadline.is_some_and(|deadline| now + wait > deadline);
        if !wait.is_zero() && too_late {
            return Err(RateLimitError::ExceedsDeadline { tokens });
        }
        bucket.tokens = left;
        Ok(wait)
    }
}

impl Buckets {
    fn bucket(&mut self, client: IpAddr, full: f64, now: OffsetDateTime) -> &mut Bucket {
        let fresh = Bucket { tokens: full, updated: now };
        if !self.by_client.contains_key(&client) && self.by_client.len() >= MAX_TRACKED_CLIENTS {
            self.by_client.retain(|_, bucket| now - bucket.updated < IDLE_AFTER);
            if self.by_client.len() >= MAX_TRACKED_CLIENTS {
                return self.overflow.get_or_insert(fresh);
            }
        }
        self.by_client.entry(client).or_insert(fresh)
    }
}

/// Gives the tokens of an abandoned wait back.
struct Refund<'a> {
    limiter: &'a RateLimiter,
    client: IpAddr,
    tokens: u32,
    armed: bool,
}

impl Drop for Refund<'_> {
    fn drop(&mut self) {
        if self.armed {
            let mut buckets = self.limiter.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = buckets.by_client.get_mut(&self.client) {
                bucket.tokens += f64::from(self.tokens);
            }
        }
    }
}

/// Attestations a second for one address.
const ATTEST_RATE: u32 = 1;
/// Signatures a second for one address, in each of the signing buckets.
const SIGN_RATE: u32 = 500;
/// Published keys a second for one address.
const PUBLISH_RATE: u32 = 500;
/// Status posts a second for one address.
const STATUS_RATE: u32 = 10;

/// Every limiter of the issuer.
#[derive(Debug)]
pub struct RateLimits {
    /// AttestAgent; absent when `ratelimit.attestation` is off.
    pub attest: Option<RateLimiter>,
    /// RenewAgent, BatchNewX509SVID and NewDownstreamX509CA share it; absent when `ratelimit.signing` is off.
    pub x509: Option<RateLimiter>,
    /// NewJWTSVID; absent when `ratelimit.signing` is off.
    pub jwt: Option<RateLimiter>,
    /// BatchNewWITSVID; absent when `ratelimit.signing` is off.
    pub wit: Option<RateLimiter>,
    /// PublishJWTAuthority and PublishWITAuthority.
    pub publish: RateLimiter,
    /// PostStatus.
    pub status: RateLimiter,
}

impl RateLimits {
    /// The limits of the SPIRE Server API; the two switches are those of the configuration's `ratelimit`.
    pub fn new(attestation: bool, signing: bool, clock: &SharedClock) -> Self {
        let limiter = |rate| RateLimiter::new(rate, clock.clone());
        Self {
            attest: attestation.then(|| limiter(ATTEST_RATE)),
            x509: signing.then(|| limiter(SIGN_RATE)),
            jwt: signing.then(|| limiter(SIGN_RATE)),
            wit: signing.then(|| limiter(SIGN_RATE)),
            publish: limiter(PUBLISH_RATE),
            status: limiter(STATUS_RATE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use service_kit::clock::{Clock, ManualClock};
    use std::{net::Ipv4Addr, sync::Arc};
    use time::macros::datetime;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn limiter(rate: u32) -> (RateLimiter, ManualClock) {
        let clock = ManualClock::new(datetime!(2026-11-22 10:00 UTC));
        (RateLimiter::new(rate, Arc::new(clock.clone())), clock)
    }

    #[tokio::test]
    async fn a_burst_passes_and_the_next_call_waits_its_turn() {
        let (limiter, clock) = limiter(2);
        limiter.acquire(CLIENT, 2, None).await.expect("burst");
        let mut third = Box::pin(limiter.acquire(CLIENT, 1, None));
        assert!(third.as_mut().now_or_never().is_none());
        limiter.acquire(OTHER, 2, None).await.expect("another address has its own bucket");
        clock.advance(Duration::from_millis(500));
        third.await.expect("after half a second there is one token");
    }

    #[tokio::test]
    async fn asking_for_more_than_the_burst_fails_at_once() {
        let (limiter, _clock) = limiter(500);
        let error = limiter.acquire(CLIENT, 501, None).await.expect_err("too many");
        assert_eq!(error.to_string(), "rate (501) exceeds burst size (500)");
    }

    #[tokio::test]
    async fn a_deadline_before_the_tokens_fails_at_once_and_takes_nothing() {
        let (limiter, clock) = limiter(1);
        limiter.acquire(CLIENT, 1, None).await.expect("first");
        let deadline = Some(clock.now() + Duration::from_millis(900));
        let error = limiter.acquire(CLIENT, 1, deadline).await.expect_err("deadline");
        assert_eq!(error.to_string(), "rate: Wait(n=1) would exceed context deadline");
        clock.advance(Duration::from_secs(1));
        limiter.acquire(CLIENT, 1, deadline).await.expect("the refused call took no token");
    }

    #[tokio::test]
    async fn a_dropped_wait_gives_its_token_back() {
        let (limiter, clock) = limiter(1);
        limiter.acquire(CLIENT, 1, None).await.expect("first");
        let mut waiting = Box::pin(limiter.acquire(CLIENT, 1, None));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        clock.advance(Duration::from_secs(1));
        let immediate = Box::pin(limiter.acquire(CLIENT, 1, None)).now_or_never();
        assert_eq!(immediate, Some(Ok(())));
    }

    #[tokio::test]
    async fn the_queue_of_one_address_is_bounded() {
        let (limiter, _clock) = limiter(1);
        limiter.acquire(CLIENT, 1, None).await.expect("first");
        let mut waiting = Vec::new();
        for _ in 0..MAX_WAIT.as_secs() {
            let mut call = Box::pin(limiter.acquire(CLIENT, 1, None));
            assert!(call.as_mut().now_or_never().is_none());
            waiting.push(call);
        }
        let refused = limiter.acquire(CLIENT, 1, None).await;
        assert_eq!(refused, Err(RateLimitError::ExceedsDeadline { tokens: 1 }));
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_adds_no_tokens() {
        let (limiter, clock) = limiter(1);
        limiter.acquire(CLIENT, 1, None).await.expect("first");
        clock.set(datetime!(2026-11-22 09:00 UTC));
        assert!(Box::pin(limiter.acquire(CLIENT, 1, None)).now_or_never().is_none());
    }

    #[test]
    fn idle_buckets_make_room_and_overflow_is_shared() {
        let now = datetime!(2026-11-22 10:00 UTC);
        let mut buckets = Buckets::default();
        for index in 0..MAX_TRACKED_CLIENTS {
            let octets = u32::try_from(index).expect("small").to_be_bytes();
            buckets.bucket(IpAddr::from(octets), 1.0, now);
        }
        let newcomer = IpAddr::from([250, 0, 0, 1]);
        buckets.bucket(newcomer, 1.0, now).tokens = 0.0;
        assert!(buckets.overflow.is_some(), "busy table: the newcomer shares the overflow bucket");
        buckets.bucket(newcomer, 1.0, now + IDLE_AFTER);
        assert!(buckets.by_client.len() == 1, "idle ones were dropped");
    }
}
