//! Signals, orderly shutdown, and the set of background tasks of a service.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{BoxError, clock::SharedClock};

/// The wish to stop, shared by every task of a service.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM and SIGINT start too. A second signal of either kind ends the process at once, with
    /// the status a shell gives to a process killed by that signal.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            loop {
                let (name, number) = tokio::select! {
                    received = terminate.recv() => if received.is_some() { ("SIGTERM", 15) } else { return },
                    received = interrupt.recv() => if received.is_some() { ("SIGINT", 2) } else { return },
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "second signal, ending at once");
                    std::process::exit(128 + number);
                }
                tracing::info!(signal = name, "shutting down");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Starts the shutdown.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has started.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when the shutdown starts.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Like [`Shutdown::cancelled`], owning its hold on the shutdown.
    pub fn cancelled_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// A shutdown of a part: it starts with this one, or alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }
}

/// Why a service ended in failure.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("{name} failed: {source}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error.
        source: BoxError,
    },
    /// A task returned although nothing asked it to.
    #[error("{name} ended unexpectedly; this is a defect, please report it with the log")]
    EndedEarly {
        /// The task.
        name: &'static str,
    },
    /// A task panicked.
    #[error("{name} panicked: {message}; this is a defect, please report it with the log")]
    Panicked {
        /// The task.
        name: &'static str,
        /// The panic's message.
        message: String,
    },
    /// Tasks were still running when the grace period was over.
    #[error("{names} did not stop within {}", crate::config::HumanDuration(*grace))]
    Stuck {
        /// The tasks, comma separated.
        names: String,
        /// The grace period.
        grace: Duration,
    },
}

/// The background tasks of a service. The first one to end without being asked takes the others down with it.
#[derive(Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    clock: SharedClock,
    set: JoinSet<Result<(), BoxError>>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    /// No tasks yet. `clock` measures the grace period.
    pub fn new(shutdown: Shutdown, clock: SharedClock) -> Self {
        Self { shutdown, clock, set: JoinSet::new(), names: Vec::new() }
    }

    /// The shutdown the tasks listen to.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task. It must return once the shutdown is triggered, and not before, unless it failed.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let handle = self.set.spawn(task);
        self.names.push((handle.id(), name));
    }

    /// Waits until the shutdown is triggered or a task ends, then gives the remaining tasks `grace` to return before
    /// they are cut off.
    ///
    /// # Errors
    /// The first failure; a clean stop of all tasks is `Ok`.
    pub async fn run_until_shutdown(mut self, grace: Duration) -> Result<(), TaskError> {
        let mut outcome = Ok(());
        let cancelled = self.shutdown.cancelled_owned();
        tokio::pin!(cancelled);
        let first = tokio::select! {
            biased;
            () = &mut cancelled => None,
            joined = self.set.join_next_with_id(), if !self.set.is_empty() => joined,
        };
        if let Some(joined) = first {
            // A task that returns in the same instant as the shutdown starts has not ended early.
            let asked = self.shutdown.is_triggered();
            outcome = self.judge(joined, asked);
            self.shutdown.trigger();
        }

        let deadline = self.clock.sleep(grace);
        tokio::pin!(deadline);
        while !self.set.is_empty() {
            tokio::select! {
                biased;
                joined = self.set.join_next_with_id() => if let Some(joined) = joined {
                    let judged = self.judge(joined, true);
                    outcome = outcome.and(judged);
                },
                () = &mut deadline => {
                    let names: Vec<&str> = self.names.iter().map(|(_, name)| *name).collect();
                    let stuck = TaskError::Stuck { names: names.join(", "), grace };
                    tracing::warn!(error = %stuck, "cutting off");
                    self.set.shutdown().await;
                    return outcome.and(Err(stuck));
                }
            }
        }
        outcome
    }

    fn judge(&mut self, joined: Result<(Id, Result<(), BoxError>), JoinError>, asked: bool) -> Result<(), TaskError> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let index = self.names.iter().position(|(known, _)| *known == id);
        let name = index.map_or("task", |index| self.names.swap_remove(index).1);
        let error = match joined {
            Ok((_, Ok(()))) if asked => {
                tracing::debug!(task = name, "stopped");
                return Ok(());
            }
            Ok((_, Ok(()))) => TaskError::EndedEarly { name },
            Ok((_, Err(source))) => TaskError::Failed { name, source },
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => TaskError::Panicked { name, message: panic_message(error) },
        };
        tracing::error!(task = name, error = %error, "task ended");
        Err(error)
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "unknown".into() };
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "unknown".into())
}

/// Raises the number of files this process may open to the hard limit; answers the limit now in force (`None`:
/// unlimited).
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    if before.current == before.maximum {
        return before.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum }) {
        Ok(()) => before.maximum,
        Err(error) => {
            tracing::warn!(%error, current = before.current, "cannot raise the limit of open files");
            before.current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, SystemClock};
    use std::sync::Arc;
    use time::OffsetDateTime;

    const GRACE: Duration = Duration::from_secs(5);

    fn tasks() -> Tasks {
        Tasks::new(Shutdown::new(), SystemClock::shared())
    }

    fn waiting(tasks: &mut Tasks, name: &'static str) {
        let shutdown = tasks.shutdown().clone();
        tasks.spawn(name, async move {
            shutdown.cancelled().await;
            Ok(())
        });
    }

    #[tokio::test]
    async fn clean_stop() {
        let mut tasks = tasks();
        waiting(&mut tasks, "one");
        waiting(&mut tasks, "two");
        tasks.shutdown().trigger();
        tasks.run_until_shutdown(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn an_early_end_stops_the_others_and_fails() {
        let mut tasks = tasks();
        waiting(&mut tasks, "one");
        tasks.spawn("two", async { Ok(()) });
        let shutdown = tasks.shutdown().clone();
        assert!(matches!(tasks.run_until_shutdown(GRACE).await, Err(TaskError::EndedEarly { name: "two" })));
        assert!(shutdown.is_triggered());
    }

    #[tokio::test]
    async fn errors_and_panics_name_the_task() {
        let mut failing = tasks();
        waiting(&mut failing, "one");
        failing.spawn("two", async { Err("no disk".into()) });
        assert_eq!(failing.run_until_shutdown(GRACE).await.unwrap_err().to_string(), "two failed: no disk");

        let mut panicking = tasks();
        panicking.spawn("three", async { panic!("boom {}", 1) });
        let error = panicking.run_until_shutdown(GRACE).await.unwrap_err();
        assert!(error.to_string().starts_with("three panicked: boom 1"), "{error}");
    }

    #[tokio::test]
    async fn a_stuck_task_is_cut_off_after_the_grace_period() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let mut tasks = Tasks::new(Shutdown::new(), Arc::new(clock.clone()));
        waiting(&mut tasks, "one");
        tasks.spawn("two", std::future::pending());
        tasks.shutdown().trigger();
        let run = tokio::spawn(tasks.run_until_shutdown(GRACE));
        while clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        clock.advance(GRACE);
        assert_eq!(run.await.unwrap().unwrap_err().to_string(), "two did not stop within 5s");
    }

    #[tokio::test]
    async fn child_shutdown_follows_its_parent_only() {
        let parent = Shutdown::new();
        let child = parent.child();
        child.trigger();
        assert!(!parent.is_triggered());
        let other = parent.child();
        parent.trigger();
        other.cancelled().await;
    }

    #[test]
    fn file_limit_reaches_the_hard_limit() {
        let limit = raise_file_limit();
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit, now.current);
    }
}
