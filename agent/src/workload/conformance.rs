//! What every workload attestor must do. Each implementation's tests run this suite.

use super::{WorkloadAttestor, WorkloadAttestorError};

/// Runs the suite against an attestor that can describe this test process.
pub(crate) async fn check(attestor: &dyn WorkloadAttestor) {
    let own = i32::try_from(std::process::id()).unwrap();

    let first = attestor.attest(own).await.expect("a living process is described");
    for selector in &first {
        assert_eq!(selector.kind, attestor.name(), "the selector type is the attestor's name");
        assert!(!selector.value.is_empty(), "no empty values");
    }
    let second = attestor.attest(own).await.expect("attesting again works");
    assert_eq!(first, second, "the same process is described the same way");

    let mut child = std::process::Command::new("true").spawn().unwrap();
    let gone = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    for pid in [gone, i32::MAX, 0, -1] {
        let error = attestor.attest(pid).await.expect_err("a process that does not exist is an error");
        assert!(matches!(error, WorkloadAttestorError::ProcessGone(reported) if reported == pid), "{error:?}");
    }
}
