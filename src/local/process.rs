//! One child process: started with its output in a log file, stopped gently, never left behind.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStdout, Command};

/// Set for children of `entente demo` and `entente dev`: they end when their parent does, even if it was killed.
pub(crate) const PARENT_VARIABLE: &str = "ENTENTE_PARENT_PID";

/// How long a process may take to end after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// Lines of a log shown when something failed.
const TAIL_LINES: usize = 12;

/// A running child and its log file.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program arguments…`; stderr and stdout are appended to `log`.
    pub(crate) fn start(name: &str, program: &Path, arguments: &[OsString], log: &Path) -> Result<Self> {
        Self::spawn(name, program, arguments, log, false).map(|(process, _)| process)
    }

    /// The same with stdout given to the caller.
    pub(crate) fn start_piped(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        log: &Path,
    ) -> Result<(Self, ChildStdout)> {
        let (process, stdout) = Self::spawn(name, program, arguments, log, true)?;
        Ok((process, stdout.with_context(|| format!("{name}: no standard output"))?))
    }

    fn spawn(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        log: &Path,
        piped: bool,
    ) -> Result<(Self, Option<ChildStdout>)> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let out = if piped { Stdio::piped() } else { Stdio::from(file.try_clone()?) };
        let mut child = Command::new(program)
            .args(arguments)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::from(file))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        let stdout = child.stdout.take();
        Ok((Self { name: name.to_owned(), child, log: log.to_owned() }, stdout))
    }

    /// The process id, as long as it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails, with the end of the log, if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("cannot watch {}", self.name))? {
            bail!("{} ended ({status}); the end of its log:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL after [`STOP_LIMIT`].
    pub(crate) async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// The last lines of the log, indented.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("  [{}]\n{}", self.name, tail.iter().map(|line| format!("    {line}\n")).collect::<String>())
    }
}

/// Called first thing in every process: asks the kernel for SIGTERM when the parent that set
/// [`PARENT_VARIABLE`] ends. Without the variable nothing happens.
pub(crate) fn end_with_parent() {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|value| value.parse::<i32>().ok()) else {
        return;
    };
    if rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).is_err() {
        return;
    }
    // The parent may have ended before the request was made: then nobody would send the signal.
    if rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        std::process::exit(1);
    }
}
