//! How a command fails: the line on standard error and the exit status.

use std::error::Error;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use tonic::Code;

use crate::standard_error;

/// Exit status of every failure but an unknown top-level command.
pub(crate) const FAILED: u8 = 1;

/// A command that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The line for standard error; `None` if the command has already said everything.
    text: Option<String>,
    /// What to do about it, shown to people only, so that scripts see SPIRE's text and nothing else.
    remedy: Option<String>,
    /// The exit status.
    status: u8,
}

impl Failure {
    /// A failure with its one line.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), remedy: None, status: FAILED }
    }

    /// A failure already told.
    pub(crate) fn told() -> Self {
        Self::status(FAILED)
    }

    /// An end that was told already and is no success, with an exit status of its own.
    pub(crate) fn status(status: u8) -> Self {
        Self { text: None, remedy: None, status }
    }

    /// The error and its causes on one line.
    pub(crate) fn chain(error: &(dyn Error + 'static)) -> Self {
        Self::new(error_chain(error))
    }

    /// Adds what to do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Puts words before the text.
    pub(crate) fn context(mut self, words: &str) -> Self {
        self.text = self.text.map(|text| format!("{words}: {text}"));
        self
    }

    /// The text alone, for a command that wraps it in its own words.
    pub(crate) fn into_text(self) -> String {
        self.text.unwrap_or_default()
    }

    /// The text, empty if already told.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// Tells the user and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(text) = self.text {
            standard_error::to_stderr(&format!("{text}\n"));
        }
        if let Some(remedy) = self.remedy.filter(|_| std::io::stderr().is_terminal()) {
            standard_error::to_stderr(&format!("{remedy}\n"));
        }
        ExitCode::from(self.status)
    }

    /// The form of the commands that put `Error:` before their line.
    pub(crate) fn labelled(mut self) -> Self {
        self.text = self.text.map(|text| format!("Error: {text}"));
        self
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::new(status_text(&status))
    }
}

/// A gRPC status as SPIRE's commands write it.
pub(crate) fn status_text(status: &tonic::Status) -> String {
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

/// The name of a gRPC code as SPIRE's commands write it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// An error and its causes, each said once.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// The operating system's reason without its number, starting in lower case: `no such file or directory`.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_spire_writes_them() {
        let status = tonic::Status::not_found("agent not found");
        assert_eq!(Failure::from(status).text(), "rpc error: code = NotFound desc = agent not found");
    }

    #[test]
    fn operating_system_errors_lose_their_number() {
        let error = std::fs::File::open("/nowhere/at/all").unwrap_err();
        assert_eq!(io_reason(&error), "no such file or directory");
    }

    #[test]
    fn a_cause_already_named_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::fmt::Error);
        let error = Outer(std::fmt::Error);
        assert_eq!(error_chain(&error), error.to_string());
    }
}
