//! Who calls: from the peer of a Unix socket connection to the caller's selectors, safe against reuse of process IDs.

use std::sync::Arc;

use service_kit::grpc::listen::UnixPeer;

use crate::workload::{SelectorSet, WorkloadAttestors};

/// Why a caller could not be attested.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel does not tell the caller's process.
    #[error("the caller's process cannot be seen from here; run agent and workload in the same PID namespace")]
    Invisible,
    /// The caller ended, and its ID may belong to another process by now.
    #[error("the caller's process {0} has ended")]
    Ended(i32),
    /// No attestor could describe it.
    #[error(transparent)]
    Attestors(#[from] crate::workload::AllAttestorsFailed),
}

/// The selectors of the caller. The process is checked to be the one that connected before and after it is examined:
/// what was read by its ID is then its own.
///
/// # Errors
/// [`PeerError`].
pub async fn attest(peer: &UnixPeer, attestors: &WorkloadAttestors) -> Result<Arc<SelectorSet>, PeerError> {
    let pid = peer.pid.ok_or(PeerError::Invisible)?;
    if !peer.is_alive() {
        return Err(PeerError::Ended(pid));
    }
    let selectors = attestors.attest(pid).await?;
    if !peer.is_alive() {
        return Err(PeerError::Ended(pid));
    }
    Ok(Arc::new(selectors))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use federation_specs::selector::Selector;
    use service_kit::grpc::peer::process_start_time;

    use super::*;
    use crate::workload::{WorkloadAttestor, WorkloadAttestorError};

    /// Ends the process while it is being attested.
    #[derive(Debug)]
    struct Ends(std::sync::Mutex<Option<std::process::Child>>);

    #[async_trait]
    impl WorkloadAttestor for Ends {
        fn name(&self) -> &'static str {
            "ends"
        }

        async fn attest(&self, _pid: i32) -> Result<SelectorSet, WorkloadAttestorError> {
            if let Some(mut child) = self.0.lock().unwrap().take() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Ok([Selector::new("ends", "yes").unwrap()].into())
        }
    }

    fn peer(pid: i32) -> UnixPeer {
        UnixPeer { pid: Some(pid), uid: 0, gid: 0, start_time: process_start_time(pid), pidfd: None }
    }

    #[tokio::test]
    async fn a_process_that_ends_while_attested_gets_nothing() {
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let caller = peer(i32::try_from(child.id()).unwrap());
        let attestors = WorkloadAttestors::new(vec![Arc::new(Ends(std::sync::Mutex::new(Some(child))))]);
        assert!(matches!(attest(&caller, &attestors).await, Err(PeerError::Ended(_))));
        assert!(matches!(attest(&caller, &attestors).await, Err(PeerError::Ended(_))));
    }

    #[tokio::test]
    async fn a_process_id_taken_over_by_another_process_gets_nothing() {
        let attestors = WorkloadAttestors::new(vec![Arc::new(Ends(std::sync::Mutex::new(None)))]);
        let own = peer(i32::try_from(std::process::id()).unwrap());
        assert_eq!(attest(&own, &attestors).await.unwrap().len(), 1);
        let former = UnixPeer { start_time: own.start_time.map(|start| start - 1), ..own.clone() };
        assert!(matches!(attest(&former, &attestors).await, Err(PeerError::Ended(_))));
        let invisible = UnixPeer { pid: None, ..own };
        assert!(matches!(attest(&invisible, &attestors).await, Err(PeerError::Invisible)));
    }
}
