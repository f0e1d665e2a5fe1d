//! What every publisher does, whatever the place.

use async_trait::async_trait;
use federation_specs::{bundle::Bundle, bundle_json};
use gateway::api::{
    publishers::{Publisher, PublisherHealth, PublisherList},
    sources::SourceList,
};
use serde_json::{Value, json};

use crate::support::{LOCAL, Running, Setup, authority::Authority, client::Admin, eventually, td};

/// A place and the hands of somebody else in it.
#[async_trait]
pub trait Place: Send {
    /// The publisher's configuration: kind and keys.
    fn config(&self) -> Value;

    /// The document the place should hold for a bundle.
    fn document(&self, bundle: &Bundle) -> Vec<u8>;

    /// What the place holds, asked behind the gateway's back.
    async fn held(&self) -> Option<Vec<u8>>;

    /// Changes with every write.
    async fn version(&self) -> String;

    /// Puts something there behind the gateway's back.
    async fn put(&self, document: &[u8]);

    /// Removes it; `false` where nobody can.
    async fn remove(&self) -> bool;

    /// Refuses the gateway, or lets it in again. Answers words of its error.
    async fn deny(&self, denied: bool) -> &'static str;

    /// Answers nobody, or everybody again. `false` if it cannot.
    async fn down(&self, down: bool) -> bool;

    /// Whether documents carry sequence numbers.
    fn has_sequence(&self) -> bool;
}

const PATH: &str = "/v1/publishers";

pub async fn status(gateway: &impl AsRef<Admin>) -> Publisher {
    let mut list: PublisherList = gateway.as_ref().get(PATH).await;
    assert_eq!(list.publishers.len(), 1);
    list.publishers.remove(0)
}

pub async fn until(gateway: &impl AsRef<Admin>, what: &str, condition: impl Fn(&Publisher) -> bool) -> Publisher {
    let seen = std::sync::Mutex::new(None);
    let look = async {
        loop {
            let now = status(gateway).await;
            if condition(&now) {
                return now;
            }
            *seen.lock().unwrap() = Some(now);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(40), look).await;
    found.unwrap_or_else(|_| panic!("no {what}: {:#?}", seen.lock().unwrap()))
}

/// A gateway that publishes to `place`.
pub async fn setup(place: Value) -> Setup {
    let mut setup = Setup::new().await;
    let mut publisher = json!({"name": "place", "check_interval": "1s"});
    publisher.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    setup.config["trust_domains"][0]["publishers"] = json!([publisher]);
    setup
}

/// The served bundle.
async fn served(gateway: &Running) -> Bundle {
    let path = format!("/v1/bundles/{LOCAL}");
    let request = http::Request::get(path).body(String::new()).unwrap();
    let response = gateway.admin.send(request).await;
    bundle_json::parse(&td(LOCAL), response.body()).unwrap().bundle
}

struct Suite<'a, P> {
    place: &'a P,
    setup: Setup,
    gateway: Option<Running>,
}

impl<P: Place> Suite<'_, P> {
    fn gateway(&self) -> &Running {
        self.gateway.as_ref().unwrap()
    }

    /// The issuer gives a bundle with other keys.
    fn rotate(&self, sequence: u64) {
        let mut state = self.setup.issuer.state();
        let new = Authority::new(&td(LOCAL));
        let own = state.authority.bundle(sequence);
        state.own = own.with_x509_authorities([state.authority.x509(), new.x509()]).with_jwt_authorities([new.jwt()]);
    }

    async fn published(&self, sequence: u64) -> Vec<u8> {
        let what = format!("publication of {sequence}");
        until(self.gateway(), &what, |now| {
            let published = now.published.as_ref().is_some_and(|published| published.sequence == Some(sequence));
            published && now.health == PublisherHealth::Healthy
        })
        .await;
        let expected = self.place.document(&served(self.gateway()).await);
        let held = self.place.held().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&held), String::from_utf8_lossy(&expected));
        expected
    }

    async fn next_look(&self) -> Publisher {
        let before = status(self.gateway()).await.last_attempt;
        until(self.gateway(), "look", |now| now.last_attempt > before).await
    }

    async fn failing(&self, words: &str) -> Publisher {
        let now = until(self.gateway(), "failure", |now| now.health == PublisherHealth::Failing).await;
        let error = now.last_error.clone().unwrap();
        assert!(error.contains(words), "{error}");
        now
    }
}

