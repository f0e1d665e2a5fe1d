//! Authorities rotate while workloads of two domains go on calling each other.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use entente_tests::{
    domain::Domain,
    federation::{Federation, follows},
    rotation::Kind,
    wait,
    workload::{Greeter, Workload},
};

/// Calls that must have succeeded after each step before the next one begins.
const CALLS: usize = 20;

/// Two workloads that call each other until told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _servers: Vec<Greeter>,
}

impl Traffic {
    async fn start(cloud: &Domain, onprem: &Domain) -> Result<Self> {
        let mut traffic = Self {
            stop: Arc::default(),
            calls: Arc::default(),
            failures: Arc::default(),
            tasks: Vec::new(),
            _servers: Vec::new(),
        };
        for (caller, callee) in [(cloud, onprem), (onprem, cloud)] {
            let server = Workload::join(&callee.endpoint_socket()).await?.serve(&[&caller.id("/web")]).await?;
            let client = Workload::join(&caller.endpoint_socket()).await?;
            let (address, expected) = (server.address, callee.id("/web"));
            traffic._servers.push(server);
            let (stop, calls, failures) = (traffic.stop.clone(), traffic.calls.clone(), traffic.failures.clone());
            traffic.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match client.call(address, &expected).await {
                        Ok(_) => {
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            if let Ok(mut failures) = failures.lock() {
                                failures.push(format!("{error:#}"));
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }));
        }
        Ok(traffic)
    }

    /// Waits for more successful calls, and fails if any call failed.
    async fn goes_on(&self, after: &str) -> Result<()> {
        let begin = self.calls.load(Ordering::Relaxed);
        wait::until("calls go on", || async {
            let more = self.calls.load(Ordering::Relaxed) - begin;
            ensure!(more >= CALLS, "{more} calls since");
            Ok(())
        })
        .await?;
        let failures = self.failures.lock().map(|failures| failures.clone()).unwrap_or_default();
        ensure!(failures.is_empty(), "after {after}: {} calls failed, the first with {}", failures.len(), failures[0]);
        Ok(())
    }
}

/// Waits until a new caller of this domain's agent gets an SVID signed by `authority`.
async fn signs(domain: &Domain, authority: &str) -> Result<()> {
    wait::until("the agent hands out SVIDs of the new authority", || async {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().display().to_string();
        domain.agent_cli(&["api", "fetch", "x509", "-write", &folder]).await?.ok()?;
        let pem = std::fs::read(dir.path().join("svid.0.pem"))?;
        let issued_by = authority_key_id(&pem)?;
        ensure!(issued_by == authority, "signed by {issued_by}");
        Ok(())
    })
    .await
}

fn authority_key_id(pem: &[u8]) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem)?;
    let certificate = pem.parse_x509()?;
    let found = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(key) => {
            key.key_identifier.as_ref().map(|id| id.0)
        }
        _ => None,
    });
    Ok(found.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_both_authorities_rotate() -> Result<()> {
    let federation = Federation::start().await?;
    federation.create_entries().await?;
    let (cloud, onprem) = (&federation.cloud, &federation.onprem);
    let traffic = Traffic::start(cloud, onprem).await?;
    traffic.goes_on("the start").await?;

    for round in 1..=2 {
        let old = cloud.active_authority(Kind::X509).await?;
        let old_jwt = cloud.active_authority(Kind::Jwt).await?;
        let new = cloud.prepare_authority(Kind::X509).await?;
        let new_jwt = cloud.prepare_authority(Kind::Jwt).await?;
        ensure!(old != new && old_jwt != new_jwt, "an authority was prepared twice");
        follows(onprem, cloud).await?;
        traffic.goes_on("prepare").await?;

        cloud.activate_authority(Kind::X509, &new).await?;
        cloud.activate_authority(Kind::Jwt, &new_jwt).await?;
        assert_eq!(cloud.active_authority(Kind::X509).await?, new);
        traffic.goes_on("activate").await?;

        // The other domain must hold what is signed with before the old authority goes.
        cloud.taint_authority(Kind::X509, &old).await?;
        signs(cloud, &new).await?;
        traffic.goes_on("taint").await?;
        wait::until("the workloads' streams brought the new SVID", || async {
            let held = cloud.issuer_json(&["agent", "count"]).await?;
            ensure!(held["count"] == 1, "{held}");
            Ok(())
        })
        .await?;

        cloud.taint_authority(Kind::Jwt, &old_jwt).await?;
        cloud.revoke_authority(Kind::X509, &old).await?;
        cloud.revoke_authority(Kind::Jwt, &old_jwt).await?;
        follows(onprem, cloud).await?;
        let held = onprem.federated_authorities("spiffe://cloud.example").await?;
        ensure!(!held.jwt.contains(&old_jwt), "round {round}: the revoked JWT key is still at the partner: {held:?}");
        traffic.goes_on("revoke").await?;
    }

    traffic.stop.store(true, Ordering::Relaxed);
    for task in traffic.tasks {
        task.await?;
    }
    federation.stop().await
}
