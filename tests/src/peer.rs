//! Driving the client programs in `tests/peers`, which are written on go-spiffe, spire-api-sdk and packages of PyPI.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Command as BlockingCommand,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
    time::{Instant, timeout_at},
};

use crate::{binary::repository, process::Process, wait::LIMIT};

/// The Go program: `ENTENTE_GO_PEER` if set, otherwise built now. A missing Go is a failure, never a skip.
pub fn go_program() -> Result<PathBuf> {
    prepared("ENTENTE_GO_PEER", "go")
}

/// A Python with PyPI `spiffe` and the other packages of `tests/peers/python`: `ENTENTE_PYTHON` if set, otherwise a virtual environment made now.
pub fn python() -> Result<PathBuf> {
    prepared("ENTENTE_PYTHON", "python")
}

fn prepared(variable: &str, kind: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let script = repository().join("tests/ci/peers.sh");
    let output =
        BlockingCommand::new(&script).arg(kind).output().with_context(|| format!("cannot run {}", script.display()))?;
    if !output.status.success() {
        bail!("{} {kind} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(PathBuf::from(printed.lines().last().context("peers.sh printed no path")?))
}

/// A running client program: commands in, events out.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// Events read but not yet given out, oldest first.
    waiting: VecDeque<Value>,
}

impl Peer {
    /// Starts `entente-peer <subcommand> <arguments>`; its standard error goes to a file in `dir`.
    pub fn go(dir: &Path, subcommand: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(go_program()?);
        command.arg(subcommand).args(arguments);
        Self::start(&format!("go {subcommand}"), command, dir)
    }

    /// Starts the Python program on a Workload API address.
    pub fn python_workload_watch(dir: &Path, socket: &str) -> Result<Self> {
        let mut command = Command::new(python()?);
        command.arg("-u").arg(repository().join("tests/peers/python/workload_watch.py")).args(["--socket", socket]);
        Self::start("python workload_watch", command, dir)
    }

    /// Starts `go workload-watch` on a Workload API address.
    pub fn go_workload_watch(dir: &Path, socket: &str) -> Result<Self> {
        Self::go(dir, "workload-watch", &["-socket", socket])
    }

    fn start(name: &str, command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{}.log", name.replace(' ', "-")));
        let (process, input, output) = Process::start_piped(name, command, &log)?;
        Ok(Self { process, input: Some(input), output: BufReader::new(output).lines(), waiting: VecDeque::new() })
    }

    /// Sends one command.
    pub async fn send(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("standard input is closed")?;
        input.write_all(format!("{command}\n").as_bytes()).await?;
        Ok(input.flush().await?)
    }

    /// The next event `name` for which `accept` holds. Earlier events of that name are passed over, events of other
    /// names wait until they are asked for. An event `failed`, the end of the program or [`LIMIT`] is an error.
    pub async fn event_where(&mut self, name: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        let mut passed = Vec::new();
        let mut at = 0;
        loop {
            while let Some(event) = self.waiting.get(at) {
                if event["event"] == name {
                    let event = self.waiting.remove(at).unwrap_or_default();
                    if accept(&event) {
                        return Ok(event);
                    }
                    passed.push(event);
                } else {
                    at += 1;
                }
            }
            let line = match timeout_at(deadline, self.output.next_line()).await {
                Ok(line) => line?,
                Err(_) => {
                    bail!("no event `{name}` as wanted within {LIMIT:?}; only {passed:#?}\n{}", self.process.log_tail())
                }
            };
            let Some(line) = line else {
                bail!("the program ended before an event `{name}`; only {passed:#?}\n{}", self.process.log_tail());
            };
            let event: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
            if event["event"] == "failed" {
                bail!("the program failed: {}\n{}", event["error"], self.process.log_tail());
            }
            self.waiting.push_back(event);
        }
    }

    /// The next event `name`.
    pub async fn event(&mut self, name: &str) -> Result<Value> {
        self.event_where(name, |_| true).await
    }

    /// Sends one command and gives the next event `name`.
    pub async fn ask(&mut self, command: &str, name: &str) -> Result<Value> {
        self.send(command).await?;
        self.event(name).await
    }

    /// Closes standard input and fails unless the program ends with 0.
    pub async fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.process.wait().await?;
        if !status.success() {
            let mut rest = Vec::new();
            while let Ok(Some(line)) = self.output.next_line().await {
                rest.push(line);
            }
            bail!("the program ended with {status}; unread: {rest:#?}\n{}", self.process.log_tail());
        }
        Ok(())
    }

    /// Runs to the end without commands: every event it wrote. Fails unless it ends with 0.
    pub async fn run_to_end(mut self) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        while let Some(line) = self.output.next_line().await? {
            events.push(serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?);
        }
        let status = self.process.wait().await?;
        if !status.success() {
            bail!("the program ended with {status}; it said {events:#?}\n{}", self.process.log_tail());
        }
        Ok(events)
    }
}

/// A text member of an event.
pub fn text<'a>(event: &'a Value, member: &str) -> Result<&'a str> {
    event[member].as_str().with_context(|| format!("no text `{member}` in {event}"))
}
