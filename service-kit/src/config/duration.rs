//! Durations as people write them: `1h30m`, `5s`, `500ms`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest duration text read.
const MAX_TEXT_BYTES: usize = 64;

/// Units with their nanoseconds, largest first. Longer names come before their prefixes when parsing by exact match.
const UNITS: [(&str, u128); 7] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration; write a number with its unit, such as `1h30m`, `5s` or `500ms`")]
pub struct DurationError {
    /// What was given.
    pub text: String,
}

/// A duration written with units (`h`, `m`, `s`, `ms`, `us`, `ns`), whole or decimal, largest to smallest or in any
/// order, as Go writes them. A number without a unit is refused, except `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse_duration(text).map(Self)
    }
}

/// Reads a duration such as `1h30m`, `1.5h` or `500ms`.
///
/// # Errors
/// [`DurationError`], also for a bare number, a negative duration and one beyond what fits.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError { text: text.chars().take(MAX_TEXT_BYTES).collect() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(error());
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let nanoseconds = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanoseconds)| *nanoseconds);
        let part = scaled(number, nanoseconds.ok_or_else(error)?).ok_or_else(error)?;
        total = total.checked_add(part).ok_or_else(error)?;
        rest = next;
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| error())?;
    let fraction = u32::try_from(total % 1_000_000_000).map_err(|_| error())?;
    Ok(Duration::new(seconds, fraction))
}

/// `number` (digits with at most one dot) times `unit`, in integers.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    // Digits below a nanosecond are dropped.
    let fraction: String = fraction.chars().take(18).collect();
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(unit)?.checked_add(digits(&fraction)?.checked_mul(unit)? / scale)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, nanoseconds) in UNITS.iter().filter(|(name, _)| *name != "µs") {
            let count = rest / nanoseconds;
            if count > 0 {
                write!(f, "{count}{name}")?;
                rest %= nanoseconds;
            }
        }
        Ok(())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HumanDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as `1h30m`, `5s` or `500ms`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<HumanDuration, E> {
                if number == 0 {
                    return Ok(HumanDuration::default());
                }
                Err(E::custom(DurationError { text: number.to_string() }))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration with its unit, such as 1h30m, 5s or 500ms",
            "pattern": "^([0-9]+(\\.[0-9]*)?(h|m|s|ms|us|µs|ns))+$",
            "maxLength": MAX_TEXT_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_like_go() {
        for (text, milliseconds, canonical) in [
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("1.5h", 5_400_000, "1h30m"),
            ("5s", 5_000, "5s"),
            ("500ms", 500, "500ms"),
            ("1m0.25s", 60_250, "1m250ms"),
            (".5s", 500, "500ms"),
            ("5.s", 5_000, "5s"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("8760h", 31_536_000_000, "8760h"),
        ] {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed.0, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(parsed.to_string(), canonical);
            assert_eq!(canonical.parse::<HumanDuration>().unwrap(), parsed);
        }
        assert_eq!(parse_duration("3µs2ns").unwrap(), Duration::from_nanos(3002));
    }

    #[test]
    fn refuses_everything_else() {
        for text in
            ["", "5", "s", "-5s", "5 s", "5x", "1h30", ".", ".s", "1..5s", "5S", "99999999999999999999999h", "ten"]
        {
            let error = parse_duration(text).unwrap_err();
            assert!(error.to_string().contains("`1h30m`"), "{text}");
        }
    }

    #[test]
    fn serde_refuses_plain_numbers() {
        assert_eq!(serde_json::from_str::<HumanDuration>("\"5s\"").unwrap(), HumanDuration::from_secs(5));
        assert_eq!(serde_json::from_str::<HumanDuration>("0").unwrap(), HumanDuration::default());
        let error = serde_json::from_str::<HumanDuration>("5").unwrap_err();
        assert!(error.to_string().contains("`5` is not a duration"), "{error}");
        assert_eq!(serde_json::to_string(&HumanDuration::from_secs(90)).unwrap(), "\"1m30s\"");
    }
}
