//! Running the command line and judging its answers.

use std::{
    ffi::OsStr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

use crate::{binary, wait::LIMIT};

/// How long the output of a command that ended is waited for.
const PIPE_LIMIT: Duration = Duration::from_secs(2);

/// What one command said and how it ended.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The arguments, for messages.
    pub command: String,
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Standard output of a command that must succeed.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == 0,
            "`{}` ended with {}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }

    /// Standard output of a command that must succeed, as JSON.
    pub fn json(self) -> Result<Value> {
        let command = self.command.clone();
        let text = self.ok()?;
        serde_json::from_str(&text).with_context(|| format!("`{command}` printed no JSON: {text}"))
    }

    /// Fails unless the command failed with exit code 1 and its standard error holds every one of `texts`.
    pub fn refused(self, texts: &[&str]) -> Result<String> {
        ensure!(
            self.code == 1,
            "`{}` must end with 1, not {}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        for text in texts {
            if !self.stderr.contains(text) {
                bail!("`{}` must say `{text}` on standard error, but says\n{}", self.command, self.stderr);
            }
        }
        Ok(self.stderr)
    }
}

/// Runs `entente` with `arguments` and nothing on standard input.
pub async fn entente<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Answer> {
    entente_with_input(arguments, "").await
}

/// Runs `entente` with `arguments` and `input`.
pub async fn entente_with_input<S: AsRef<OsStr>>(arguments: &[S], input: &str) -> Result<Answer> {
    let mut command = Command::new(binary::entente()?);
    command.args(arguments);
    run(command, input).await
}

/// Runs any command to its end. It has a process group of its own, and whatever it left running in the background ends
/// with it.
pub async fn run(mut command: Command, input: &str) -> Result<Answer> {
    let shown = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let _group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw));
    if let Some(mut pipe) = child.stdin.take() {
        // A command that reads nothing closes the pipe; that is no failure.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let stdout = Collected::from(child.stdout.take().context("no standard output")?);
    let stderr = Collected::from(child.stderr.take().context("no standard error")?);
    let Ok(status) = timeout(LIMIT, child.wait()).await else {
        bail!("{shown} still runs after {LIMIT:?}\nstdout: {}\nstderr: {}", stdout.so_far(), stderr.so_far());
    };
    let code = status?.code().unwrap_or(-1);
    Ok(Answer { command: shown, code, stdout: stdout.all().await, stderr: stderr.all().await })
}

/// A process group that is killed when the command is done with.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody is left in it, as a rule.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a pipe gave, readable also before its end.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Collected {
    fn from(mut pipe: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let sink = bytes.clone();
        let task = tokio::spawn(async move {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
                if let Ok(mut bytes) = sink.lock() {
                    bytes.extend_from_slice(&chunk[..count]);
                }
            }
        });
        Self { bytes, task }
    }

    fn so_far(&self) -> String {
        self.bytes.lock().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Everything. A process left in the background may hold the pipe open, so its end is not waited for long.
    async fn all(mut self) -> String {
        let _ = timeout(PIPE_LIMIT, &mut self.task).await;
        self.so_far()
    }
}
