//! The runner against a place in memory, with the clock moved by hand.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use federation_specs::{
    bundle::{Bundle, JwtAuthority},
    bundle_json,
    id::TrustDomain,
};
use service_kit::{
    clock::{Clock as _, ManualClock},
    keys::{KeyType, PrivateKey},
    lifecycle::Shutdown,
};
use time::{OffsetDateTime, macros::datetime};
use tokio::task::JoinHandle;

use super::{
    BundlePublisher, PublisherError, PublisherStatus, PublisherStatuses, Runner, Seen, Version, runner::DEADLINE,
};
use crate::{
    config::BundleFormat,
    metrics::GatewayMetrics,
    served::ServedDomain,
    settings::{
        Content, Datastore, EndpointSvidSettings, FilePlace, LocalDomain, PlaceSettings, PublisherSettings,
        SourceSettings,
    },
    store::{Store, publications::PublisherKey, served::OwnChange},
};

const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);
const INTERVAL: Duration = Duration::from_secs(300);

/// What the place holds and how it behaves.
#[derive(Debug, Default)]
struct State {
    document: Option<Vec<u8>>,
    version: u64,
    /// Every document ever written, in order.
    written: Vec<Vec<u8>>,
    reads: usize,
    fail: Option<PublisherError>,
    /// Writes never answer; they are kept to arrive later.
    stuck: bool,
    late: Vec<(Vec<u8>, Seen)>,
}

#[derive(Debug, Clone, Default)]
struct Place(Arc<Mutex<State>>);

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn put(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError> {
        let mut state = self.state();
        let version = seen.version.as_ref().and_then(|version| version.version.clone()).unwrap_or("0".to_owned());
        if version != state.version.to_string() {
            return Err(PublisherError::Conflict);
        }
        state.version += 1;
        state.document = Some(document.to_vec());
        state.written.push(document.to_vec());
        Ok(())
    }
}

#[async_trait]
impl BundlePublisher for Place {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        Ok(bundle_json::encode(bundle))
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let mut state = self.state();
        state.reads += 1;
        if let Some(error) = &state.fail {
            return Err(error.clone());
        }
        let version = Some(Version { e_tag: None, version: Some(state.version.to_string()) });
        Ok(Seen { document: state.document.clone(), version })
    }

    async fn write(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError> {
        let stuck = self.state().stuck;
        if stuck {
            self.state().late.push((document.to_vec(), seen.clone()));
            std::future::pending::<()>().await;
        }
        self.put(document, seen)
    }
}

struct Rig {
    folder: tempfile::TempDir,
    clock: ManualClock,
    domain: Arc<ServedDomain>,
    place: Place,
    store: Store,
    statuses: PublisherStatuses,
    running: Option<(Shutdown, JoinHandle<()>)>,
}

fn datastore(folder: &tempfile::TempDir) -> Datastore {
    Datastore::Sqlite(folder.path().join("gateway.sqlite3"))
}

fn td() -> TrustDomain {
    TrustDomain::parse("cloud.example").unwrap()
}

fn bundle(sequence: u64, keys: &[&str]) -> Bundle {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let keys =
        keys.iter().map(|id| JwtAuthority::new((*id).to_owned(), key.public_key().clone(), None, false).unwrap());
    Bundle::new(td()).with_jwt_authorities(keys).with_sequence(Some(sequence))
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOON);
        let store = Store::open(&datastore(&folder), Arc::new(clock.clone())).await.unwrap();
        let settings = LocalDomain {
            name: td(),
            issuer: None,
            sources: vec![SourceSettings::Issuer],
            path: "/cloud.example".to_owned(),
            hosts: Vec::new(),
            refresh_hint: Duration::from_secs(300),
            endpoint_id: None,
            endpoint_svid: EndpointSvidSettings::Issuer,
            server_names: Vec::new(),
            poll_interval: Duration::from_secs(5),
            oidc: None,
            publishers: Vec::new(),
        };
        let domain = Arc::new(ServedDomain::new(settings, NOON));
        let place = Place::default();
        let statuses = PublisherStatuses::new(store.clone());
        Self { folder, clock, domain, place, store, statuses, running: None }
    }

    async fn start(&mut self) {
        let settings = PublisherSettings {
            name: "memory".to_owned(),
            check_interval: INTERVAL,
            place: PlaceSettings::File(FilePlace {
                path: "/memory".into(),
                mode: 0o644,
                content: Content { format: BundleFormat::Spiffe, refresh_hint: None },
            }),
        };
        let place = self.place.clone();
        let connector: super::runner::Connector = Box::new(move || {
            let place: Arc<dyn BundlePublisher> = Arc::new(place.clone());
            Box::pin(async move { Ok(place) })
        });
        self.statuses = PublisherStatuses::new(self.store.clone());
        let runner = Runner::new(
            (settings, connector),
            Arc::clone(&self.domain),
            self.store.clone(),
            Arc::new(self.clock.clone()),
            GatewayMetrics::new(),
            &self.statuses,
        );
        let shutdown = Shutdown::new();
        let runner = runner.await.unwrap().run(shutdown.clone());
        self.running = Some((shutdown, tokio::spawn(async move { runner.await.unwrap() })));
    }

    async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().unwrap();
        shutdown.trigger();
        task.await.unwrap();
    }

    /// Serves and stores `bundle`, as a source does.
    fn serve(&self, bundle: &Bundle) {
        self.domain.put(self.domain.prepare(bundle, self.clock.now(), true).unwrap());
        self.domain.stored(&self.domain.current().unwrap().digest);
    }

    fn document(&self) -> Vec<u8> {
        self.domain.current().unwrap().document.to_vec()
    }

    fn status(&self) -> PublisherStatus {
        self.statuses.here().remove(0)
    }

    async fn until(&self, what: &str, condition: impl Fn(&PublisherStatus) -> bool) -> PublisherStatus {
        for _ in 0..4000 {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("no {what}: {:?} {:?}", self.status(), self.place.state());
    }

    /// Moves the clock to the next attempt and waits until that was made.
    async fn next_attempt(&self) -> PublisherStatus {
        self.until("sleep", |status| status.state.next_attempt.is_some() && self.clock.next_wake().is_some()).await;
        let before = self.status().state.next_attempt.unwrap();
        self.clock.set(before + Duration::from_millis(1));
        self.until("attempt", |status| status.state.next_attempt.is_some_and(|next| next > before)).await
    }

    async fn audited(&self) -> Vec<String> {
        let query = crate::store::audit::AuditQuery { limit: 100, ..Default::default() };
        let records = self.store.audit_records(&query).await.unwrap();
        records.into_iter().map(|record| record.read().record.unwrap().what.name()).collect()
    }
}

