//! Several gateways on one PostgreSQL database: each partner is asked by one of them, and each of them knows everything.

use std::{collections::BTreeMap, time::Duration};

use gateway::api::{Health, Relationship, RelationshipList, audit::AuditReport, managed::ApplyResult};
use serde_json::json;
use service_kit::test_postgres::TestDatabase;
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use crate::support::{
    LOCAL, Running, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    receiver::{Answer, Receiver},
    td,
};

/// Enough that two gateways each get some.
const PARTNERS: usize = 12;

struct Scene {
    setup: Setup,
    partners: BTreeMap<String, Partner>,
    database: TestDatabase,
    // Removed when the test ends.
    _password: tempfile::TempDir,
}

impl Scene {
    async fn new(mode: &str) -> Self {
        let mut setup = Setup::new().await;
        let database = TestDatabase::create();
        let folder = tempfile::tempdir().unwrap();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, database.password()).unwrap();
        setup.config["datastore"] = json!({"postgres": {"url": database.url(), "password_file": password_file}});
        setup.config["refresh"]["default_mode"] = json!(mode);
        let mut partners = BTreeMap::new();
        for number in 0..PARTNERS {
            let name = format!("p{number}.example");
            let keys = Authority::new(&td(&name));
            let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
            setup.relate_web(&name, &partner.url());
            partners.insert(name, partner);
        }
        Self { setup, partners, database, _password: folder }
    }

    /// A connection to the database.
    async fn connect(&self) -> sqlx::PgConnection {
        let options: PgConnectOptions = self.database.url().parse().unwrap();
        options.password(self.database.password()).connect().await.unwrap()
    }

    /// Two gateways that have divided the work.
    async fn two(&self) -> (Running, Running) {
        let (one, two) = tokio::join!(self.setup.start_replica("one"), self.setup.start_replica("two"));
        eventually("the work to be divided", || async {
            let holders = holders(&one).await;
            holders == self::holders(&two).await && share(&holders, "one") > 0 && share(&holders, "two") > 0
        })
        .await;
        (one, two)
    }
}

async fn list(gateway: &Running) -> Vec<Relationship> {
    let list: RelationshipList = gateway.admin.get("/v1/relationships").await;
    list.relationships
}

async fn holders(gateway: &Running) -> BTreeMap<String, Option<String>> {
    list(gateway).await.into_iter().map(|one| (one.trust_domain, one.replica)).collect()
}

fn share(holders: &BTreeMap<String, Option<String>>, name: &str) -> usize {
    holders.values().filter(|holder| holder.as_deref() == Some(name)).count()
}

/// A partner the gateway `name` works on.
fn partner_of(holders: &BTreeMap<String, Option<String>>, name: &str) -> String {
    holders.iter().find(|(_, holder)| holder.as_deref() == Some(name)).unwrap().0.clone()
}

