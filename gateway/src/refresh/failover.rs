//! Which of a partner's URLs is asked: the one that worked last, then the others in their order, and from time to time
//! the first one again.

use std::time::Duration;

use time::OffsetDateTime;

/// How long another URL than the first is preferred before the first is tried again.
pub const RETURN_AFTER: Duration = Duration::from_secs(10 * 60);

/// Where a relationship stands among its URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failover {
    in_use: usize,
    first_tried: Option<OffsetDateTime>,
}

impl Failover {
    /// The order in which `count` URLs are asked now, by their numbers.
    pub fn order(&self, count: usize, now: OffsetDateTime) -> Vec<usize> {
        let in_use = if self.in_use < count { self.in_use } else { 0 };
        let due = self.first_tried.is_none_or(|tried| !(tried..tried + RETURN_AFTER).contains(&now));
        let mut order = Vec::with_capacity(count);
        if due && count > 0 {
            order.push(0);
        }
        for index in std::iter::once(in_use).chain(0..count) {
            if index < count && !order.contains(&index) {
                order.push(index);
            }
        }
        order
    }

    /// The first URL is asked now.
    pub fn tried_first(&mut self, now: OffsetDateTime) {
        self.first_tried = Some(now);
    }

    /// The URL of this number gave a bundle.
    pub fn worked(&mut self, index: usize) {
        self.in_use = index;
    }
}

/// The share of the time `left` that one of `urls` URLs yet to be asked gets.
pub fn share(left: Duration, urls: usize) -> Duration {
    let share = left / u32::try_from(urls.max(1)).unwrap_or(u32::MAX);
    // Whole milliseconds, as they are shown.
    Duration::from_millis(u64::try_from(share.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    #[test]
    fn what_worked_is_asked_first_and_the_first_again_after_a_while() {
        let mut failover = Failover::default();
        assert_eq!(failover.order(3, NOON), [0, 1, 2]);
        failover.tried_first(NOON);
        failover.worked(2);
        let soon = NOON + RETURN_AFTER - Duration::from_secs(1);
        assert_eq!(failover.order(3, soon), [2, 0, 1]);
        assert_eq!(failover.order(3, NOON + RETURN_AFTER), [0, 2, 1]);
        assert_eq!(failover.order(3, NOON - Duration::from_secs(1)), [0, 2, 1], "the clock went back");
        failover.tried_first(soon);
        assert_eq!(failover.order(3, NOON + RETURN_AFTER), [2, 0, 1]);
        failover.worked(0);
        assert_eq!(failover.order(3, NOON + RETURN_AFTER), [0, 1, 2]);
        // Fewer URLs than before.
        failover.worked(2);
        assert_eq!(failover.order(2, NOON), [0, 1]);
    }

    #[test]
    fn time_is_divided_among_those_left() {
        let left = Duration::from_secs(30);
        assert_eq!(share(left, 3), Duration::from_secs(10));
        assert_eq!(share(left, 1), left);
    }
}
