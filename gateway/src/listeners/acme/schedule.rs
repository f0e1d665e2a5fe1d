//! When to renew, and when to try again.

use std::time::Duration;

use service_kit::backoff::{Backoff, jitter};
use time::OffsetDateTime;

use super::{
    certificate::Issued,
    error::{AcmeError, Severity},
};

/// A certificate is renewed when this part of its life is over, less up to [`SPREAD`] of that so that gateways that
/// started together do not renew together.
const RENEW_AFTER: f64 = 0.65;
const SPREAD: f64 = 0.025;

/// However much of its life is over when it comes (a short one, dated back), a new certificate is used this long, and for
/// this part of what is left of it.
const LEAST_USE: Duration = Duration::from_secs(5);
const LEAST_USED: f64 = 1.0 / 3.0;

/// However late the certificate authority suggests, this part of the life is left.
const LEAST_LEFT: f64 = 0.1;

/// Between renewals the certificate authority suggests, at least.
const SUGGESTION_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Pauses after failures that cost nothing.
const FIRST_PASSING: Duration = Duration::from_secs(1);
const LAST_PASSING: Duration = Duration::from_secs(5 * 60);

/// Pauses after failures the certificate authority counts. Public ones allow five an hour for each name: five attempts
/// take half an hour, the sixth comes after a full one.
const FIRST_LASTING: Duration = Duration::from_secs(2 * 60 + 15);
const LAST_LASTING: Duration = Duration::from_secs(4 * 60 * 60);

/// Pauses between failures.
#[derive(Debug)]
pub(super) struct Retry {
    passing: Backoff,
    lasting: Backoff,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { passing: Backoff::new(FIRST_PASSING, LAST_PASSING), lasting: Backoff::new(FIRST_LASTING, LAST_LASTING) }
    }

    /// When to try again: as late as the pauses and the certificate authority ask for.
    pub(super) fn after(
        &mut self,
        error: &AcmeError,
        now: OffsetDateTime,
        asked: Option<OffsetDateTime>,
    ) -> OffsetDateTime {
        let pause = match error.severity() {
            Severity::Passing => self.passing.next(),
            Severity::Lasting => self.lasting.next(),
        };
        let own = now + pause;
        asked.map_or(own, |asked| own.max(asked))
    }
}

/// Two thirds of the life, with jitter.
pub(super) fn renewal(issued: &Issued) -> OffsetDateTime {
    let life = Duration::try_from(issued.not_after - issued.not_before).unwrap_or_default();
    issued.not_before + jitter(life.mul_f64(RENEW_AFTER), SPREAD)
}

/// The same for a certificate that has just come.
pub(super) fn renewal_of_new(issued: &Issued, now: OffsetDateTime) -> OffsetDateTime {
    let left = Duration::try_from(issued.not_after - now).unwrap_or_default();
    renewal(issued).max(now + left.mul_f64(LEAST_USED).max(LEAST_USE))
}

/// A point in the window the certificate authority suggests (RFC 9773 section 4.2), uniformly chosen; never so late that
/// too little of the life is left, and [`SUGGESTION_INTERVAL`] after the last renewal it suggested, so that one that
/// always says "now" is not asked for certificates without end. `None` for a window that is none.
pub(super) fn suggested(
    issued: &Issued,
    start: OffsetDateTime,
    end: OffsetDateTime,
    last: Option<OffsetDateTime>,
) -> Option<OffsetDateTime> {
    let length = Duration::try_from(end - start).ok().filter(|length| !length.is_zero())?;
    let life = Duration::try_from(issued.not_after - issued.not_before).unwrap_or_default();
    let latest = issued.not_after - life.mul_f64(LEAST_LEFT);
    let at = (start + jitter(length / 2, 1.0)).min(latest);
    Some(last.map_or(at, |last| at.max(last + SUGGESTION_INTERVAL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use service_kit::keys::{KeyType, PrivateKey};
    use time::macros::datetime;

    const BEGIN: OffsetDateTime = datetime!(2026-09-01 00:00 UTC);
    const END: OffsetDateTime = datetime!(2026-11-30 00:00 UTC);

    fn issued() -> Issued {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pair = KeyPair::try_from(key.pkcs8_der().as_slice()).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (BEGIN, END);
        let chain = vec![params.self_signed(&pair).unwrap().der().clone()];
        Issued::new(chain, &key, &[], BEGIN).unwrap()
    }

    #[test]
    fn renewed_at_two_thirds_with_jitter() {
        let issued = issued();
        let mut all = Vec::new();
        for _ in 0..200 {
            let part = (renewal(&issued) - BEGIN) / (END - BEGIN);
            assert!((0.633..=0.6667).contains(&part), "{part}");
            all.push(part);
        }
        let spread = all.iter().copied().fold(0.0, f64::max) - all.iter().copied().fold(1.0, f64::min);
        assert!(spread > 0.01, "no jitter: {spread}");
    }

    #[test]
    fn a_suggested_window_is_followed_within_reason() {
        let issued = issued();
        let (start, end) = (datetime!(2026-09-10 00:00 UTC), datetime!(2026-09-12 00:00 UTC));
        for _ in 0..200 {
            let at = suggested(&issued, start, end, None).unwrap();
            assert!((start..=end).contains(&at), "{at}");
        }
        let late = suggested(&issued, END, END + Duration::from_secs(60), None).unwrap();
        assert_eq!(late, datetime!(2026-11-21 00:00 UTC), "a tenth of the life is left");
        assert_eq!(suggested(&issued, end, start, None), None);
        assert_eq!(suggested(&issued, end, end, None), None);
        let last = datetime!(2026-09-15 00:00 UTC);
        assert_eq!(suggested(&issued, start, end, Some(last)), Some(datetime!(2026-09-15 01:00 UTC)), "no storm");
    }

    #[test]
    fn a_new_certificate_is_used_however_late_it_comes() {
        let issued = issued();
        assert_eq!(renewal_of_new(&issued, END - Duration::from_secs(1)), END + Duration::from_secs(4));
        assert_eq!(renewal_of_new(&issued, END - Duration::from_secs(300)), END - Duration::from_secs(200));
        assert!(renewal_of_new(&issued, BEGIN) < datetime!(2026-10-31 01:00 UTC), "two thirds of the life");
    }

    #[test]
    fn five_refusals_an_hour_at_most_and_retry_after_is_obeyed() {
        let mut retry = Retry::new();
        let refused = AcmeError::Refused(String::new());
        let mut attempts = vec![BEGIN];
        for _ in 0..20 {
            let last = *attempts.last().unwrap();
            attempts.push(retry.after(&refused, last, None));
        }
        for window in attempts.windows(6) {
            assert!(window[5] - window[0] >= time::Duration::HOUR, "{window:?}");
        }
        let asked = BEGIN + time::Duration::DAY;
        assert_eq!(Retry::new().after(&refused, BEGIN, Some(asked)), asked);
        let passing = AcmeError::Trouble(String::new());
        assert!(retry.after(&passing, BEGIN, None) - BEGIN < time::Duration::seconds(2), "counted on its own");
    }
}
