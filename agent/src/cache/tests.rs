use std::time::Duration as StdDuration;

use service_kit::clock::{Clock, ManualClock};
use time::Duration;

use super::{entry::tests::entry, plan::Plan, *};
use crate::testing::authority::{Authority, START};

struct Setup {
    clock: ManualClock,
    authority: Authority,
    cache: Cache,
}

fn setup() -> Setup {
    let clock = ManualClock::new(START);
    let cache = Cache::new(TrustDomain::parse("cloud.example").unwrap(), Arc::new(clock.clone()));
    Setup { clock, authority: Authority::new("cloud.example"), cache }
}

fn selectors(texts: &[&str]) -> Arc<SelectorSet> {
    Arc::new(texts.iter().map(|text| federation_specs::selector::Selector::parse(text).unwrap()).collect())
}

impl Setup {
    async fn synced(&self, entries: Vec<Entry>) {
        let (bundle, now) = (self.authority.bundle(), self.clock.now());
        self.cache
            .update(|snapshot| {
                snapshot.set_entries(EntryIndex::new(entries.into_iter().map(Arc::new)));
                snapshot.set_bundle(bundle, now);
                snapshot.synced = true;
                true
            })
            .await;
    }

    async fn sign(&self, ids: &[&str]) {
        self.sign_for(ids, Duration::HOUR).await;
    }

    async fn sign_for(&self, ids: &[&str], lifetime: Duration) {
        let now = self.clock.now();
        self.cache
            .update(|snapshot| {
                for id in ids {
                    let entry = snapshot.entries.get(id).unwrap();
                    let held = Some(Arc::new(self.authority.svid(entry, now, lifetime)));
                    Arc::make_mut(&mut snapshot.svids).insert((*id).into(), SvidSlot { held, failure: None });
                }
                true
            })
            .await;
    }

    fn plan(&self, max_size: usize) -> Plan {
        Plan::new(&self.cache.snapshot(), &self.cache.followed_entries(), max_size, self.clock.now())
    }
}

fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

fn identities(view: &View) -> Vec<&str> {
    view.x509.iter().flat_map(|answer| &answer.identities).map(|(entry, _)| entry.id.as_str()).collect()
}

async fn is_woken(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(StdDuration::from_millis(20), subscription.changed()).await.is_ok()
}

#[tokio::test]
async fn a_subscriber_waits_until_every_identity_was_tried() {
    let setup = setup();
    setup.synced(vec![entry("a", "a", &["u:1"]), entry("b", "b", &["u:1"]), entry("c", "c", &["u:2"])]).await;
    let mut subscription = setup.cache.subscribe(&selectors(&["u:1"]));
    assert!(subscription.view().x509.is_none() && !subscription.view().is_unknown());
    setup.sign(&["a"]).await;
    assert!(!is_woken(&mut subscription).await, "b has not been tried yet");
    setup
        .cache
        .update(|snapshot| {
            let failure = SigningFailure { attempts: 1, retry_at: OffsetDateTime::UNIX_EPOCH, revision: (0, 1_000) };
            Arc::make_mut(&mut snapshot.svids).insert("b".into(), SvidSlot { held: None, failure: Some(failure) });
            true
        })
        .await;
    assert!(is_woken(&mut subscription).await);
    assert_eq!(identities(&subscription.view()), ["a"]);
    setup.sign(&["c"]).await;
    assert!(!is_woken(&mut subscription).await, "c is for others");
    setup.sign(&["b"]).await;
    assert!(is_woken(&mut subscription).await);
    assert_eq!(identities(&subscription.view()), ["a", "b"]);
}

#[tokio::test]
async fn an_identity_never_carries_the_svid_of_its_former_spiffe_id() {
    let setup = setup();
    setup.synced(vec![entry("a", "old", &["u:1"])]).await;
    setup.sign(&["a"]).await;
    let mut renamed = entry("a", "new", &["u:1"]);
    renamed.revision_number = 1;
    setup.synced(vec![renamed]).await;
    assert!(setup.cache.view(&selectors(&["u:1"])).x509.is_none());
    assert_eq!(ids(&setup.plan(10).sign), ["a"]);
    setup.sign(&["a"]).await;
    let view = setup.cache.view(&selectors(&["u:1"]));
    assert_eq!(view.x509.unwrap().identities[0].1.facts.id.path(), "/new");
}

#[tokio::test]
async fn expired_svids_are_not_handed_out() {
    let setup = setup();
    setup.synced(vec![entry("a", "a", &["u:1"])]).await;
    setup.sign_for(&["a"], Duration::minutes(10)).await;
    let following = setup.cache.subscribe(&selectors(&["u:1"]));
    setup.clock.advance(StdDuration::from_secs(600));
    let mut late = setup.cache.subscribe(&selectors(&["u:1"]));
    assert!(late.view().x509.is_none());
    setup.sign(&["a"]).await;
    assert!(is_woken(&mut late).await);
    assert_eq!(identities(&late.view()), ["a"]);
    drop(following);
}

