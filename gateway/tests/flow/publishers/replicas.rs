//! Several gateways on one PostgreSQL database: one of them publishes to each place, all of them to their own files.

use std::time::{Duration, Instant};

use federation_specs::{bundle::Bundle, bundle_json};
use gateway::api::publishers::{Publisher, PublisherHealth, PublisherList};
use serde_json::{Value, json};
use service_kit::test_postgres::TestDatabase;

use super::{
    azure::{Blob, blob},
    conformance::{Place as _, setup},
};
use crate::support::{LOCAL, Running, Setup, authority::Authority, eventually, issuer::FakeIssuer, td};

/// Lease of a gateway that died, and time to notice.
const TAKEOVER: Duration = Duration::from_secs(10 + 3);

/// A gateway that publishes to a blob and to a file of its own.
async fn scene(place: &Blob) -> Setup {
    let mut setup = setup(place.config()).await;
    let database = TestDatabase::create();
    let password_file = setup.file("password");
    std::fs::write(&password_file, database.password()).unwrap();
    setup.config["datastore"] = json!({"postgres": {"url": database.url(), "password_file": password_file}});
    let publishers = setup.config["trust_domains"][0]["publishers"].as_array_mut().unwrap();
    publishers[0]["azure_blob"]["format"] = json!("spiffe");
    publishers.push(json!({"name": "local", "check_interval": "1s", "file": {"path": "set below"}}));
    setup
}

fn file(setup: &Setup, name: &str) -> std::path::PathBuf {
    setup.file(&format!("published-by-{name}.json"))
}

async fn start(setup: &Setup, name: &str, differ: impl FnOnce(&mut Value)) -> Running {
    let path = file(setup, name);
    let differ = |config: &mut Value| {
        config["trust_domains"][0]["publishers"][1]["file"]["path"] = json!(path);
        differ(config);
    };
    setup.start_replica_with(name, differ).await
}

async fn publisher(gateway: &Running, name: &str) -> Publisher {
    let list: PublisherList = gateway.admin.get("/v1/publishers").await;
    list.publishers.into_iter().find(|publisher| publisher.name == name).unwrap()
}

