//! A running demo workload and what it has reported so far.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use federation_specs::id::SpiffeId;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

use crate::demo::workload::Event;
use crate::local::layout::Layout;
use crate::local::process::Process;

/// What a workload has reported.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Its SPIFFE IDs, as the Workload API gave them.
    pub(crate) ids: Vec<String>,
    /// Key ID of the authority that signed its SVID.
    pub(crate) authority: String,
    /// Key IDs of the foreign authorities it trusts, by trust domain.
    pub(crate) federated: BTreeMap<String, Vec<String>>,
    /// Calls answered.
    pub(crate) answered: u64,
    /// Calls that failed.
    pub(crate) failed: u64,
    /// The last answer.
    pub(crate) answer: String,
    /// The last failure.
    pub(crate) error: String,
}

/// A workload process. It has a file of its own, so that `unix:path` tells it from the others.
#[derive(Debug)]
pub(crate) struct Workload {
    id: SpiffeId,
    program: PathBuf,
    socket: PathBuf,
    process: Process,
    seen: watch::Receiver<Seen>,
}

/// Gives the workload called `name` a program file of its own.
pub(crate) fn install(layout: &Layout, name: &str) -> Result<PathBuf> {
    let folder = layout.file("bin");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = folder.join(name);
    if std::fs::hard_link(&own, &program).is_err() {
        std::fs::copy(&own, &program).with_context(|| format!("cannot write {}", program.display()))?;
    }
    Ok(program)
}

impl Workload {
    /// Starts `program` as the workload `id`, serving on `listen` and calling `peer`.
    pub(crate) fn start(
        layout: &Layout,
        program: &Path,
        id: SpiffeId,
        listen: SocketAddr,
        peer: SocketAddr,
        peer_id: &SpiffeId,
    ) -> Result<Self> {
        let socket = layout.agent_socket();
        let arguments = [
            "demo-workload".into(),
            "--socket".into(),
            socket.clone().into(),
            "--listen".into(),
            listen.to_string().into(),
            "--peer".into(),
            peer.to_string().into(),
            "--peer-id".into(),
            peer_id.to_string().into(),
        ];
        let log = layout.file(&format!("{}.log", id.path().trim_start_matches('/').replace('/', "-")));
        let (process, stdout) = Process::start_piped(&format!("workload {id}"), program, &arguments, &log)?;
        let (sender, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(event) = serde_json::from_str(&line) else { continue };
                sender.send_modify(|seen| seen.take(event));
            }
        });
        Ok(Self { id, program: program.to_owned(), socket, process, seen })
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what the workload reported satisfies `holds`.
    pub(crate) async fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let waited = tokio::time::timeout(limit, self.seen.wait_for(|seen| holds(seen))).await;
        let outcome = waited.map(|result| result.map(|seen| seen.clone()));
        match outcome {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => {
                self.process.check()?;
                bail!("{} stopped reporting\n{}", self.id, self.process.log_tail())
            }
            Err(_) => {
                let error = self.seen().error;
                Err(anyhow!("waited {} s for {what}; its last failure: {error}", limit.as_secs()))
            }
        }
    }

    /// Runs `entente agent …` as this workload and gives its standard output.
    pub(crate) async fn agent_command(&self, arguments: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.program)
            .arg("agent")
            .args(arguments)
            .arg("-socketPath")
            .arg(&self.socket)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("agent {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("the command did not answer in UTF-8")
    }

    pub(crate) async fn stop(&mut self) {
        self.process.stop().await;
    }

    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::Identity { ids, authority, federated } => {
                self.ids = ids;
                self.authority = authority;
                self.federated = federated;
            }
            Event::Called { answer } => {
                self.answered += 1;
                self.answer = answer;
            }
            Event::Failed { error } => {
                self.failed += 1;
                self.error = error;
            }
        }
    }
}
