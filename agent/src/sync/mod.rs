//! Keeping the cache in step with the issuer: entries and bundles at a regular interval, X509-SVIDs as they fall due.

pub mod bundles;
pub mod sign;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use federation_specs::{bundle::Bundle, id::TrustDomain};
use futures::{StreamExt, stream};
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, health::Latch, lifecycle::Shutdown};
use tokio::sync::Notify;

use crate::{
    cache::{
        Cache, Snapshot,
        entry::{Entry, EntryError},
        index::EntryIndex,
        jwt::JwtCache,
    },
    identity::OwnIdentity,
    issuer::{IssuerClient, IssuerError},
};

/// Federated bundles fetched at the same time.
const PARALLEL_FETCHES: usize = 10;

/// Longest wait after failures, as a multiple of the interval, and absolutely.
const MAX_INTERVALS: u32 = 48;
const MAX_WAIT: Duration = Duration::from_secs(8 * 60);

/// Longest wait after failures while the agent holds no SVID yet.
const MAX_WAIT_EMPTY: Duration = Duration::from_secs(5);

/// Problems remembered so that each is logged once.
const MAX_REMEMBERED_PROBLEMS: usize = 10_000;

/// Version told to the issuer.
const AGENT_VERSION: &str = concat!("entente-", env!("CARGO_PKG_VERSION"));

/// Fetches entries and bundles.
#[derive(Debug)]
pub struct Synchroniser {
    /// Whom to ask.
    pub issuer: Arc<IssuerClient>,
    /// Where the result goes.
    pub cache: Arc<Cache>,
    /// Where tokens of tainted keys are forgotten.
    pub tokens: JwtCache,
    /// Where the own bundle is kept.
    pub identity: Arc<OwnIdentity>,
    /// Time between two rounds.
    pub interval: Duration,
    /// Time.
    pub clock: SharedClock,
    /// Readiness.
    pub latch: Latch,
    /// Told about every successful round.
    pub signer: Arc<Notify>,
    /// Unix seconds of the last successful round, 0 for never.
    pub last_success: Arc<AtomicI64>,
}

/// What one round brought.
#[derive(Debug, Default)]
struct Round {
    entries: Option<EntryIndex>,
    own: Option<Bundle>,
    federated: Vec<Bundle>,
    /// Trust domains the issuer has no bundle for.
    gone: Vec<TrustDomain>,
    /// What failed.
    failures: Vec<String>,
}

/// Problems already logged, by what they concern, so that a lasting one does not fill the log.
#[derive(Debug, Default)]
struct Problems(HashMap<String, String>);

impl Problems {
    /// Logs the problem unless it is the same as the last one about `subject`.
    fn report(&mut self, subject: &str, problem: String) {
        if self.0.get(subject) == Some(&problem) {
            return;
        }
        tracing::warn!(subject, %problem, "not synchronised");
        if self.0.len() >= MAX_REMEMBERED_PROBLEMS {
            self.0.clear();
        }
        self.0.insert(subject.to_string(), problem);
    }

    /// Logs the end of a problem, if there was one.
    fn solved(&mut self, subject: &str) {
        if self.0.remove(subject).is_some() {
            tracing::info!(subject, "synchronised again");
        }
    }
}

