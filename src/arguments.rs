//! The command line as SPIRE's users type it: every flag with one dash or two, in SPIRE's spelling or in kebab-case,
//! booleans with or without a value. This rewrites it into the one spelling clap knows, and answers help, version
//! and usage errors with SPIRE's texts and exit statuses.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

use crate::failure::FAILED;
use crate::output::{self, Format};
use crate::standard_error;

/// Exit status of a missing or unknown top-level command.
const NO_COMMAND: u8 = 127;

/// The commands that are programs of their own in SPIRE, and ours beside them.
const PROGRAMS: [&str; 3] = ["issuer", "agent", "gateway"];
/// Those of them whose surplus arguments SPIRE ignores.
const FORGIVING: [&str; 2] = ["issuer", "agent"];

/// The command line did not lead to a command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    stdout: String,
    stderr: String,
    status: u8,
}

impl Stop {
    /// Prints what is to be said and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        standard_error::to_stderr(&self.stderr);
        match output::to_stdout(&self.stdout) {
            Ok(()) => ExitCode::from(self.status),
            Err(failure) => failure.report(),
        }
    }
}

/// Reads the process's own arguments.
pub(crate) fn from_environment<P: Parser>() -> Result<P, Stop> {
    parse(std::env::args_os().collect())
}

/// Reads a command line; the first element is the name the program was called by.
fn parse<P: Parser>(arguments: Vec<OsString>) -> Result<P, Stop> {
    let mut words = Vec::with_capacity(arguments.len() + 1);
    for (index, argument) in arguments.into_iter().enumerate() {
        let word = argument.into_string().map_err(|raw| Stop {
            stdout: String::new(),
            stderr: format!("argument {} is not valid UTF-8: {}\n", index, raw.to_string_lossy()),
            status: FAILED,
        })?;
        words.push(word);
    }
    let called = if words.is_empty() { String::new() } else { words.remove(0) };
    if let Some(program) = program_of(&called) {
        words.insert(0, program.to_owned());
    }
    let mut root = P::command();
    root.build();
    let (line, leaf) = Reader { root: &root }.read(&words)?;
    P::try_parse_from(line).map_err(|error| usage_error(&error, &leaf))
}

/// Installed under SPIRE's names, the binary answers as the program of that name.
fn program_of(called: &str) -> Option<&'static str> {
    match Path::new(called).file_name()?.to_str()? {
        "spire-server" => Some("issuer"),
        "spire-agent" => Some("agent"),
        _ => None,
    }
}

struct Reader<'a> {
    root: &'a Command,
}

impl<'a> Reader<'a> {
    /// The rewritten line and the command it leads to.
    fn read(&self, words: &[String]) -> Result<(Vec<String>, Command), Stop> {
        let mut line = vec![self.root.get_name().to_owned()];
        let mut current = self.root;
        let mut program: Option<&str> = None;
        let mut rest = words;
        while let [word, after @ ..] = rest
            && !is_flag(word)
            && let Some(next) = current.find_subcommand(word)
        {
            if line.len() == 1 {
                program = PROGRAMS.iter().copied().find(|name| *name == next.get_name());
            }
            line.push(next.get_name().to_owned());
            current = next;
            rest = after;
        }
        let pure_group = current.has_subcommands() && current.get_arguments().next().is_none();
        if pure_group {
            return Err(group_stop(current, program, line.len(), rest));
        }
        let forgiving = program.is_some_and(|name| FORGIVING.contains(&name));
        self.read_flags(current, rest, forgiving, &mut line)?;
        Ok((line, current.clone()))
    }

    fn read_flags(
        &self,
        leaf: &Command,
        words: &[String],
        forgiving: bool,
        line: &mut Vec<String>,
    ) -> Result<(), Stop> {
        let mut given: Vec<(String, String)> = Vec::new();
        let mut positionals = Vec::new();
        let mut only_positionals = false;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if only_positionals || !is_flag(word) {
                positionals.push(word.clone());
                continue;
            }
            if word == "--" {
                only_positionals = true;
                continue;
            }
            let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or(word);
            if body.is_empty() || body.starts_with('-') || body.starts_with('=') {
                return Err(flag_stop(leaf, &format!("bad flag syntax: {word}")));
            }
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some(flag) = find_flag(leaf, name) else {
                if name == "h" || name == "help" {
                    return Err(help_stop(leaf, forgiving));
                }
                return Err(flag_stop(leaf, &format!("flag provided but not defined: -{name}")));
            };
            let long = flag.get_long().unwrap_or(name).to_owned();
            if is_boolean(flag) {
                let value = match inline {
                    None => true,
                    Some(text) => boolean(text).ok_or_else(|| {
                        let quoted = crate::notation::quote(text);
                        flag_stop(leaf, &format!("invalid boolean value {quoted} for -{name}: parse error"))
                    })?,
                };
                given.retain(|(earlier, _)| *earlier != long);
                given.push((long, value.to_string()));
                continue;
            }
            let value = match inline {
                Some(value) => value.to_owned(),
                None => {
                    words.next().cloned().ok_or_else(|| flag_stop(leaf, &format!("flag needs an argument: -{name}")))?
                }
            };
            if long == "output" {
                agreed_format(&given, &value).map_err(|text| flag_stop(leaf, &text.replace("FLAG", name)))?;
            }
            if !matches!(flag.get_action(), ArgAction::Append) {
                given.retain(|(earlier, _)| *earlier != long);
            }
            given.push((long, value));
        }
        for (long, value) in given {
            match find_flag(leaf, &long).map(Arg::get_action) {
                Some(ArgAction::SetTrue) if value == "true" => line.push(format!("--{long}")),
                Some(ArgAction::SetTrue) => {}
                _ => line.push(format!("--{long}={value}")),
            }
        }
        if leaf.get_positionals().next().is_some() || !forgiving {
            if !positionals.is_empty() {
                line.push("--".to_owned());
            }
            line.append(&mut positionals);
        }
        Ok(())
    }
}