/// Runs the suite. `place` is empty, or holds what nobody needs.
pub async fn conformance(place: &impl Place) {
    let setup = setup(place.config()).await;
    let gateway = Some(setup.start().await);
    let mut suite = Suite { place, setup, gateway };

    // Published, and left alone when nothing changes.
    suite.published(1).await;
    let version = place.version().await;
    suite.next_look().await;
    assert_eq!(place.version().await, version);

    // A change is published.
    suite.rotate(2);
    let second = suite.published(2).await;
    assert_ne!(place.version().await, version);

    // What somebody else changed is seen and put right.
    place.put(&place.document(&Authority::new(&td(LOCAL)).bundle(1))).await;
    let drift = until(suite.gateway(), "drift", |now| now.drift.is_some()).await.drift.unwrap();
    assert!(drift.digest.is_some());
    eventually("the place to be put right", || async { place.held().await.as_ref() == Some(&second) }).await;
    if place.remove().await {
        let removed = |now: &Publisher| now.drift.as_ref().is_some_and(|drift| drift.digest.is_none());
        until(suite.gateway(), "removal", removed).await;
        eventually("the document to be there again", || async { place.held().await.as_ref() == Some(&second) }).await;
    }
    until(suite.gateway(), "recovery", |now| now.health == PublisherHealth::Healthy).await;

    // Denied: nothing changes, the error says so, and it ends by itself.
    let words = place.deny(true).await;
    suite.rotate(3);
    suite.failing(words).await;
    place.deny(false).await;
    let third = suite.published(3).await;

    // Down: the newest bundle is published in the end.
    if place.down(true).await {
        suite.failing("no answer: ").await;
        suite.rotate(4);
        eventually("the gateway to serve 4", || async { served(suite.gateway()).await.sequence() == Some(4) }).await;
        suite.rotate(5);
        eventually("the gateway to serve 5", || async { served(suite.gateway()).await.sequence() == Some(5) }).await;
        place.down(false).await;
        assert_eq!(place.held().await, Some(third));
    } else {
        suite.rotate(5);
    }
    let fifth = suite.published(5).await;

    // An emptied bundle is held before it is served, so it is published nowhere.
    {
        let mut state = suite.setup.issuer.state();
        state.own = Bundle::new(td(LOCAL)).with_sequence(Some(6));
    }
    eventually("the emptied bundle to be held", || async {
        let sources: SourceList = suite.gateway().admin.get("/v1/sources").await;
        sources.sources[0].held.is_some()
    })
    .await;
    suite.next_look().await;
    assert_eq!(place.held().await, Some(fifth));

    // A restart writes nothing.
    let version = place.version().await;
    suite.gateway.take().unwrap().stop().await;
    suite.rotate(5);
    suite.setup.issuer.state().refuse_reads = true;
    suite.gateway = Some(suite.setup.start().await);
    assert_eq!(status(suite.gateway()).await.published.unwrap().sequence, Some(5));
    until(suite.gateway(), "look after the restart", |now| now.last_success.is_some()).await;
    assert_eq!(place.version().await, version);

    // Somebody else's newer bundle stays.
    if place.has_sequence() {
        let newer = place.document(&Authority::new(&td(LOCAL)).bundle(100));
        place.put(&newer).await;
        suite.failing("holds a newer bundle (sequence 100) than this gateway serves (sequence 5)").await;
        assert_eq!(place.held().await, Some(newer));
    }

    let gateway = suite.gateway.take().unwrap();
    gateway.verify_audit().await;
    let audited = gateway.audited().await;
    let count =
        |what: &str| audited.iter().filter(|record| **record == (what.to_owned(), format!("{LOCAL} at place"))).count();
    assert_eq!(count("publication.confirmed"), 4, "{audited:?}");
    assert!(count("publication.drifted") >= 1, "{audited:?}");
    gateway.stop().await;
}

/// The X.509 authorities as PEM, oldest first.
pub fn pem(bundle: &Bundle) -> Vec<u8> {
    let mut authorities = bundle.x509_authorities().to_vec();
    authorities.sort_by(|a, b| (a.not_before(), a.der()).cmp(&(b.not_before(), b.der())));
    Bundle::new(bundle.trust_domain().clone()).with_x509_authorities(authorities).to_pem().into_bytes()
}