#[tokio::test]
async fn what_is_stored_is_published_and_what_is_only_served_is_not() {
    let mut rig = Rig::new().await;
    rig.start().await;
    rig.domain.publish(&bundle(1, &["a"]), NOON).unwrap();
    rig.until("task", |_| true).await;
    assert_eq!(rig.place.state().reads, 0);
    rig.domain.stored(&rig.domain.current().unwrap().digest);
    let status = rig.until("publication", |status| status.state.last_success.is_some()).await;
    assert_eq!(rig.place.state().document.as_deref(), Some(&*rig.document()));
    let published = status.published.unwrap();
    assert_eq!((published.sequence, published.confirmed_at), (Some(1), NOON));
    assert_eq!(rig.audited().await, ["publication.confirmed"]);
    // Looked at again, not written again.
    assert_eq!(rig.next_attempt().await.state.consecutive_failures, 0);
    assert_eq!(rig.place.state().written.len(), 1);
    assert_eq!(rig.audited().await.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn failures_back_off_and_the_newest_bundle_is_the_one_published_in_the_end() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(1, &["a"]));
    rig.place.state().fail = Some(PublisherError::Denied { action: "reading", reason: "no".to_owned() });
    rig.start().await;
    let status = rig.until("failure", |status| status.state.last_error.is_some()).await;
    assert!(status.state.last_error.unwrap().contains("access denied: no; give this gateway"), "words");
    let mut waits = Vec::new();
    for failures in 2..12 {
        let status = rig.next_attempt().await;
        assert_eq!(status.state.consecutive_failures, failures);
        waits.push((status.state.next_attempt.unwrap() - rig.clock.now()).as_seconds_f64());
    }
    assert!((1.7..=2.3).contains(&waits[0]) && waits[9] <= 331.0 && waits[9] >= 269.0, "{waits:?}");
    rig.serve(&bundle(2, &["a", "b"]));
    rig.until("attempt at the change", |status| status.state.consecutive_failures == 12).await;
    rig.place.state().fail = None;
    let status = rig.next_attempt().await;
    assert_eq!((status.state.consecutive_failures, status.state.last_error), (0, None));
    assert_eq!(rig.place.state().written, [rig.document()]);
    rig.stop().await;
}

#[tokio::test]
async fn a_write_that_was_given_up_and_arrives_late_changes_nothing() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(1, &["a"]));
    rig.place.state().stuck = true;
    rig.start().await;
    rig.until("write", |_| !rig.place.state().late.is_empty()).await;
    rig.clock.advance(DEADLINE);
    let status = rig.until("timeout", |status| status.state.last_error.is_some()).await;
    assert!(status.state.last_error.unwrap().contains("gave up after 30 s"));
    rig.place.state().stuck = false;
    rig.serve(&bundle(2, &["b"]));
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    let (document, seen) = rig.place.state().late.remove(0);
    assert_eq!(rig.place.put(&document, &seen), Err(PublisherError::Conflict));
    assert_eq!(rig.place.state().written, [rig.document()]);
    rig.stop().await;
}

