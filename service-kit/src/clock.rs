//! Time as an argument: the system clock for services, a clock moved by hand for tests.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::watch;

/// Source of the current time and of timers. Everything that rotates, expires or waits goes through it.
pub trait Clock: Send + Sync + Debug {
    /// The current time in UTC.
    fn now(&self) -> OffsetDateTime;

    /// Completes once `duration` has passed on this clock.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// A clock shared between tasks.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock and tokio's timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system clock, ready to be passed on.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that moves only when told to. Clones share the same time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<watch::Sender<OffsetDateTime>>,
    sleepers: Arc<Mutex<Vec<OffsetDateTime>>>,
}

impl ManualClock {
    /// A clock standing at `start`.
    pub fn new(start: OffsetDateTime) -> Self {
        Self { now: Arc::new(watch::Sender::new(start)), sleepers: Arc::default() }
    }

    /// Moves the clock forward and wakes every sleeper whose time has come.
    pub fn advance(&self, duration: Duration) {
        self.now.send_modify(|now| *now += duration);
    }

    /// Sets the clock, forward or backward.
    pub fn set(&self, now: OffsetDateTime) {
        self.now.send_replace(now);
    }

    /// How long until the next sleeper wakes; `None` when nobody sleeps. Lets a test wait for a task to go to sleep.
    pub fn next_wake(&self) -> Option<Duration> {
        let now = *self.now.borrow();
        let sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.iter().min().map(|at| Duration::try_from(*at - now).unwrap_or(Duration::ZERO))
    }
}

/// Removes one entry from the list of sleepers when its sleep ends or is dropped.
struct Sleeper {
    wakes_at: OffsetDateTime,
    sleepers: Arc<Mutex<Vec<OffsetDateTime>>>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = sleepers.iter().position(|at| *at == self.wakes_at) {
            sleepers.swap_remove(index);
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.now.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        let wakes_at = *now.borrow_and_update() + duration;
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner).push(wakes_at);
        let sleeper = Sleeper { wakes_at, sleepers: Arc::clone(&self.sleepers) };
        // The sender is kept alive by the future, so that a sleeper outlives the clock's owner without waking early.
        let keep = Arc::clone(&self.now);
        Box::pin(async move {
            let _keep = keep;
            // Taken whole: naming only a field would capture only that field, and drop the rest at once.
            let sleeper = sleeper;
            let _ = now.wait_for(|now| *now >= sleeper.wakes_at).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[tokio::test]
    async fn manual_clock_wakes_sleepers_only_when_their_time_comes() {
        let clock = ManualClock::new(datetime!(2026-01-01 00:00 UTC));
        let mut sleep = clock.sleep(Duration::from_secs(10));
        assert_eq!(clock.next_wake(), Some(Duration::from_secs(10)));
        assert!(futures::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(9));
        assert!(futures::poll!(&mut sleep).is_pending());
        assert_eq!(clock.next_wake(), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.next_wake(), None);
        assert_eq!(clock.now(), datetime!(2026-01-01 00:00:10 UTC));
    }

    #[tokio::test]
    async fn dropped_sleep_leaves_no_sleeper() {
        let clock = ManualClock::new(datetime!(2026-01-01 00:00 UTC));
        drop(clock.sleep(Duration::from_secs(1)));
        assert_eq!(clock.next_wake(), None);
        clock.sleep(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn system_clock_sleeps() {
        let clock = SystemClock::shared();
        let before = clock.now();
        clock.sleep(Duration::from_millis(5)).await;
        assert!(clock.now() - before >= Duration::from_millis(4));
    }
}
