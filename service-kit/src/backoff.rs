//! Exponential backoff with jitter, and jitter for regular intervals.

use std::time::Duration;

/// Delays that double from `base` up to `max`, each spread by [`Backoff::SPREAD`] so that peers do not move in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Fraction by which each delay is spread around its nominal value.
    pub const SPREAD: f64 = 0.1;

    /// Starts at `base` and never exceeds `max` (plus the spread).
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max: max.max(base), attempts: 0 }
    }

    /// The delay before the next attempt.
    #[allow(clippy::should_implement_trait, reason = "an endless schedule, not an iterator")]
    pub fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let nominal = self.base.saturating_mul(factor).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        jitter(nominal, Self::SPREAD)
    }

    /// Number of delays handed out since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts again at the base delay, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// `duration` moved at random by up to `fraction` of itself in either direction.
pub fn jitter(duration: Duration, fraction: f64) -> Duration {
    let fraction = fraction.clamp(0.0, 1.0);
    let factor = 1.0 + fraction * (rand::random::<f64>() * 2.0 - 1.0);
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: Duration, nominal: Duration) {
        let ratio = actual.as_secs_f64() / nominal.as_secs_f64();
        assert!((0.899..=1.101).contains(&ratio), "{actual:?} is not near {nominal:?}");
    }

    #[test]
    fn doubles_up_to_the_maximum_and_resets() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for nominal in [1, 2, 4, 5, 5] {
            near(backoff.next(), Duration::from_secs(nominal));
        }
        for _ in 0..100 {
            near(backoff.next(), Duration::from_secs(5));
        }
        backoff.reset();
        near(backoff.next(), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_in_range_and_survives_extremes() {
        for _ in 0..1000 {
            near(jitter(Duration::from_secs(100), 0.1), Duration::from_secs(100));
        }
        assert_eq!(jitter(Duration::ZERO, 1.0), Duration::ZERO);
        assert!(jitter(Duration::MAX, 1.0) <= Duration::MAX);
    }
}
