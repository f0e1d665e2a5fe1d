//! When an SVID is replaced: around the middle of its lifetime (SPIRE 1.15).

use time::{Duration, OffsetDateTime};

/// Least part of half the lifetime that is left when an SVID is replaced.
const EARLIEST: f64 = 0.9;
/// Greatest part of half the lifetime that is left when an SVID is replaced.
const LATEST: f64 = 1.1;

/// When an SVID valid from `not_before` to `not_after` is due for replacement: with a remainder drawn evenly from 0.9 to
/// 1.1 times half its lifetime, so that SVIDs made together are not replaced together.
pub fn due(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    let half = (not_after - not_before) / 2;
    let spread = EARLIEST + (LATEST - EARLIEST) * rand::random::<f64>();
    not_after - half * spread
}

/// How long until `at`, zero if it has passed.
pub fn until(at: OffsetDateTime, now: OffsetDateTime) -> std::time::Duration {
    std::time::Duration::try_from(at - now).unwrap_or_default()
}

/// The earlier of two times of which either may be missing.
pub fn earlier(a: Option<OffsetDateTime>, b: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// `duration` as the signed kind, at most a century.
pub fn signed(duration: std::time::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or(Duration::days(36_500)).min(Duration::days(36_500))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn due_lies_around_the_middle() {
        let (start, end) = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-01 01:00 UTC));
        for _ in 0..1000 {
            let remaining = end - due(start, end);
            assert!(remaining >= Duration::minutes(27) && remaining <= Duration::minutes(33), "{remaining}");
        }
    }

    #[test]
    fn waiting_never_goes_back() {
        let now = datetime!(2026-01-01 00:00 UTC);
        assert_eq!(until(now - Duration::HOUR, now), std::time::Duration::ZERO);
        assert_eq!(until(now + Duration::SECOND, now), std::time::Duration::from_secs(1));
        assert_eq!(earlier(None, Some(now)), Some(now));
        assert_eq!(earlier(Some(now - Duration::SECOND), Some(now)), Some(now - Duration::SECOND));
        assert_eq!(signed(std::time::Duration::MAX), Duration::days(36_500));
    }
}
