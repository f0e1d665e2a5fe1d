//! The captured transcripts in `testdata/cli`, as tests read them.

use std::path::Path;

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage as _};

use crate::output;

/// One command with what it printed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript {
    /// The command without the program's name.
    pub(crate) command: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: u8,
}

/// A file of them.
pub(crate) struct Transcripts(Vec<Transcript>);

impl Transcripts {
    /// Reads `testdata/cli/NAME.txt`.
    pub(crate) fn of(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testdata/cli").join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut all: Vec<Transcript> = Vec::new();
        let mut part = "";
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                let (_, command) =
                    command.split_once("spire-server ").or(command.split_once("spire-agent ")).unwrap_or(("", ""));
                all.push(Transcript { command: command.to_owned(), ..Transcript::default() });
                part = "";
                continue;
            }
            let Some(current) = all.last_mut() else { continue };
            match line {
                "--- stdout" | "--- stderr" | "--- stdin" => part = &line[4..],
                "(no newline at end of stdout)" => drop(current.stdout.pop()),
                "(no newline at end of stderr)" => drop(current.stderr.pop()),
                _ if line.starts_with("--- exit ") => {
                    current.exit = line[9..].parse().unwrap();
                    part = "";
                }
                _ if part == "stdout" => current.stdout.push_str(&format!("{line}\n")),
                _ if part == "stderr" => current.stderr.push_str(&format!("{line}\n")),
                _ => {}
            }
        }
        assert!(!all.is_empty(), "{} holds no transcript", path.display());
        Self(all)
    }

    /// The first transcript of a command.
    pub(crate) fn find(&self, command: &str) -> Option<&Transcript> {
        self.0.iter().find(|transcript| transcript.command == command)
    }

    /// Every transcript of a command.
    pub(crate) fn all(&self, command: &str) -> Vec<&Transcript> {
        self.0.iter().filter(|transcript| transcript.command == command).collect()
    }

    /// Every transcript whose command starts so.
    pub(crate) fn starting(&self, start: &str) -> Vec<&Transcript> {
        self.0.iter().filter(|transcript| transcript.command.starts_with(start)).collect()
    }

    pub(crate) fn stdout(&self, command: &str) -> &str {
        &self.find(command).unwrap_or_else(|| panic!("no transcript of {command}")).stdout
    }

    pub(crate) fn stderr(&self, command: &str) -> &str {
        &self.find(command).unwrap_or_else(|| panic!("no transcript of {command}")).stderr
    }

    /// Every command that printed pretty text.
    pub(crate) fn commands_without_json(&self) -> Vec<String> {
        let pretty = self.0.iter().filter(|transcript| !transcript.command.contains("-output"));
        pretty.map(|transcript| transcript.command.clone()).collect()
    }

    /// What a command printed each time it was run in both formats, one after the other.
    pub(crate) fn pairs(&self, command: &str) -> Vec<(String, String)> {
        let json = format!("{command} -output json");
        let together = |two: &&[Transcript]| two[0].command == command && two[1].command == json;
        let found: Vec<_> =
            self.0.windows(2).filter(together).map(|two| (two[0].stdout.clone(), two[1].stdout.clone())).collect();
        assert!(!found.is_empty(), "{command} was not run in both formats");
        found
    }

    /// The message a command printed as JSON.
    pub(crate) fn message<M: Message + Default>(&self, full_name: &str, command: &str) -> M {
        Self::decode(full_name, self.stdout(command))
    }

    /// A message from its JSON.
    pub(crate) fn decode<M: Message + Default>(full_name: &str, json: &str) -> M {
        let descriptor =
            output::pool().unwrap().get_message_by_name(full_name).unwrap_or_else(|| panic!("no {full_name}"));
        let mut reader = serde_json::Deserializer::from_str(json);
        let dynamic = DynamicMessage::deserialize(descriptor, &mut reader).unwrap();
        assert_eq!(dynamic.descriptor().full_name(), full_name);
        dynamic.transcode_to().unwrap()
    }
}
