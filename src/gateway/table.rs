//! Tables and labelled lines of the gateway's commands.

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use time::OffsetDateTime;

use crate::notation;

/// Shown where there is nothing.
pub(super) const NOTHING: &str = "-";
/// As many characters of a digest as tell bundles apart by eye.
const DIGEST: usize = 12;

/// A table without lines; cells never break, so that each row stays a line for `grep`. Its colours are always there:
/// they are for [`crate::output::to_stdout_in_colour`].
pub(super) fn table(header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.enforce_styling().add_rows(rows);
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// A cell, in a colour if it has one.
pub(super) fn cell(text: impl ToString, colour: Option<Color>) -> Cell {
    let cell = Cell::new(text);
    match colour {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// `Label : value`, the labels of one block equally wide.
pub(super) fn line(label: &str, value: &str) -> String {
    format!("{label:<20}: {value}\n")
}

/// A text in a colour.
pub(super) fn coloured(text: &str, colour: AnsiColor) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{text}{style:#}")
}

/// A time, or nothing.
pub(super) fn time(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| NOTHING.to_owned(), notation::rfc3339)
}

/// A number, or nothing.
pub(super) fn number(value: Option<u64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// The start of a digest.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..DIGEST).unwrap_or(digest)
}

/// A time span in its two largest units: `3d4h`, `2m5s`; `-` before it if it is over; or nothing.
pub(super) fn span(seconds: Option<i64>) -> String {
    let Some(seconds) = seconds else { return NOTHING.to_owned() };
    let sign = if seconds < 0 { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    let (large, small) = match seconds {
        0..60 => return format!("{sign}{seconds}s"),
        60..3_600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    let small = if small.0 > 0 { format!("{}{}", small.0, small.1) } else { String::new() };
    format!("{sign}{}{}{small}", large.0, large.1)
}

/// A text from elsewhere as one line without control characters.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_stay_lines() {
        let long =
            "https://gateway.onprem.example:8443/a/very/long/path/that/no/terminal/is/wide/enough/for/onprem.example";
        let rows = vec![vec![cell("a", None), cell(long, None)], vec![cell("onprem.example", None), cell("b", None)]];
        let text = table(&["NAME", "URL"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].find("URL"), lines[1].find("https"));
        assert!(lines[1].ends_with(long));
    }

    #[test]
    fn digests_are_cut_and_gaps_shown() {
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("01"), "01");
        assert_eq!((time(None).as_str(), number(None).as_str(), number(Some(3)).as_str()), ("-", "-", "3"));
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let cases =
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m59s"), (7_200, "2h"), (90_000, "1d1h"), (-5, "-5s")];
        for (seconds, text) in cases {
            assert_eq!(span(Some(seconds)), text);
        }
        assert_eq!(span(None), "-");
    }
}