impl Synchroniser {
    /// Runs until the shutdown: a round at once, then one each interval, less often while rounds fail.
    ///
    /// # Errors
    /// None in practice; failures are logged and tried again.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let max = self.interval.saturating_mul(MAX_INTERVALS).min(MAX_WAIT).max(self.interval);
        let mut backoff = Backoff::new(self.interval, max);
        let mut problems = Problems::default();
        let mut greeted = false;
        loop {
            let round = async {
                if !greeted {
                    greeted = true;
                    if let Err(error) = self.issuer.post_status(AGENT_VERSION).await {
                        tracing::debug!(%error, "the issuer was not told the agent's version");
                    }
                }
                self.round(&mut problems).await
            };
            let succeeded = tokio::select! {
                succeeded = round => succeeded,
                () = shutdown.cancelled() => return Ok(()),
            };
            let wait = if succeeded {
                backoff.reset();
                self.interval
            } else if self.cache.x509_svid_count() == 0 {
                backoff.next().min(MAX_WAIT_EMPTY.max(self.interval))
            } else {
                backoff.next()
            };
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// One round; answers whether all of it succeeded.
    async fn round(&self, problems: &mut Problems) -> bool {
        let before = self.cache.snapshot();
        let mut round = Round::default();
        match self.fetch_entries(&before, problems).await {
            Ok(entries) => round.entries = entries,
            Err(error) => round.failures.push(error.to_string()),
        }
        match self.fetch_own_bundle().await {
            Ok(bundle) => round.own = Some(bundle),
            Err(error) => round.failures.push(error.to_string()),
        }
        let wanted = wanted_domains(round.entries.as_ref().unwrap_or(&before.entries));
        self.fetch_federated(&wanted, &mut round, problems).await;

        if let Some(own) = &round.own {
            if let Err(error) = self.identity.set_bundle(own).await {
                tracing::error!(%error, "the bundle could not be saved");
            }
            let tainted: BTreeSet<String> = own
                .jwt_authorities()
                .iter()
                .filter(|authority| authority.tainted())
                .map(|authority| authority.key_id().to_string())
                .collect();
            self.tokens.forget_signed_by(&tainted);
        }
        let failures = std::mem::take(&mut round.failures);
        let now = self.clock.now();
        self.cache.update(|snapshot| apply(snapshot, round, &wanted, failures.is_empty(), now)).await;

        if failures.is_empty() {
            problems.solved("issuer");
            if !before.synced {
                let now = self.cache.snapshot();
                tracing::info!(
                    entries = now.entries.len(),
                    bundles = now.bundles.len(),
                    "synchronised with the issuer"
                );
            }
            self.last_success.store(now.unix_timestamp(), Ordering::Relaxed);
            self.latch.ready();
            self.signer.notify_one();
            return true;
        }
        let failure = failures.join("; ");
        if !self.cache.is_synced() {
            self.latch.not_ready(format!("not synchronised with the issuer yet: {failure}"));
        }
        problems.report("issuer", failure);
        false
    }

    /// The entries, if they differ from those held.
    async fn fetch_entries(
        &self,
        before: &Snapshot,
        problems: &mut Problems,
    ) -> Result<Option<EntryIndex>, IssuerError> {
        let held = &before.entries;
        let synced = self
            .issuer
            .sync_entries(|revision| {
                held.get(&revision.id).is_some_and(|entry| {
                    entry.revision_number == revision.revision_number && entry.created_at == revision.created_at
                })
            })
            .await?;
        let mut entries: BTreeMap<String, Arc<Entry>> = synced
            .unchanged
            .iter()
            .filter_map(|id| held.get(id))
            .map(|entry| (entry.id.clone(), Arc::clone(entry)))
            .collect();
        for received in synced.entries {
            let subject = format!("entry {}", received.id);
            match Entry::from_proto(received, self.identity.trust_domain()) {
                Ok(entry) => {
                    problems.solved(&subject);
                    let entry = match held.get(&entry.id) {
                        Some(held) if **held == entry => Arc::clone(held),
                        _ => Arc::new(entry),
                    };
                    entries.insert(entry.id.clone(), entry);
                }
                Err(EntryError::NoId) => problems.report("entry", EntryError::NoId.to_string()),
                Err(error) => problems.report(&subject, error.to_string()),
            }
        }
        let unchanged = before.synced
            && entries.len() == held.len()
            && entries.values().zip(held.iter()).all(|(new, old)| Arc::ptr_eq(new, old));
        Ok((!unchanged).then(|| EntryIndex::new(entries.into_values())))
    }

    async fn fetch_own_bundle(&self) -> Result<Bundle, IssuerError> {
        let bundle = self.issuer.bundle().await?;
        bundles::from_issuer(&bundle, self.identity.trust_domain())
            .map_err(|reason| IssuerError::Malformed { call: "GetBundle", reason })
    }

    /// Fetches the bundles of these trust domains. One that fails stays as it is and does not disturb the others.
    async fn fetch_federated(&self, wanted: &BTreeSet<TrustDomain>, round: &mut Round, problems: &mut Problems) {
        let fetches = stream::iter(wanted.iter().cloned()).map(|trust_domain| async move {
            let fetched = self.issuer.federated_bundle(&trust_domain).await;
            (trust_domain, fetched)
        });
        let mut fetched = fetches.buffer_unordered(PARALLEL_FETCHES);
        while let Some((trust_domain, fetched)) = fetched.next().await {
            let subject = format!("bundle of {trust_domain}");
            let bundle = match fetched {
                Ok(Some(bundle)) => bundles::from_issuer(&bundle, &trust_domain),
                Ok(None) => {
                    problems.report(&subject, "the issuer has none".into());
                    round.gone.push(trust_domain);
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            match bundle {
                Ok(bundle) => {
                    problems.solved(&subject);
                    round.federated.push(bundle);
                }
                Err(problem) => problems.report(&subject, problem),
            }
        }
    }
}

/// Trust domains the entries federate with.
fn wanted_domains(entries: &EntryIndex) -> BTreeSet<TrustDomain> {
    entries.iter().filter(|entry| entry.is_served()).flat_map(|entry| &entry.federates_with).cloned().collect()
}

/// Takes a round over; answers whether anything changed.
fn apply(
    snapshot: &mut Snapshot,
    round: Round,
    wanted: &BTreeSet<TrustDomain>,
    complete: bool,
    now: time::OffsetDateTime,
) -> bool {
    let mut changed = false;
    if let Some(entries) = round.entries {
        snapshot.set_entries(entries);
        changed = true;
    }
    for bundle in round.own.into_iter().chain(round.federated) {
        changed |= snapshot.set_bundle(bundle, now);
    }
    let own = snapshot.trust_domain.clone();
    let gone: HashSet<&TrustDomain> = round.gone.iter().collect();
    let dropped: Vec<TrustDomain> = snapshot
        .bundles
        .iter()
        .map(|bundle| bundle.trust_domain())
        .filter(|trust_domain| **trust_domain != own && (gone.contains(trust_domain) || !wanted.contains(trust_domain)))
        .cloned()
        .collect();
    for trust_domain in dropped {
        snapshot.bundles.remove(&trust_domain);
        changed = true;
    }
    if complete && !snapshot.synced {
        snapshot.synced = true;
        changed = true;
    }
    changed
}
