//! Having X509-SVIDs signed: keys are made on this node, requests go to the issuer in batches.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use federation_specs::proto::server::svid::{NewX509svidParams, batch_new_x509svid_response::Result as SigningResult};
use service_kit::{
    BoxError,
    backoff::Backoff,
    clock::SharedClock,
    csr::{self, CsrSubject},
    keys::{KeyType, PrivateKey},
    lifecycle::Shutdown,
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tonic::Code;

use crate::{
    cache::{Cache, SigningFailure, SvidSlot, entry::Entry, plan::Plan, svid::X509Svid},
    issuer::{IssuerClient, IssuerError},
    rotation,
};

/// Requests in one call.
pub const MAX_BATCH: usize = 500;

/// First and longest wait after a call that failed as a whole.
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(240);

/// First and longest wait before an entry whose signing failed is tried again.
const ENTRY_RETRY_BASE: Duration = Duration::from_secs(5);
const ENTRY_RETRY_MAX: Duration = Duration::from_secs(240);

/// Longest time between two looks at what is due.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Signs what is missing or due.
#[derive(Debug)]
pub struct Signer {
    /// Whom to ask.
    pub issuer: Arc<IssuerClient>,
    /// What is needed, and where the result goes.
    pub cache: Arc<Cache>,
    /// Kind of the workloads' keys.
    pub key_type: KeyType,
    /// SVIDs kept for entries nobody follows.
    pub max_size: usize,
    /// Time.
    pub clock: SharedClock,
    /// Told about every successful synchronisation.
    pub wake: Arc<Notify>,
}

/// A key made for an entry, and its signing request.
struct Prepared {
    entry: Arc<Entry>,
    key: PrivateKey,
    csr: Vec<u8>,
}

/// What came of one entry.
type Outcome = (Arc<Entry>, Result<X509Svid, String>);

impl Signer {
    /// Runs until the shutdown.
    ///
    /// # Errors
    /// None in practice; failures are logged and tried again.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        tokio::select! {
            () = self.sign_forever() => {}
            () = shutdown.cancelled() => {}
        }
        Ok(())
    }

    async fn sign_forever(&self) {
        let mut batch = MAX_BATCH;
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
        self.cache.synced().await;
        loop {
            let plan = self.plan().await;
            if plan.sign.is_empty() {
                let now = self.clock.now();
                let wait = plan.next.map_or(MAX_WAIT, |next| rotation::until(next, now)).min(MAX_WAIT);
                tokio::select! {
                    () = self.clock.sleep(wait) => {}
                    () = self.cache.demanded() => {}
                    () = self.wake.notified() => {}
                }
                continue;
            }
            let size = batch.min(plan.sign.len());
            match self.sign(&plan.sign[..size]).await {
                Ok(outcomes) => {
                    batch = (batch * 2).min(MAX_BATCH);
                    backoff.reset();
                    self.keep(outcomes).await;
                }
                // The issuer answers but cannot cope with this one request: it must not hold up the others.
                Err(error) if size == 1 && is_about_the_request(&error) => {
                    let outcomes = vec![(Arc::clone(&plan.sign[0]), Err(error.to_string()))];
                    self.keep(outcomes).await;
                }
                Err(error) => {
                    batch = (size / 2).max(1);
                    let wait = backoff.next();
                    tracing::warn!(%error, waiting = plan.sign.len(), retry_in = ?wait, "X509-SVIDs could not be signed");
                    tokio::select! {
                        () = self.clock.sleep(wait) => {}
                        () = self.wake.notified() => {}
                    }
                }
            }
        }
    }

    /// What to do now; forgets what the plan says to forget.
    async fn plan(&self) -> Plan {
        let now = self.clock.now();
        let followed = self.cache.followed_entries();
        let snapshot = self.cache.snapshot();
        for svid in followed.iter().filter_map(|id| snapshot.svids.get(id)).filter_map(|slot| slot.held.as_ref()) {
            svid.touch(now);
        }
        let plan = Plan::new(&snapshot, &followed, self.max_size, now);
        if !plan.evict.is_empty() {
            tracing::debug!(count = plan.evict.len(), "X509-SVIDs not used lately are forgotten");
            self.cache
                .update(|snapshot| {
                    let svids = Arc::make_mut(&mut snapshot.svids);
                    plan.evict.iter().for_each(|id| drop(svids.remove(id)));
                    true
                })
                .await;
        }
        plan
    }

    async fn sign(&self, entries: &[Arc<Entry>]) -> Result<Vec<Outcome>, IssuerError> {
        let (prepared, mut outcomes) = prepare(entries, self.key_type).await;
        if prepared.is_empty() {
            return Ok(outcomes);
        }
        let params = prepared
            .iter()
            .map(|prepared| NewX509svidParams { entry_id: prepared.entry.id.clone(), csr: prepared.csr.clone() })
            .collect();
        let results = self.issuer.sign_x509_svids(params).await?;
        let now = self.clock.now();
        for (prepared, result) in prepared.into_iter().zip(results) {
            let entry = Arc::clone(&prepared.entry);
            outcomes.push((entry, take(prepared, result, now)));
        }
        Ok(outcomes)
    }

    async fn keep(&self, outcomes: Vec<Outcome>) {
        let now = self.clock.now();
        self.cache
            .update(|snapshot| {
                let entries = Arc::clone(&snapshot.entries);
                let svids = Arc::make_mut(&mut snapshot.svids);
                for (entry, outcome) in outcomes {
                    // The entry may have been deleted meanwhile.
                    if entries.get(&entry.id).is_some() {
                        keep_one(svids.entry(entry.id.clone()).or_default(), &entry, outcome, now);
                    }
                }
                true
            })
            .await;
    }
}

