//! Durations, times, counts and quoted text in the notation of SPIRE's commands.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

const NANOS: u64 = 1_000_000_000;

/// Whole seconds of a duration, rounded up, as requests carry a time to live.
pub(crate) fn seconds_rounded_up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// `3m3s`, `64.247581ms`, `1h0m0s`, `0s`.
pub(crate) fn duration(span: Duration) -> String {
    let nanos = span.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", decimal(nanos, 3));
    }
    if nanos < u128::from(NANOS) {
        return format!("{}ms", decimal(nanos, 6));
    }
    let seconds = decimal(nanos % (60 * u128::from(NANOS)), 9);
    let minutes = span.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value` with a decimal point `places` from its end and no trailing zeros.
fn decimal(value: u128, places: u32) -> String {
    let scale = 10_u128.pow(places);
    let fraction = format!("{:0width$}", value % scale, width = places as usize);
    let fraction = fraction.trim_end_matches('0');
    let whole = value / scale;
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

/// Unix seconds as `2026-11-22 10:17:06 +0000 UTC`; the number itself if no calendar holds it.
pub(crate) fn time_of(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix).map_or_else(|_| unix.to_string(), time)
}

/// `2026-11-22 10:17:06 +0000 UTC`.
pub(crate) fn time(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    at.to_offset(time::UtcOffset::UTC).format(&format).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// Unix seconds as `2026-11-22T10:17:06Z`; the number itself if no calendar holds it.
pub(crate) fn rfc3339_of(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix).map_or_else(|_| unix.to_string(), rfc3339)
}

/// `2026-11-22T10:17:06Z`, whole seconds.
pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// The text in double quotes, with what would break the line escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// `1 entry`, `2 entries`.
pub(crate) fn counted<N: Copy + PartialEq + std::fmt::Display + From<u8>>(
    count: N,
    singular: &str,
    plural: &str,
) -> String {
    format!("{count} {}", if count == N::from(1) { singular } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written() {
        assert_eq!(duration(Duration::from_secs(183)), "3m3s");
        assert_eq!(duration(Duration::from_nanos(64_247_581)), "64.247581ms");
        assert_eq!(duration(Duration::from_nanos(2_672_491)), "2.672491ms");
        assert_eq!(duration(Duration::from_secs(3_600)), "1h0m0s");
        assert_eq!(duration(Duration::from_millis(1_500)), "1.5s");
        assert_eq!(duration(Duration::from_nanos(1_200)), "1.2µs");
        assert_eq!(duration(Duration::ZERO), "0s");
    }

    #[test]
    fn times_are_written() {
        assert_eq!(time_of(1_795_342_626), "2026-11-22 10:17:06 +0000 UTC");
        assert_eq!(time_of(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(rfc3339_of(1_795_342_626), "2026-11-22T10:17:06Z");
        assert_eq!(time_of(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn seconds_round_up() {
        assert_eq!(seconds_rounded_up(Duration::from_millis(1_001)), 2);
        assert_eq!(seconds_rounded_up(Duration::from_secs(1)), 1);
    }

    #[test]
    fn text_is_quoted() {
        assert_eq!(quote(r#"a "b" \"#), r#""a \"b\" \\""#);
        assert_eq!(quote("a\nb"), r#""a\nb""#);
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(counted(1_usize, "entry", "entries"), "1 entry");
        assert_eq!(counted(0_i32, "entry", "entries"), "0 entries");
    }
}