#[tokio::test]
async fn what_somebody_else_changed_is_noticed_and_put_right() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(3, &["a"]));
    rig.start().await;
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    let ours = rig.document();
    for (count, there) in [Some(b"graffiti".to_vec()), None].into_iter().enumerate() {
        rig.place.state().document = there.clone();
        let status = rig.next_attempt().await;
        let drift = status.state.drift.unwrap();
        assert_eq!((drift.count, drift.digest.is_some()), (count as u64 + 1, there.is_some()));
        assert_eq!(rig.place.state().document.as_ref(), Some(&ours));
    }
    let drifted = "publication.drifted";
    assert_eq!(rig.audited().await, ["publication.confirmed", drifted, drifted]);
    rig.stop().await;
}

#[tokio::test]
async fn a_newer_bundle_of_another_gateway_is_left_alone() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(3, &["a"]));
    let newer = bundle_json::encode(&bundle(4, &["a", "b"]));
    rig.place.state().document = Some(newer.clone());
    rig.start().await;
    let status = rig.until("refusal", |status| status.state.last_error.is_some()).await;
    assert!(
        status.state.last_error.unwrap().contains("a newer bundle (sequence 4) than this gateway serves (sequence 3)")
    );
    assert_eq!(rig.place.state().document.as_ref(), Some(&newer));
    // The same content in other words is not newer.
    rig.serve(&bundle(5, &["b"]));
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    assert_eq!(rig.place.state().document.as_deref(), Some(&*rig.document()));
    rig.stop().await;
}

#[tokio::test]
async fn nothing_older_than_what_was_published_is_published_unless_an_operator_had_it_go_back() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(7, &["a"]));
    rig.start().await;
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    let newest = rig.place.state().document.clone();
    // Later, and older by its number. It does not matter what the place holds.
    rig.clock.advance(Duration::from_secs(60));
    rig.serve(&bundle(6, &["a"]));
    for there in [newest, None, Some(b"graffiti".to_vec())] {
        rig.place.state().document = there.clone();
        let status = rig.next_attempt().await;
        let error = status.state.last_error.unwrap();
        assert!(error.starts_with("a newer bundle (sequence 7) was published than this gateway has (sequence 6)"));
        assert_eq!(rig.place.state().document, there);
    }
    assert_eq!(rig.place.state().written.len(), 1);

    let event = crate::store::served::OwnEvent {
        what: crate::audit::Action::SourceAccepted,
        before: serde_json::Value::Null,
        after: serde_json::Value::Null,
        why: "meant".to_owned(),
    };
    let change = OwnChange {
        trust_domain: &td(),
        who: &crate::audit::Actor::Gateway,
        sources: &[],
        events: &[event],
        published: None,
        why: "meant",
    };
    rig.store.save_own(&change).await.unwrap();
    rig.place.state().document = None;
    assert_eq!(rig.next_attempt().await.state.last_error, None);
    assert_eq!(rig.place.state().document.as_deref(), Some(&*rig.document()));
    // From there on it counts again.
    rig.serve(&bundle(5, &["a"]));
    rig.until("refusal", |status| status.state.last_error.is_some()).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_emptied_bundle_replaces_only_what_was_published_from_here() {
    let mut rig = Rig::new().await;
    let foreign = bundle_json::encode(&bundle(1, &["a"]));
    rig.place.state().document = Some(foreign.clone());
    rig.serve(&bundle(2, &[]));
    rig.start().await;
    let status = rig.until("refusal", |status| status.state.last_error.is_some()).await;
    assert!(status.state.last_error.unwrap().contains("has no keys"));
    assert_eq!(rig.place.state().document.as_ref(), Some(&foreign));
    rig.serve(&bundle(3, &["a"]));
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    rig.serve(&bundle(4, &[]));
    rig.until("revocation", |_| rig.place.state().document.as_deref() == Some(&*rig.document())).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_restart_knows_what_was_published_and_writes_nothing() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(1, &["a"]));
    rig.start().await;
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    rig.stop().await;
    rig.store.close().await;
    rig.store = Store::open(&datastore(&rig.folder), Arc::new(rig.clock.clone())).await.unwrap();
    rig.start().await;
    assert_eq!(rig.status().published.unwrap().sequence, Some(1));
    rig.until("look", |status| status.state.last_success.is_some()).await;
    assert_eq!(rig.place.state().written.len(), 1);
    rig.stop().await;
    rig.store.keep_publications(&[]).await.unwrap();
    assert_eq!(rig.store.publication(&PublisherKey::shared(td(), "memory")).await.unwrap(), None);
}

#[tokio::test]
async fn somebody_else_at_the_same_moment_is_a_conflict_and_tried_again() {
    let mut rig = Rig::new().await;
    rig.serve(&bundle(1, &["a"]));
    rig.place.state().version = 1;
    rig.start().await;
    rig.until("publication", |status| status.state.last_success.is_some()).await;
    rig.place.state().fail = Some(PublisherError::Conflict);
    let status = rig.next_attempt().await;
    assert!(status.state.last_error.unwrap().contains("looked at again"));
    rig.place.state().fail = None;
    assert_eq!(rig.next_attempt().await.state.last_error, None);
    rig.stop().await;
}