/// A word that starts a flag; `-` alone is a value (standard input).
fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

fn find_flag<'a>(leaf: &'a Command, name: &str) -> Option<&'a Arg> {
    let named = |arg: &&Arg| {
        arg.get_long().is_some_and(|long| long == name || kebab_case(long) == name)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            || arg.get_short().is_some_and(|short| name.chars().eq([short]))
    };
    leaf.get_arguments().filter(|arg| !arg.is_positional()).find(named)
}

fn is_boolean(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::SetTrue)
        || flag.get_value_parser().type_id() == ValueParser::bool().type_id()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The same format may be named twice, two different ones may not.
fn agreed_format(given: &[(String, String)], value: &str) -> Result<(), String> {
    let invalid = |reason: String| format!("invalid value {} for flag -FLAG: {reason}", crate::notation::quote(value));
    let format: Format = value.parse().map_err(|error: output::UnknownFormat| invalid(error.to_string()))?;
    let earlier = given.iter().find(|(name, _)| name == "output").and_then(|(_, value)| value.parse::<Format>().ok());
    match earlier {
        Some(earlier) if earlier != format => Err(invalid(format!(
            "the output format has already been set to {}",
            crate::notation::quote(earlier.as_str())
        ))),
        _ => Ok(()),
    }
}

/// `spiffeID` as `spiffe-id`, `x509SVIDTTL` as `x509-svid-ttl`.
fn kebab_case(name: &str) -> String {
    let name = name.replace("SVID", "Svid").replace("SDS", "Sds");
    let letters: Vec<char> = name.chars().collect();
    let mut kebab = String::with_capacity(name.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            let after_small = !letters[index - 1].is_ascii_uppercase();
            let before_small = letters.get(index + 1).is_some_and(char::is_ascii_lowercase);
            if after_small || before_small {
                kebab.push('-');
            }
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

/// A group was named without one of its commands.
fn group_stop(group: &Command, program: Option<&str>, depth: usize, rest: &[String]) -> Stop {
    let at_program = depth == 1 || (depth == 2 && program.is_some());
    let own = depth == 1;
    let usage = usage(group);
    match rest.first().map(String::as_str) {
        Some("-h" | "-help" | "--help" | "--h") if own => Stop { stdout: usage, stderr: String::new(), status: 0 },
        Some("-h" | "-help" | "--help" | "--h") => Stop { stdout: String::new(), stderr: usage, status: 0 },
        Some("-v" | "-V" | "-version" | "--version") if own => {
            let version = format!("entente {}\n", env!("CARGO_PKG_VERSION"));
            Stop { stdout: version, stderr: String::new(), status: 0 }
        }
        Some("-v" | "-version" | "--version") if at_program => {
            Stop { stdout: String::new(), stderr: format!("{}\n", env!("CARGO_PKG_VERSION")), status: 0 }
        }
        _ => Stop { stdout: String::new(), stderr: usage, status: if at_program { NO_COMMAND } else { FAILED } },
    }
}

fn help_stop(leaf: &Command, spire: bool) -> Stop {
    if !spire {
        return Stop { stdout: usage(leaf), stderr: String::new(), status: 0 };
    }
    let first = if leaf.has_subcommands() { "" } else { "flag: help requested\n" };
    Stop { stdout: String::new(), stderr: format!("{first}{}", usage(leaf)), status: 0 }
}

fn flag_stop(leaf: &Command, text: &str) -> Stop {
    Stop { stdout: String::new(), stderr: format!("{text}\n{}", usage(leaf)), status: FAILED }
}

fn usage(command: &Command) -> String {
    let mut text = command.clone().render_help().to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What clap found wrong with a value, in SPIRE's form.
fn usage_error(error: &clap::Error, leaf: &Command) -> Stop {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.strip_prefix("--").and_then(|flag| flag.split([' ', '=']).next()),
        _ => None,
    };
    let invalid = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    if let (true, Some(value), Some(flag)) = (invalid, value, flag) {
        let reason = std::error::Error::source(error).map_or_else(|| "parse error".to_owned(), ToString::to_string);
        let quoted = crate::notation::quote(value);
        return flag_stop(leaf, &format!("invalid value {quoted} for flag -{flag}: {reason}"));
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Stop { stdout: String::new(), stderr: text.to_owned(), status: FAILED }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
