//! What the demo prints: one line a step as it becomes true, with its time, and the facts behind it.

use std::future::Future;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};

const DONE: Style = AnsiColor::Green.on_default().bold();
const FAILED: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();
const STRONG: Style = Style::new().bold();

/// Width of a step's title, so that the times stand in one column.
const TITLE_WIDTH: usize = 68;

/// Prints steps and counts them.
#[derive(Debug)]
pub(crate) struct Report {
    started: Instant,
    done: usize,
    total: usize,
}

impl Report {
    #[expect(clippy::disallowed_methods, reason = "a stopwatch for people, not a decision about time")]
    pub(crate) fn new(title: &str, total: usize) -> Self {
        anstream::println!("{STRONG}{title}{STRONG:#}\n");
        Self { started: Instant::now(), done: 0, total }
    }

    /// Runs one step: prints its title, time and facts when it holds, or that it failed.
    #[expect(clippy::disallowed_methods, reason = "a stopwatch for people, not a decision about time")]
    pub(crate) async fn step<T>(
        &mut self,
        title: &str,
        step: impl Future<Output = Result<(T, Vec<String>)>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let number = self.done + 1;
        match step.await {
            Ok((value, facts)) => {
                self.done = number;
                let time = seconds(begun.elapsed());
                anstream::println!("{DONE}✓{DONE:#} {number}/{} {title:<TITLE_WIDTH$} {time:>8}", self.total);
                for fact in facts {
                    anstream::println!("      {FAINT}{fact}{FAINT:#}");
                }
                Ok(value)
            }
            Err(error) => {
                anstream::println!("{FAILED}✗{FAILED:#} {number}/{} {title}", self.total);
                Err(error).with_context(|| format!("step {number} failed: {title}"))
            }
        }
    }

    /// The closing line.
    pub(crate) fn finish(&self) {
        anstream::println!("\n{DONE}all {} steps hold{DONE:#}, {} in all", self.total, seconds(self.started.elapsed()));
    }
}

/// A heading and lines below it.
pub(crate) fn section(heading: &str, lines: &[String]) {
    anstream::println!("\n{STRONG}{heading}{STRONG:#}");
    for line in lines {
        anstream::println!("  {line}");
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
