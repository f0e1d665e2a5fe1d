//! When a partner is asked again.

use std::time::Duration;

use service_kit::backoff::{Backoff, jitter};

use crate::settings::RefreshLimits;

/// The refresh hint of a bundle that carries none (SPIFFE Trust Domain and Bundle §4.1.1 leaves the choice to us).
pub const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(5 * 60);

/// A partner is asked this many times within one refresh hint, as SPIRE does.
pub const POLLS_PER_HINT: u32 = 4;

/// First wait after a failure; doubles with each further one up to the regular interval.
pub const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Between two refreshes that were missed while the gateway was down: a few hundred a second, which one processor can do.
const CATCH_UP_PACE: Duration = Duration::from_millis(4);

/// Fraction by which the regular interval is spread.
const SPREAD: f64 = 0.1;

/// The times of one relationship: regular polls from the partner's hint, short growing waits after failures.
#[derive(Debug)]
pub struct Schedule {
    limits: RefreshLimits,
    interval: Duration,
    retry: Backoff,
}

impl Schedule {
    /// A schedule for a partner whose held bundle has this hint.
    pub fn new(limits: RefreshLimits, hint: Option<Duration>) -> Self {
        let interval = interval(&limits, hint);
        Self { limits, interval, retry: retry(interval) }
    }

    /// The wait after a success; `hint` is that of the bundle now held.
    pub fn after_success(&mut self, hint: Option<Duration>) -> Duration {
        self.interval = interval(&self.limits, hint);
        self.retry = retry(self.interval);
        jitter(self.interval, SPREAD).max(self.limits.min_interval)
    }

    /// The wait after a failure, never longer than the regular one.
    pub fn after_failure(&mut self) -> Duration {
        self.retry.next().min(self.interval)
    }
}

/// The first wait of a relationship that should have been refreshed while the gateway was down, as `count` others may
/// have been: somewhere within the time in which all of them are worked off at an even pace.
pub fn catch_up(limits: &RefreshLimits, hint: Option<Duration>, count: usize) -> Duration {
    let all = CATCH_UP_PACE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    // The middle of that time, and all of it as spread.
    jitter(all.min(interval(limits, hint)) / 2, 1.0)
}

fn interval(limits: &RefreshLimits, hint: Option<Duration>) -> Duration {
    let hint = hint.filter(|hint| !hint.is_zero()).unwrap_or(DEFAULT_REFRESH_HINT);
    (hint / POLLS_PER_HINT).clamp(limits.min_interval, limits.max_interval.max(limits.min_interval))
}

fn retry(interval: Duration) -> Backoff {
    Backoff::new(FIRST_RETRY.min(interval), interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RefreshLimits = RefreshLimits {
        min_interval: Duration::from_secs(15),
        max_interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(30),
        max_body_bytes: 1024,
    };

    #[test]
    fn a_quarter_of_the_hint_within_floor_and_ceiling() {
        let cases = [(Some(600), 150), (None, 75), (Some(0), 75), (Some(20), 15), (Some(1_000_000), 3600)];
        for (hint, expected) in cases {
            let hint = hint.map(Duration::from_secs);
            assert_eq!(interval(&LIMITS, hint), Duration::from_secs(expected), "{hint:?}");
        }
    }

    #[test]
    fn polls_are_spread_but_never_below_the_floor() {
        let mut schedule = Schedule::new(LIMITS, None);
        for _ in 0..200 {
            let wait = schedule.after_success(Some(Duration::from_secs(600)));
            assert!((135..=165).contains(&wait.as_secs()), "{wait:?}");
            assert!(schedule.after_success(Some(Duration::from_secs(60))) >= LIMITS.min_interval);
        }
    }

    #[test]
    fn what_was_missed_is_worked_off_evenly_and_within_the_interval() {
        let waits = |count| (0..1000).map(move |_| catch_up(&LIMITS, Some(Duration::from_secs(600)), count));
        assert!(waits(1).all(|wait| wait <= CATCH_UP_PACE), "one alone does not wait");
        let (early, late) = waits(10_000).partition::<Vec<_>, _>(|wait| wait.as_secs() < 20);
        assert!(early.len() > 300 && late.len() > 300, "{} and {}", early.len(), late.len());
        assert!(waits(10_000).all(|wait| wait <= Duration::from_secs(40)));
        assert!(waits(1_000_000).all(|wait| wait <= Duration::from_secs(150)));
    }

    #[test]
    fn failures_retry_soon_and_never_slower_than_the_regular_interval() {
        let mut schedule = Schedule::new(LIMITS, Some(Duration::from_secs(30 * 86_400)));
        let waits: Vec<u64> = (0..12).map(|_| schedule.after_failure().as_secs()).collect();
        assert!((4..=5).contains(&waits[0]), "{waits:?}");
        assert!(waits[3] >= 35 && waits[3] <= 45, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 3600), "{waits:?}");
        assert!(waits[11] >= 3200, "{waits:?}");
        schedule.after_success(None);
        assert!(schedule.after_failure() <= Duration::from_millis(5500));
    }

    #[test]
    fn a_floor_below_the_first_retry_is_kept() {
        let limits = RefreshLimits { min_interval: Duration::from_secs(1), ..LIMITS };
        let mut schedule = Schedule::new(limits, Some(Duration::from_secs(4)));
        assert!(schedule.after_failure() <= Duration::from_secs(1));
    }
}