/// How many parts of the work a gateway has.
fn parts(gateway: &Running) -> usize {
    let metrics = gateway.metrics.render();
    let line = metrics.lines().find_map(|line| line.strip_prefix("entente_gateway_leases_held "));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Two gateways with their names, first the one that publishes, once the work is divided and both say the same.
async fn divided(one: Running, two: Running) -> [(Running, &'static str); 2] {
    eventually("both to name the same gateway", || async {
        let are_divided = parts(&one) > 0 && parts(&two) > 0 && parts(&one) + parts(&two) == 256;
        let (first, second) = (publisher(&one, "place").await, publisher(&two, "place").await);
        let said =
            |one: &Publisher| (one.replica.clone(), one.published.as_ref().map(|it| it.digest.clone()), one.health);
        let is_well = first.replica.is_some() && first.published.is_some() && first.health == PublisherHealth::Healthy;
        are_divided && is_well && said(&first) == said(&second)
    })
    .await;
    match publisher(&one, "place").await.replica.as_deref() {
        Some("one") => [(one, "one"), (two, "two")],
        _ => [(two, "two"), (one, "one")],
    }
}

fn sequence(document: Option<Vec<u8>>) -> Option<u64> {
    bundle_json::parse(&td(LOCAL), &document?).unwrap().bundle.sequence()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_publishes_all_know_how_it_is_doing_and_the_other_takes_over() {
    let place = blob().await;
    let setup = scene(&place).await;
    let (one, two) = tokio::join!(start(&setup, "one", |_| {}), start(&setup, "two", |_| {}));
    let [(holder, name), (other, other_name)] = divided(one, two).await;
    assert_eq!(place.version().await, "1", "written once");
    let series = |gateway: &Running, publisher: &str| {
        let gauge = "entente_gateway_publisher_seconds_since_success{";
        let label = format!("publisher=\"{publisher}\"");
        gateway.metrics.render().lines().any(|line| line.starts_with(gauge) && line.contains(&label))
    };
    assert!(series(&holder, "place") && !series(&other, "place"), "only one of them looks at the place");

    // Files are each machine's own.
    for (gateway, name) in [(&holder, name), (&other, other_name)] {
        eventually("the file", || async {
            sequence(std::fs::read(file(&setup, name)).ok()) == Some(1)
                && publisher(gateway, "local").await.health == PublisherHealth::Healthy
        })
        .await;
        assert_eq!(publisher(gateway, "local").await.replica.as_deref(), Some(name));
        assert!(series(gateway, "local"));
    }

    // A failure shows everywhere.
    let words = place.deny(true).await;
    eventually("the failure to show at the other gateway", || async {
        let list: PublisherList = other.admin.get("/v1/publishers?failing=true").await;
        let error = list.publishers.first().and_then(|publisher| publisher.last_error.clone());
        list.publishers.len() == 1 && error.is_some_and(|error| error.contains(words))
    })
    .await;
    let failing = publisher(&other, "place").await;
    assert!(failing.consecutive_failures > 0 && failing.next_attempt.is_some(), "{failing:?}");
    place.deny(false).await;

    // The one that dies has no last word, and the other goes on within seconds.
    holder.kill().await;
    let killed = Instant::now();
    let next = setup.issuer.state().authority.bundle(2);
    setup.issuer.state().own = next;
    eventually("the other gateway to publish", || async { sequence(place.held().await) == Some(2) }).await;
    assert!(killed.elapsed() < TAKEOVER, "after {:?}", killed.elapsed());
    eventually("the other gateway to say so", || async {
        let now = publisher(&other, "place").await;
        now.replica.as_deref() == Some(other_name) && now.health == PublisherHealth::Healthy
    })
    .await;
    eventually("its file", || async { sequence(std::fs::read(file(&setup, other_name)).ok()) == Some(2) }).await;

    let audited = other.audited().await;
    let count = |what: &str, subject: &str| {
        audited.iter().filter(|(event, about)| event == what && *about == format!("{LOCAL} at {subject}")).count()
    };
    assert_eq!(count("publication.confirmed", "place"), 2, "{audited:?}");
    assert_eq!(count("publication.confirmed", &format!("local on {other_name}")), 2, "{audited:?}");
    assert!(audited.iter().all(|(what, _)| what != "publication.drifted"), "{audited:?}");
    other.verify_audit().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_source_lags_behind_publishes_what_another_one_stored() {
    let place = blob().await;
    let setup = scene(&place).await;
    // Two issuers of the domain, which know each other's authorities.
    let others = FakeIssuer::start(LOCAL, setup.file("issuer-of-two.sock")).await;
    let own = |sequence: u64| {
        let (first, second) = (setup.issuer.state(), others.state());
        first.authority.bundle(sequence).with_x509_authorities([first.authority.x509(), second.authority.x509()])
    };
    let (bundle, own_of_two) = (own(1), own(1));
    setup.issuer.state().own = bundle;
    others.state().own = own_of_two;
    let socket = others.socket().to_owned();
    let of_two = |config: &mut Value| config["trust_domains"][0]["issuer"]["socket_path"] = json!(socket);
    let (one, two) = tokio::join!(start(&setup, "one", |_| {}), start(&setup, "two", of_two));
    let [(lagging, name), (leading, leading_name)] = divided(one, two).await;
    let issuer_of = |name: &str| if name == "one" { &setup.issuer } else { &others };

    let new = Authority::new(&td(LOCAL));
    let rotated = |sequence: u64| -> Bundle {
        let bundle = own(sequence);
        let x509: Vec<_> = bundle.x509_authorities().iter().cloned().chain([new.x509()]).collect();
        bundle.with_x509_authorities(x509)
    };
    let third = rotated(3);
    issuer_of(leading_name).state().own = third.clone();
    eventually("the newer bundle", || async { sequence(place.held().await) == Some(3) }).await;
    assert_eq!(publisher(&leading, "place").await.replica.as_deref(), Some(name), "published by the one that lags");
    eventually("its file", || async { sequence(std::fs::read(file(&setup, name)).ok()) == Some(3) }).await;

    // It comes to something in between, and writes that nowhere.
    let second = rotated(2);
    issuer_of(name).state().own = second;
    let attempts = || async { publisher(&lagging, "place").await.last_attempt };
    eventually("the step in between", || async {
        lagging.audited().await.iter().filter(|(what, _)| what == "own_bundle.changed").count() >= 3
    })
    .await;
    for _ in 0..2 {
        let before = attempts().await;
        eventually("another look", || async { attempts().await > before }).await;
        assert_eq!(sequence(place.held().await), Some(3));
        assert_eq!(sequence(std::fs::read(file(&setup, name)).ok()), Some(3));
    }
    issuer_of(name).state().own = third;
    eventually("everybody to be well", || async {
        publisher(&leading, "place").await.health == PublisherHealth::Healthy
            && publisher(&lagging, "local").await.health == PublisherHealth::Healthy
    })
    .await;
    assert_eq!(place.version().await, "2", "each bundle once");
    lagging.stop().await;
    leading.stop().await;
}
