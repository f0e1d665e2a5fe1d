//! What was measured, next to what was promised.

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Nothing was promised.
    None,
    /// At least this.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

impl Goal {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtLeast(least) => Some(value >= least),
            Self::Below(limit) => Some(value < limit),
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::AtLeast(least) => format!(">= {}", number(least, unit)),
            Self::Below(limit) => format!("< {}", number(limit, unit)),
        }
    }
}

#[derive(Debug)]
struct Row {
    part: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    goal: Goal,
}

/// The rows of every part that ran.
#[derive(Debug)]
pub(crate) struct Report {
    machine: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Nothing measured yet on that machine.
    pub(crate) fn new(machine: String) -> Self {
        Self { machine, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds what was measured.
    pub(crate) fn add(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Goal,
    ) {
        let what = what.into();
        let row = Row { part, what, value, unit, goal };
        super::note(&format!("{}: {} {}", row.part, row.what, number(row.value, row.unit)));
        self.rows.push(row);
    }

    /// Adds what a reader must know about the values.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Whether a goal was missed.
    pub(crate) fn missed(&self) -> bool {
        self.rows.iter().any(|row| row.goal.met(row.value) == Some(false))
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(["part", "measured", "value", "goal", "verdict"]);
        for row in &self.rows {
            let verdict = match row.goal.met(row.value) {
                None => "",
                Some(true) => "met",
                Some(false) => "missed",
            };
            table.add_row([row.part, &row.what, &number(row.value, row.unit), &row.goal.text(row.unit), verdict]);
        }
        let notes: String = self.notes.iter().map(|note| format!("\n{note}")).collect();
        format!("{}\n{table}{notes}", self.machine)
    }

    /// For machines.
    pub(crate) fn json(&self) -> Result<String> {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (least, below) = match row.goal {
                    Goal::None => (None, None),
                    Goal::AtLeast(least) => (Some(least), None),
                    Goal::Below(limit) => (None, Some(limit)),
                };
                json!({
                    "part": row.part, "measured": row.what, "value": row.value, "unit": row.unit,
                    "goal_at_least": least, "goal_below": below, "met": row.goal.met(row.value),
                })
            })
            .collect();
        let all = json!({ "machine": self.machine, "results": rows, "notes": self.notes });
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

/// A number with as many digits as it deserves.
fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_and_shown() {
        let mut report = Report::new("a machine".to_owned());
        report.add("refresh", "memory", 150.4, "MB", Goal::Below(200.0));
        report.add("refresh", "time", 3.0, "s", Goal::None);
        assert!(!report.missed());
        report.add("bundle-endpoint", "ratio", 0.5, "x", Goal::AtLeast(0.8));
        assert!(report.missed());
        let table = report.table();
        for text in ["a machine", "150 MB", "< 200 MB", "met", ">= 0.800 x", "missed"] {
            assert!(table.contains(text), "{text}: {table}");
        }
        let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["results"][2]["met"], false);
        assert_eq!(json["results"][1]["met"], Value::Null);
    }
}