async fn all_healthy(gateway: &Running) -> bool {
    list(gateway).await.iter().all(|one| one.health == Health::Healthy && one.deliveries[0].delivered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partner_is_asked_by_one_gateway_and_both_know_everything() {
    let scene = Scene::new("auto").await;
    let (one, two) = scene.two().await;
    for gateway in [&one, &two] {
        eventually("every partner to be fetched and delivered", || all_healthy(gateway)).await;
    }
    assert_eq!(scene.setup.issuer.state().federated.len(), PARTNERS);

    // Asked as often as one gateway alone would, not twice as often.
    let interval =
        |relationship: &Relationship| relationship.next_refresh.unwrap() - relationship.last_attempt.unwrap();
    let shortest = list(&one).await.iter().map(interval).min().unwrap();
    let window = Duration::from_secs(6);
    let before: Vec<usize> = scene.partners.values().map(Partner::requests).collect();
    tokio::time::sleep(window).await;
    let most =
        usize::try_from(window.as_millis() / u128::try_from(shortest.whole_milliseconds().max(1)).unwrap()).unwrap();
    for (partner, before) in scene.partners.values().zip(before) {
        let asked = partner.requests() - before;
        assert!((1..=most + 2).contains(&asked), "asked {asked} times in {window:?}, {most} would be right");
    }

    // What one of them accepts, both hold and the issuer gets.
    for (name, partner) in &scene.partners {
        partner.serve(&Authority::new(&td(name)).bundle(2));
        for gateway in [&one, &two] {
            gateway.wait_held(name, 2).await;
        }
    }
    eventually("delivery of the new bundles", || async {
        scene.setup.issuer.state().federated.values().all(|bundle| bundle.sequence() == Some(2))
    })
    .await;
    let report: AuditReport = one.admin.get("/v1/audit/verify").await;
    assert!(report.ok, "{report:?}");
    let accepted = one.audited().await.into_iter().filter(|(what, _)| what == "bundle.accepted").count();
    assert_eq!(accepted, 2 * PARTNERS, "each bundle is accepted once");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_may_ask_any_gateway() {
    let scene = Scene::new("hold").await;
    let (one, two) = scene.two().await;
    let name = partner_of(&holders(&one).await, "one");
    let partner = &scene.partners[&name];
    eventually("the first bundle to wait at the other gateway", || async {
        two.relationship(&name).await.waiting.is_some()
    })
    .await;
    two.decide(&name, "approve", json!({ "digest": two.relationship(&name).await.waiting.unwrap().digest }))
        .await
        .unwrap();
    one.wait_held(&name, 1).await;
    eventually("delivery", || async { scene.setup.issuer.state().federated.contains_key(&name) }).await;

    two.decide(&name, "freeze", json!({"why": "their incident"})).await.unwrap();
    partner.serve(&Authority::new(&td(&name)).bundle(2));
    eventually("the freeze to be known", || async { one.relationship(&name).await.frozen.is_some() }).await;
    // A decision that rests on what is no more so is not taken.
    let again = one.decide(&name, "freeze", json!({"why": "again"})).await.unwrap_err();
    assert!(again.detail.contains("is frozen already"), "{again:?}");
    assert_eq!(one.relationship(&name).await.held.unwrap().sequence, Some(1));
    two.decide(&name, "unfreeze", json!({"why": "over"})).await.unwrap();
    eventually("the new bundle to wait", || async {
        two.relationship(&name).await.waiting.is_some_and(|waiting| waiting.sequence == Some(2))
    })
    .await;

    // A refresh asked of the one that does not work on it: it does, and gives the work back.
    let before = partner.requests();
    two.refresh(&name, json!({})).await.unwrap();
    assert!(partner.requests() > before);
    eventually("the work to be given back", || async { holders(&two).await[&name].as_deref() == Some("one") }).await;
    let report: AuditReport = two.admin.get("/v1/audit/verify").await;
    assert!(report.ok, "{report:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_hands_over_at_once() {
    let scene = Scene::new("auto").await;
    let (one, two) = scene.two().await;
    eventually("every partner to be fetched and delivered", || all_healthy(&two)).await;
    one.stop().await;
    let stopped = std::time::Instant::now();
    eventually("the other to have everything", || async { share(&holders(&two).await, "two") == PARTNERS }).await;
    assert!(stopped.elapsed() < Duration::from_secs(5), "taken over after {:?}", stopped.elapsed());
    for (name, partner) in &scene.partners {
        partner.serve(&Authority::new(&td(name)).bundle(2));
        two.wait_held(name, 2).await;
    }
    // The issuer of the domain is written by the one that is left.
    eventually("delivery of the new bundles", || async {
        scene.setup.issuer.state().federated.values().all(|bundle| bundle.sequence() == Some(2))
    })
    .await;
    let metrics = two.metrics.render();
    assert!(metrics.contains("entente_gateway_leases_held 256"), "{metrics}");
    assert!(metrics.contains("entente_gateway_replicas 1"), "{metrics}");
    assert_eq!(two.relationship("p0.example").await.local_trust_domains, [LOCAL]);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_managed_through_one_gateway_is_run_by_all_and_told_once() {
    let mut scene = Scene::new("auto").await;
    let receiver = Receiver::start(&scene.setup, Answer::Status(200)).await;
    receiver.configure(&mut scene.setup, "pager", &["relationship.added", "relationship.removed"]);
    let (one, two) = scene.two().await;
    let mut expected = Vec::new();
    for number in 0..6_u8 {
        let name = format!("managed{number}.example");
        let keys = Authority::new(&td(&name));
        let partner = Partner::web(scene.setup.web.server_config(), document(&keys.bundle(1))).await;
        let definition = json!({
            "trust_domain": name, "url": partner.url(), "profile": "https_web", "ca_pem": scene.setup.web.ca_pem(),
        });
        // Made through one of them, fetched by whoever has that part of the work, known to both.
        let (near, far) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        near.admin.post::<ApplyResult>("/v1/apply", &json!({"relationships": [definition]})).await.unwrap();
        eventually("the other to have it", || async { holders(far).await.contains_key(&name) }).await;
        far.wait_held(&name, 1).await;
        near.wait_held(&name, 1).await;

        let gone = http::Request::delete(format!("/v1/relationships/{name}")).body(String::new()).unwrap();
        let answer = far.admin.send(gone).await;
        assert!(answer.status().is_success(), "{answer:?}");
        eventually("the first to be rid of it", || async { !holders(near).await.contains_key(&name) }).await;
        expected.extend([("relationship.added", name.clone()), ("relationship.removed", name)]);
    }
    let told = || -> Vec<(String, String)> {
        let received = receiver.received();
        let managed = received.iter().map(|item| (item.kind(), item.json())).filter_map(|(kind, body)| {
            Some((kind, body["data"]["trust_domain"].as_str().filter(|name| name.starts_with("managed"))?.to_owned()))
        });
        managed.collect()
    };
    eventually("everything to be told", || async { told().len() >= expected.len() }).await;
    let expected: Vec<_> = expected.into_iter().map(|(kind, name)| (kind.to_owned(), name)).collect();
    assert_eq!(told(), expected, "each once, in order, whoever did it");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_whose_commit_was_not_answered_is_found_out() {
    let scene = Scene::new("auto").await;
    let gateway = scene.setup.start_replica("one").await;
    eventually("every partner to be fetched and delivered", || all_healthy(&gateway)).await;
    let (name, partner) = scene.partners.iter().next().unwrap();

    // What the database has when the connection breaks before it could say so.
    let mut database = scene.connect().await;
    for statement in [
        format!(
            "update relationship_controls set frozen_at = 1, frozen_by = 'ada', frozen_why = 'w' where trust_domain = '{name}'"
        ),
        format!("update changes set number = nextval('change_numbers') where kind = 'decision' and name = '{name}'"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.unwrap();
    }
    eventually("the freeze to be known", || async { gateway.relationship(name).await.frozen.is_some() }).await;
    gateway.decide(name, "unfreeze", json!({})).await.unwrap();
    let number =
        format!("update changes set number = nextval('change_numbers') where kind = 'decision' and name = '{name}'");
    sqlx::query(sqlx::AssertSqlSafe(number)).execute(&mut database).await.unwrap();
    partner.serve(&Authority::new(&td(name)).bundle(2));
    gateway.wait_held(name, 2).await;
    gateway.stop().await;
}
