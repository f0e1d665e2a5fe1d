//! How many fetches go on at the same time, and how partners that hang are kept from taking the places of the others:
//! there is a lane for partners that answered last time, and one for those that did not or that take long.

use std::time::Duration;

use service_kit::clock::SharedClock;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Fetches at the same time from partners that answered last time. It bounds memory: one takes up to some 100 KiB, and
/// the body.
pub const QUICK_LANE: usize = 256;

/// Fetches at the same time from partners that failed last time, or that take longer than [`QUICK_WITHIN`].
pub const SLOW_LANE: usize = 1536;

/// A fetch that takes longer gives up its place in the quick lane.
pub const QUICK_WITHIN: Duration = Duration::from_secs(3);

/// Which lane a fetch begins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The partner answered last time, or an operator waits.
    Quick,
    /// It did not.
    Slow,
}

/// The lanes. Those who wait take their turn in the order they came.
#[derive(Debug)]
pub struct Lanes {
    quick: Semaphore,
    slow: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

impl Lanes {
    /// Empty ones.
    pub fn new() -> Self {
        Self::of(QUICK_LANE, SLOW_LANE)
    }

    fn of(quick: usize, slow: usize) -> Self {
        Self { quick: Semaphore::new(quick), slow: Semaphore::new(slow) }
    }

    /// Waits for a place in `lane`.
    pub async fn place(&self, lane: Lane) -> Place<'_> {
        let semaphore = match lane {
            Lane::Quick => &self.quick,
            Lane::Slow => &self.slow,
        };
        // Never closed, so an error cannot happen; a fetch without a place would only be one too many.
        Place { lanes: self, lane, permit: semaphore.acquire().await.ok() }
    }
}

/// The right to fetch.
#[derive(Debug)]
pub struct Place<'a> {
    lanes: &'a Lanes,
    lane: Lane,
    permit: Option<SemaphorePermit<'a>>,
}

impl Place<'_> {
    /// Completes `fetch`, in the slow lane if it takes long.
    pub async fn hold<T>(mut self, clock: &SharedClock, fetch: impl Future<Output = T>) -> T {
        let mut fetch = std::pin::pin!(fetch);
        if self.lane == Lane::Quick {
            tokio::select! {
                done = &mut fetch => return done,
                () = clock.sleep(QUICK_WITHIN) => {}
            }
            // If the slow lane is full it stays where it is: the sum is what bounds memory.
            if let Ok(slow) = self.lanes.slow.try_acquire() {
                self.permit = Some(slow);
            }
        }
        fetch.await
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use service_kit::clock::ManualClock;
    use time::macros::datetime;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn those_who_hang_give_way() {
        let manual = ManualClock::new(datetime!(2026-11-22 12:00 UTC));
        let clock: SharedClock = Arc::new(manual.clone());
        let lanes = Arc::new(Lanes::of(2, 3));
        let start = |lane| {
            let (lanes, clock) = (Arc::clone(&lanes), Arc::clone(&clock));
            tokio::spawn(async move { lanes.place(lane).await.hold(&clock, pending::<()>()).await })
        };
        let settle = || async {
            for _ in 0..50 {
                yield_now().await;
            }
        };
        let hanging: Vec<_> = (0..2).map(|_| start(Lane::Quick)).collect();
        settle().await;
        assert_eq!(lanes.quick.available_permits(), 0);
        manual.advance(QUICK_WITHIN);
        settle().await;
        assert_eq!((lanes.quick.available_permits(), lanes.slow.available_permits()), (2, 1));

        // Partners that failed never take a place of the quick lane, however many wait.
        let failed: Vec<_> = (0..5).map(|_| start(Lane::Slow)).collect();
        settle().await;
        assert_eq!((lanes.quick.available_permits(), lanes.slow.available_permits()), (2, 0));
        assert_eq!(lanes.place(Lane::Quick).await.hold(&clock, async { 7 }).await, 7);
        hanging.iter().chain(&failed).for_each(|task| task.abort());
    }
}
