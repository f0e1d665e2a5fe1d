//! PyPI `spiffe`, whose gRPC is C-core, fetches and watches X509- and JWT-SVIDs across a rotation.

use anyhow::Result;
use entente_tests::peer::Peer;

mod watching;

#[tokio::test(flavor = "multi_thread")]
async fn python_follows_a_rotation() -> Result<()> {
    watching::follows_a_rotation(|domain| Peer::python_workload_watch(&domain.file("."), &domain.endpoint_socket()))
        .await
}