fn keep_one(slot: &mut SvidSlot, entry: &Entry, outcome: Result<X509Svid, String>, now: OffsetDateTime) {
    match outcome {
        Ok(svid) => {
            tracing::debug!(entry = %entry.id, id = %entry.spiffe_id, expires_at = %svid.facts.not_after, "X509-SVID signed");
            if let Some(replaced) = &slot.held {
                svid.inherit_use(replaced);
            }
            *slot = SvidSlot { held: Some(Arc::new(svid)), failure: None };
        }
        Err(reason) => {
            let revision = (entry.revision_number, entry.created_at);
            let earlier = slot.failure.as_ref().filter(|failure| failure.revision == revision);
            let attempts = earlier.map_or(0, |failure| failure.attempts).saturating_add(1);
            let factor = 1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX);
            let wait = ENTRY_RETRY_BASE.saturating_mul(factor).min(ENTRY_RETRY_MAX);
            tracing::warn!(entry = %entry.id, id = %entry.spiffe_id, %reason, retry_in = ?wait, "X509-SVID not signed");
            slot.failure = Some(SigningFailure { attempts, retry_at: now + wait, revision });
        }
    }
}

fn take(prepared: Prepared, result: SigningResult, now: OffsetDateTime) -> Result<X509Svid, String> {
    let status = result.status.unwrap_or_default();
    if status.code != Code::Ok as i32 {
        return Err(format!("{} ({:?})", status.message, Code::from_i32(status.code)));
    }
    let chain = result.svid.map(|svid| svid.cert_chain).unwrap_or_default();
    X509Svid::new(&prepared.entry, chain, prepared.key, now).map_err(|error| error.to_string())
}

/// Whether the issuer was reached and failed on what it was asked, rather than being away or busy.
fn is_about_the_request(error: &IssuerError) -> bool {
    match error.code() {
        Some(code) => !matches!(
            code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::ResourceExhausted
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
        ),
        None => matches!(error, IssuerError::Malformed { .. }),
    }
}

/// Makes keys and signing requests off the async threads, on every processor.
async fn prepare(entries: &[Arc<Entry>], key_type: KeyType) -> (Vec<Prepared>, Vec<Outcome>) {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = entries.len().div_ceil(processors).max(1);
    let tasks: Vec<_> = entries
        .chunks(share)
        .map(|entries| {
            let entries = entries.to_vec();
            tokio::task::spawn_blocking(move || {
                entries.into_iter().map(|entry| prepare_one(entry, key_type)).collect::<Vec<_>>()
            })
        })
        .collect();
    let (mut prepared, mut failed) = (Vec::with_capacity(entries.len()), Vec::new());
    for task in tasks {
        // A task that was cut off leaves its entries for the next plan.
        for made in task.await.unwrap_or_default() {
            match made {
                Ok(made) => prepared.push(made),
                Err((entry, reason)) => failed.push((entry, Err(reason))),
            }
        }
    }
    (prepared, failed)
}

fn prepare_one(entry: Arc<Entry>, key_type: KeyType) -> Result<Prepared, (Arc<Entry>, String)> {
    let made = PrivateKey::generate(key_type).map_err(|error| error.to_string()).and_then(|key| {
        let csr = csr::create(&key, CsrSubject::default(), Some(&entry.spiffe_id), &[]);
        csr.map(|csr| (key, csr)).map_err(|error| error.to_string())
    });
    match made {
        Ok((key, csr)) => Ok(Prepared { entry, key, csr }),
        Err(reason) => Err((entry, reason)),
    }
}
