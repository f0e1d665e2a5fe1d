//! One process under test: its output goes to a file, it never outlives the test.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use crate::wait::LIMIT;

/// Lines of a log shown when a test fails.
const TAIL: usize = 40;

/// A child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`.
    pub fn start(name: &str, command: Command, log: &Path) -> Result<Self> {
        let file = append(log)?;
        Self::spawn(name, command, log, Stdio::null(), Stdio::from(file.try_clone()?), Stdio::from(file))
    }

    /// Starts `command` with pipes for standard input and output; standard error is appended to `log`.
    pub fn start_piped(name: &str, command: Command, log: &Path) -> Result<(Self, ChildStdin, ChildStdout)> {
        let file = append(log)?;
        let mut process = Self::spawn(name, command, log, Stdio::piped(), Stdio::piped(), Stdio::from(file))?;
        let input = process.child.stdin.take().context("no standard input")?;
        let output = process.child.stdout.take().context("no standard output")?;
        Ok((process, input, output))
    }

    fn spawn(name: &str, mut command: Command, log: &Path, input: Stdio, output: Stdio, error: Stdio) -> Result<Self> {
        let child = command
            // `entente` ends itself when the process named here is gone, should the test be killed.
            .env("ENTENTE_PARENT_PID", std::process::id().to_string())
            .stdin(input)
            .stdout(output)
            .stderr(error)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id; an error if it ended.
    pub fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        Pid::from_raw(i32::try_from(pid)?).context("process id 0")
    }

    /// Fails with the end of the log if the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself ({status})\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        match timeout(LIMIT, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} still runs after {LIMIT:?}\n{}", self.name, self.log_tail()),
        }
    }

    /// SIGTERM, then waits: how it ended and how long that took.
    pub async fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        let begin = Instant::now();
        kill_process(self.pid()?, Signal::TERM)?;
        let status = self.wait().await?;
        Ok((status, begin.elapsed()))
    }

    /// SIGTERM, and fails unless it ends with exit code 0.
    pub async fn stop(&mut self) -> Result<Duration> {
        let (status, elapsed) = self.terminate().await?;
        if !status.success() {
            bail!("{} ended with {status} after SIGTERM\n{}", self.name, self.log_tail());
        }
        Ok(elapsed)
    }

    /// SIGKILL: no last word, no clean-up.
    pub async fn kill9(&mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::KILL)?;
        self.child.wait().await?;
        Ok(())
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it wrote, under a heading.
    pub fn log_tail(&self) -> String {
        tail(&self.name, &self.log)
    }
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))
}

/// The end of a log file, under a heading.
pub fn tail(name: &str, log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    format!("--- end of the log of {name}\n{shown}\n---")
}