#[tokio::test]
async fn groups_are_shared_and_end_with_their_last_subscriber() {
    let setup = setup();
    setup.synced(vec![entry("a", "a", &["u:1"])]).await;
    let one = setup.cache.subscribe(&selectors(&["u:1"]));
    let two = setup.cache.subscribe(&selectors(&["u:1"]));
    let other = setup.cache.subscribe(&selectors(&["u:2"]));
    assert_eq!(setup.cache.registry.len(), 2);
    assert_eq!(setup.cache.followed_entries(), ["a".to_string()].into());
    drop((one, other));
    assert_eq!(setup.cache.registry.len(), 1);
    drop(two);
    assert_eq!(setup.cache.registry.len(), 0);
    assert!(setup.cache.followed_entries().is_empty());
}

#[tokio::test]
async fn subscribing_and_updating_at_once_loses_no_change() {
    let setup = Arc::new(setup());
    setup.synced(vec![entry("a", "a", &["u:1"])]).await;
    setup.sign(&["a"]).await;
    let updates = {
        let setup = Arc::clone(&setup);
        tokio::spawn(async move {
            for round in 0..200 {
                let mut changed = entry("a", "a", &["u:1"]);
                changed.hint = format!("{round}");
                setup.synced(vec![changed]).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let mut subscriptions = Vec::new();
    while !updates.is_finished() {
        subscriptions.push(setup.cache.subscribe(&selectors(&["u:1", &format!("n:{}", subscriptions.len())])));
        tokio::task::yield_now().await;
    }
    for mut subscription in subscriptions {
        assert_eq!(subscription.view().entries[0].hint, "199");
    }
}

#[tokio::test]
async fn the_plan_prefers_who_waits_then_who_was_here_last() {
    let setup = setup();
    let entries: Vec<Entry> = ["a", "b", "c", "d", "e"].iter().map(|id| entry(id, id, &[&format!("u:{id}")])).collect();
    setup.synced(entries).await;
    let following = setup.cache.subscribe(&selectors(&["u:e"]));
    let plan = setup.plan(3);
    assert_eq!(ids(&plan.sign), ["e", "a", "b"], "the follower first, then as many as there is room for");
    setup.sign(&["a", "b", "c", "d", "e"]).await;

    setup.clock.advance(StdDuration::from_secs(1));
    let touched = setup.cache.snapshot();
    touched.svids["d"].held.as_ref().unwrap().touch(setup.clock.now());
    let mut plan = setup.plan(3);
    plan.evict.sort();
    assert_eq!(plan.evict, ["b", "c"]);
    assert!(plan.sign.is_empty() && plan.next.is_some());
    // Followed entries are kept even where there is no room at all.
    let mut plan = setup.plan(0);
    plan.evict.sort();
    assert_eq!(plan.evict, ["a", "b", "c", "d"]);
    drop(following);
    assert_eq!(setup.plan(0).evict.len(), 5);
}

#[tokio::test]
async fn entries_without_prefetch_and_stored_ones_wait_for_demand() {
    let setup = setup();
    let (mut lazy, mut stored) = (entry("a", "a", &["u:1"]), entry("b", "b", &["u:1"]));
    lazy.prefetch = false;
    stored.store_svid = true;
    setup.synced(vec![lazy, stored]).await;
    assert!(setup.plan(10).sign.is_empty());
    let _following = setup.cache.subscribe(&selectors(&["u:1"]));
    assert_eq!(ids(&setup.plan(10).sign), ["a"]);
}

#[tokio::test]
async fn failed_and_tainted_svids_are_not_asked_for_without_end() {
    let setup = setup();
    setup.synced(vec![entry("a", "a", &["u:1"])]).await;
    let now = setup.clock.now();
    let failure = SigningFailure { attempts: 1, retry_at: now + Duration::minutes(1), revision: (0, 1_000) };
    setup
        .cache
        .update(|snapshot| {
            Arc::make_mut(&mut snapshot.svids).insert("a".into(), SvidSlot { held: None, failure: Some(failure) });
            true
        })
        .await;
    let plan = setup.plan(10);
    assert!(plan.sign.is_empty());
    assert_eq!(plan.next, Some(now + Duration::minutes(1)));

    setup.sign(&["a"]).await;
    setup.clock.advance(StdDuration::from_secs(1));
    let tainted = {
        let bundle = setup.authority.bundle();
        let authorities = bundle.x509_authorities().iter().map(|authority| authority.clone().with_tainted(true));
        bundle.clone().with_x509_authorities(authorities.collect::<Vec<_>>())
    };
    let now = setup.clock.now();
    setup.cache.update(|snapshot| snapshot.set_bundle(tainted, now)).await;
    assert_eq!(ids(&setup.plan(10).sign), ["a"]);
    // The issuer still signs with the same authority: once more, then not before a minute has passed.
    setup.clock.advance(StdDuration::from_secs(1));
    setup.sign(&["a"]).await;
    assert!(setup.plan(10).sign.is_empty());
    setup.clock.advance(StdDuration::from_secs(61));
    assert_eq!(ids(&setup.plan(10).sign), ["a"]);
}
