//! Running the command line and judging its answers.

use std::{ffi::OsStr, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{binary, wait::LIMIT};

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

/// Runs any command to its end.
pub async fn run(mut command: Command, input: &str) -> Result<Answer> {
    let shown = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that reads nothing closes the pipe; that is no failure.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let output = match timeout(LIMIT, child.wait_with_output()).await {
        Ok(output) => output?,
        Err(_) => bail!("{shown} still runs after {LIMIT:?}"),
    };
    Ok(Answer {
        command: shown,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
