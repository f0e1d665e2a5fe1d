//! Workload attestation: from a process to the selectors that describe it.
//!
//! Each attestor is one file and one implementation of [`WorkloadAttestor`]; the conformance suite in
//! `workload/conformance.rs` holds what all of them must do.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use federation_specs::selector::Selector;
use futures::future::join_all;
use tokio::sync::Semaphore;

mod accounts;
#[cfg(test)]
pub(crate) mod conformance;
mod digest;
pub mod unix;

/// The selectors of one caller.
pub type SelectorSet = BTreeSet<Selector>;

/// Longest time one attestor may take for one process.
pub const ATTESTOR_TIMEOUT: Duration = Duration::from_secs(10);

/// Processes attested at the same time; more wait their turn, so that a burst of callers cannot fill the blocking pool.
pub const MAX_CONCURRENT_ATTESTATIONS: usize = 64;

/// Selectors kept from one attestor for one process.
pub const MAX_SELECTORS: usize = 4096;

/// Describes a process of this node by selectors (SPIRE 1.15).
#[async_trait]
pub trait WorkloadAttestor: Send + Sync + Debug {
    /// Name of the attestor, which is the type of every selector it makes.
    fn name(&self) -> &'static str;

    /// The selectors of process `pid`.
    ///
    /// # Errors
    /// [`WorkloadAttestorError`] when the process is gone or cannot be examined. An attestor that merely knows nothing
    /// about the process answers an empty set.
    async fn attest(&self, pid: i32) -> Result<SelectorSet, WorkloadAttestorError>;
}

/// Why an attestor could not describe a process.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadAttestorError {
    /// The process does not exist any more, or never did.
    #[error("process {0} is gone")]
    ProcessGone(i32),
    /// Something about the process cannot be read.
    #[error("cannot read {what} of process {pid}: {source}")]
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// The process.
        pid: i32,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel's answer has an unknown shape.
    #[error("{what} of process {pid} is malformed")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// The process.
        pid: i32,
    },
    /// The executable is larger than the configured limit.
    #[error("executable of process {pid} has {size} bytes, more than workload_size_limit {limit}")]
    TooLarge {
        /// The process.
        pid: i32,
        /// Size of the executable in bytes.
        size: u64,
        /// Configured limit in bytes.
        limit: u64,
    },
    /// A value cannot be a selector.
    #[error("process {pid} gives a selector that is not valid: {reason}")]
    Selector {
        /// The process.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// The attestor did not answer within [`ATTESTOR_TIMEOUT`].
    #[error("no answer about process {0} within {ATTESTOR_TIMEOUT:?}")]
    TimedOut(i32),
    /// The attestor stopped in the middle of its work.
    #[error("attestation of process {0} was cut off")]
    Interrupted(i32),
}

/// Every attestor failed for a process.
#[derive(Debug, thiserror::Error)]
#[error("no workload attestor could describe process {pid}")]
pub struct AllAttestorsFailed {
    /// The process.
    pub pid: i32,
}

/// All configured attestors, asked together.
#[derive(Debug, Clone)]
pub struct WorkloadAttestors {
    attestors: Arc<[Arc<dyn WorkloadAttestor>]>,
    turns: Arc<Semaphore>,
}

impl WorkloadAttestors {
    /// The given attestors.
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self { attestors: attestors.into(), turns: Arc::new(Semaphore::new(MAX_CONCURRENT_ATTESTATIONS)) }
    }

    /// The union of what the attestors say about process `pid`. An attestor that fails is logged and its selectors are
    /// missing.
    ///
    /// # Errors
    /// [`AllAttestorsFailed`] if none succeeded.
    pub async fn attest(&self, pid: i32) -> Result<SelectorSet, AllAttestorsFailed> {
        // The semaphore is never closed; if it were, attesting without a turn would still be right.
        let _turn = self.turns.acquire().await;
        let answers = join_all(self.attestors.iter().map(|attestor| async move {
            let answer = match tokio::time::timeout(ATTESTOR_TIMEOUT, attestor.attest(pid)).await {
                Ok(answer) => answer,
                Err(_) => Err(WorkloadAttestorError::TimedOut(pid)),
            };
            (attestor.name(), answer)
        }))
        .await;
        let mut selectors = SelectorSet::new();
        let mut succeeded = false;
        for (name, answer) in answers {
            match answer {
                Ok(found) => {
                    succeeded = true;
                    if found.len() > MAX_SELECTORS {
                        tracing::warn!(
                            attestor = name,
                            pid,
                            found = found.len(),
                            "too many selectors; the surplus is ignored"
                        );
                    }
                    selectors.extend(found.into_iter().take(MAX_SELECTORS));
                }
                Err(error) => tracing::warn!(attestor = name, pid, %error, "workload attestor failed"),
            }
        }
        if succeeded { Ok(selectors) } else { Err(AllAttestorsFailed { pid }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(&'static str, Option<&'static str>);

    #[async_trait]
    impl WorkloadAttestor for Fixed {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn attest(&self, pid: i32) -> Result<SelectorSet, WorkloadAttestorError> {
            let value = self.1.ok_or(WorkloadAttestorError::ProcessGone(pid))?;
            Ok([Selector::new(self.0, value).unwrap()].into())
        }
    }

    #[tokio::test]
    async fn one_failing_attestor_costs_only_its_own_selectors() {
        let attestors = WorkloadAttestors::new(vec![Arc::new(Fixed("a", Some("x"))), Arc::new(Fixed("b", None))]);
        assert_eq!(attestors.attest(1).await.unwrap(), [Selector::new("a", "x").unwrap()].into());
    }

    #[tokio::test]
    async fn all_failing_is_an_error() {
        let attestors = WorkloadAttestors::new(vec![Arc::new(Fixed("a", None)), Arc::new(Fixed("b", None))]);
        assert_eq!(attestors.attest(7).await.unwrap_err().to_string(), "no workload attestor could describe process 7");
    }
}
