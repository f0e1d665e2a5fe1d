//! Sources of the own bundle: the same suite for each kind, and what is made of several.

use std::{path::PathBuf, sync::Arc, time::Duration};

use federation_specs::{bundle::Bundle, bundle_json, profile::EndpointProfile};
use gateway::{
    api::{
        audit::{Actor, AuditPage},
        sources::{AcceptedSources, DomainSources, SourceList},
    },
    config::BundleFileFormat,
    issuer_client::IssuerClient,
    partners::PartnerBundles,
    refresh::clients::Clients,
    served::ServedDomains,
    settings::{NetworkSettings, RefreshLimits},
    source::{
        BundleSource,
        file::FileSource,
        issuer::IssuerSource,
        url::{UrlEndpoint, UrlSource},
        workload_api::WorkloadApiSource,
    },
};
use serde_json::json;
use service_kit::{
    clock::{ManualClock, SystemClock},
    tls::{WebRoots, web_client_config},
};
use tokio::sync::watch;

use crate::support::{
    LOCAL, Running, Setup,
    authority::{Authority, WebAuthority},
    client::Connection,
    eventually,
    issuer::FakeIssuer,
    partner::{Behaviour, Partner},
    td, workload_api,
};

const INTERVAL: Duration = Duration::from_millis(20);

/// Moves what is behind a source.
type Hand = Box<dyn Fn(Option<&Bundle>)>;

/// A source and the hand that moves what is behind it: `Some` is the bundle it gives, `None` breaks it.
struct Rig {
    source: Box<dyn BundleSource>,
    set: Hand,
}

/// What every kind of source does.
async fn conformance(mut rig: Rig) {
    let name = rig.source.describe();
    let (one, two) = (Authority::new(&td(LOCAL)), Authority::new(&td(LOCAL)));
    let bundle = |sequence, authorities: &[&Authority]| {
        one.bundle(sequence)
            .with_x509_authorities(authorities.iter().map(|authority| authority.x509()))
            .with_jwt_authorities(authorities.iter().map(|authority| authority.jwt()))
    };
    let first = bundle(1, &[&one]);
    (rig.set)(Some(&first));
    let given = rig.source.next().await.unwrap();
    assert!(same_keys(&given, &first), "{name}: {given:?}");
    assert_eq!(given.trust_domain(), first.trust_domain(), "{name}");

    let rotated = bundle(2, &[&one, &two]);
    (rig.set)(Some(&rotated));
    until(&mut rig.source, "the rotated bundle", |next| next.is_ok_and(|given| same_keys(&given, &rotated))).await;

    (rig.set)(None);
    let mut text = String::new();
    until(&mut rig.source, "an error", |next| next.map_err(|error| text = error).is_err()).await;
    assert!(text.len() > 20, "{name}: {text}");

    let repaired = bundle(3, &[&two]);
    (rig.set)(Some(&repaired));
    until(&mut rig.source, "the repaired bundle", |next| next.is_ok_and(|given| same_keys(&given, &repaired))).await;
}

fn same_keys(a: &Bundle, b: &Bundle) -> bool {
    gateway::partners::content_digest(a) == gateway::partners::content_digest(b)
}

async fn until(source: &mut Box<dyn BundleSource>, what: &str, mut seen: impl FnMut(Result<Bundle, String>) -> bool) {
    let name = source.describe();
    let look = async {
        while !seen(source.next().await.map_err(|error| error.to_string())) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.unwrap_or_else(|_| panic!("{name}: no {what}"));
}

fn limits() -> RefreshLimits {
    RefreshLimits {
        min_interval: INTERVAL,
        max_interval: INTERVAL,
        timeout: Duration::from_secs(5),
        max_body_bytes: 100_000,
    }
}

fn replace(path: &PathBuf, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Waits until a source of [`LOCAL`] is held, and accepts what it gives.
async fn accept(gateway: &Running, body: &serde_json::Value) -> AcceptedSources {
    let path = format!("/v1/sources/{LOCAL}");
    eventually("a source to be held", || async {
        gateway.admin.get::<DomainSources>(&path).await.sources.iter().any(|source| source.held_digest.is_some())
    })
    .await;
    let get = http::Request::get(&path).body(String::new()).unwrap();
    let tag = gateway.admin.send(get).await.headers()["etag"].clone();
    let post = http::Request::post(format!("{path}/accept")).header("if-match", tag).body(body.to_string()).unwrap();
    serde_json::from_slice(gateway.admin.send(post).await.body()).unwrap()
}

#[tokio::test]
async fn a_file_is_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.json");
    let clock = SystemClock::shared();
    let source = FileSource::new(td(LOCAL), path.clone(), BundleFileFormat::Spiffe, INTERVAL, clock);
    let set = move |bundle: Option<&Bundle>| match bundle {
        Some(bundle) => replace(&path, &bundle_json::encode(bundle)),
        None => replace(&path, b"{\"keys\""),
    };
    conformance(Rig { source: Box::new(source), set: Box::new(set) }).await;
}

#[tokio::test]
async fn a_pem_file_gives_x509_authorities_and_its_faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.pem");
    let clock = SystemClock::shared();
    let mut source = FileSource::new(td(LOCAL), path.clone(), BundleFileFormat::Pem, INTERVAL, clock);
    let error = source.next().await.unwrap_err().to_string();
    assert!(error.contains("bundle.pem cannot be read"), "{error}");
    let bundle = Authority::new(&td(LOCAL)).bundle(1);
    replace(&path, bundle.to_pem().as_bytes());
    let given = source.next().await.unwrap();
    assert_eq!(given.x509_authorities(), bundle.x509_authorities());
    assert_eq!((given.jwt_authorities().len(), given.sequence()), (0, None));
    replace(&path, &bundle_json::encode(&bundle));
    let error = source.next().await.unwrap_err().to_string();
    assert!(error.contains("set format: spiffe"), "{error}");
    replace(&path, &vec![b' '; bundle_json::MAX_BUNDLE_BYTES + 1]);
    let error = source.next().await.unwrap_err().to_string();
    assert!(error.contains("is larger than"), "{error}");
}

#[tokio::test]
async fn a_server_api_is_a_source() {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    let issuer = FakeIssuer::start(LOCAL, folder.path().join("issuer.sock")).await;
    let clock = SystemClock::shared();
    let client = IssuerClient::over_socket(td(LOCAL), issuer.socket(), Arc::clone(&clock));
    let source = IssuerSource::new(client, INTERVAL, clock);
    let set = move |bundle: Option<&Bundle>| {
        let mut state = issuer.state();
        state.refuse_reads = bundle.is_none();
        if let Some(bundle) = bundle {
            state.own = bundle.clone();
        }
    };
    conformance(Rig { source: Box::new(source), set: Box::new(set) }).await;
}

#[tokio::test]
async fn a_workload_api_is_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("workload.sock");
    let (changes, receiver) = watch::channel(None);
    workload_api::serve_bundles(&socket, receiver);
    let source = WorkloadApiSource::new(td(LOCAL), socket, SystemClock::shared());
    let set = move |bundle: Option<&Bundle>| {
        changes.send_replace(bundle.cloned());
    };
    conformance(Rig { source: Box::new(source), set: Box::new(set) }).await;
}

fn loopback() -> Vec<ipnet::IpNet> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

fn url_source(endpoint: UrlEndpoint) -> UrlSource {
    let served = Arc::new(ServedDomains::new(&[], time::OffsetDateTime::now_utc()));
    let network = NetworkSettings { allow_addresses: Vec::new(), nameservers: Vec::new(), proxy: None };
    let clients = Arc::new(Clients::new(&network, SystemClock::shared()));
    UrlSource::new(endpoint, limits(), clients, served, Arc::new(PartnerBundles::default()), SystemClock::shared())
}

fn set_partner(partner: Partner) -> Hand {
    Box::new(move |bundle| match bundle {
        Some(bundle) => partner.serve(bundle),
        None => partner.set(Behaviour::Status(500)),
    })
}

#[tokio::test]
async fn a_web_url_is_a_source() {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    let web = WebAuthority::new();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, web.ca_pem()).unwrap();
    let partner = Partner::web(web.server_config(), Behaviour::Status(500)).await;
    let endpoint = UrlEndpoint {
        trust_domain: td(LOCAL),
        url: partner.url().parse().unwrap(),
        profile: EndpointProfile::HttpsWeb,
        ca_file: Some(ca_file),
        bootstrap_bundle_file: None,
        allow_addresses: loopback(),
    };
    conformance(Rig { source: Box::new(url_source(endpoint.clone())), set: set_partner(partner) }).await;
    let error = url_source(UrlEndpoint { allow_addresses: Vec::new(), ..endpoint }).next().await.unwrap_err();
    assert!(error.to_string().contains("leads to 127.0.0.1, a loopback address"), "{error}");
}

#[tokio::test]
async fn a_spiffe_url_is_a_source() {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    // The endpoint's own domain is another one, whose bundle is in a file.
    let hub = Authority::new(&td("hub.example"));
    let endpoint_id = "spiffe://hub.example/gateway";
    let bootstrap = folder.path().join("hub.json");
    std::fs::write(&bootstrap, bundle_json::encode(&hub.bundle(1))).unwrap();
    let partner = Partner::spiffe(hub.identity(endpoint_id), Behaviour::Status(500)).await;
    let endpoint = UrlEndpoint {
        trust_domain: td(LOCAL),
        url: partner.url().parse().unwrap(),
        profile: EndpointProfile::HttpsSpiffe { endpoint_id: endpoint_id.parse().unwrap() },
        ca_file: None,
        bootstrap_bundle_file: Some(bootstrap),
        allow_addresses: loopback(),
    };
    conformance(Rig { source: Box::new(url_source(endpoint.clone())), set: set_partner(partner) }).await;
    let error = url_source(UrlEndpoint { bootstrap_bundle_file: None, ..endpoint }).next().await.unwrap_err();
    assert!(error.to_string().contains("set bootstrap_bundle_file"), "{error}");
}

async fn served(setup: &Setup, gateway: &Running) -> (Bundle, http::HeaderMap) {
    let roots = WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    let config = web_client_config(&roots, SystemClock::shared(), &[b"http/1.1"]).unwrap();
    let mut client = Connection::open(gateway.web_address, &config).await.unwrap();
    let answer = client.send("GET", &format!("/{LOCAL}"), &[]).await;
    assert_eq!(answer.status(), 200);
    (bundle_json::parse(&td(LOCAL), answer.body()).unwrap().bundle, answer.headers().clone())
}

#[tokio::test]
async fn keys_of_several_sources_are_published_together_and_a_dead_source_keeps_its_own() {
    let mut setup = Setup::new().await;
    let second = Authority::new(&td(LOCAL));
    let file = setup.file("second.json");
    replace(&file, &bundle_json::encode(&second.bundle(10)));
    setup.config["trust_domains"][0]["sources"] = json!([{"file": {"path": file}}]);
    let gateway = setup.start().await;
    eventually("both sources to be published", || async {
        served(&setup, &gateway).await.0.x509_authorities().len() == 2
    })
    .await;
    let (bundle, headers) = served(&setup, &gateway).await;
    assert_eq!(bundle.sequence(), Some(11), "the sum of both");
    assert_eq!(bundle.jwt_authorities().len(), 2);
    assert!(!headers.contains_key("age"));

    std::fs::remove_file(&file).unwrap();
    eventually("the age of what is served to be told", || async {
        served(&setup, &gateway).await.1.contains_key("age")
    })
    .await;
    let list: SourceList = gateway.admin.get("/v1/sources").await;
    assert_eq!(list.sources.len(), 2);
    let dead = list.sources.iter().find(|source| source.source.starts_with("file ")).unwrap();
    assert!(dead.failing_since.is_some() && dead.last_error.as_ref().unwrap().contains("cannot be read"), "{dead:?}");
    assert_eq!((dead.x509_authorities, dead.sequence), (1, Some(10)));
    gateway.stop().await;

    // Another start without the file: its keys are still there.
    let gateway = setup.start().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (bundle, _) = served(&setup, &gateway).await;
    assert_eq!((bundle.x509_authorities().len(), bundle.sequence()), (2, Some(11)));
    gateway.stop().await;
}

#[tokio::test]
async fn a_removed_source_does_not_take_the_sequence_back() {
    let mut setup = Setup::new().await;
    let second = Authority::new(&td(LOCAL));
    let file = setup.file("second.json");
    replace(&file, &bundle_json::encode(&second.bundle(10)));
    let own = setup.issuer.state().own.clone();
    setup.config["trust_domains"][0]["sources"] = json!([{"file": {"path": file}}]);
    let gateway = setup.start().await;
    eventually("both", || async { served(&setup, &gateway).await.0.sequence() == Some(11) }).await;
    gateway.stop().await;

    setup.config["trust_domains"][0]["sources"] = json!([]);
    let gateway = setup.start().await;
    eventually("the issuer's keys alone", || async {
        served(&setup, &gateway).await.0.x509_authorities() == own.x509_authorities()
    })
    .await;
    assert_eq!(served(&setup, &gateway).await.0.sequence(), Some(12), "partners have seen 11");
    gateway.stop().await;

    // It grows as the issuer's does, also after another start and over changes nobody saw.
    setup.issuer.state().own = own.with_jwt_authorities([]).with_sequence(Some(4));
    let gateway = setup.start().await;
    eventually("the change", || async { served(&setup, &gateway).await.0.sequence() == Some(15) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn rolled_back_and_emptied_own_bundles_are_held_until_accepted() {
    let setup = Setup::new().await;
    let own = setup.issuer.state().authority.bundle(5);
    setup.issuer.state().own = own;
    let gateway = setup.start().await;
    let before = served(&setup, &gateway).await.0;
    setup.issuer.state().own = Authority::new(&td(LOCAL)).bundle(2);
    let held = || async {
        let list: SourceList = gateway.admin.get("/v1/sources").await;
        list.sources[0].held.clone()
    };
    eventually("the rollback to be held", || async { held().await.is_some() }).await;
    assert_eq!(held().await.unwrap(), "it went back from sequence 5 to 2");
    let list: SourceList = gateway.admin.get("/v1/sources").await;
    let difference = list.sources[0].held_difference.clone().unwrap();
    assert!(difference.replaces_everything, "what an operator is to judge: {difference:?}");
    assert_eq!((difference.x509.added.len(), difference.x509.removed.len()), (1, 1));
    assert_eq!(list.sources[0].held_sequence, Some(2));
    assert_eq!(served(&setup, &gateway).await.0, before);
    assert!(gateway.readiness.is_ready(), "what is served is still good");
    let reason = gateway.readiness.snapshot()["source"].reason.clone().unwrap();
    assert!(reason.contains("source `issuer` is held"), "{reason}");

    // Not forgotten by a restart.
    gateway.stop().await;
    let gateway = setup.start().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(served(&setup, &gateway).await.0, before);

    let why = json!({"why": "the issuer was restored"});
    let accepted: AcceptedSources = accept(&gateway, &why).await;
    assert_eq!(accepted.accepted, ["issuer"]);
    // The number goes on, so that partners take the bundle.
    assert_eq!(served(&setup, &gateway).await.0.sequence(), Some(6));
    setup.issuer.state().own = Bundle::new(td(LOCAL)).with_sequence(Some(3));
    eventually("the emptied bundle to be held", || async {
        let list: SourceList = gateway.admin.get("/v1/sources").await;
        list.sources[0].held.as_ref().is_some_and(|held| held.contains("lost all its keys"))
    })
    .await;
    let _: AcceptedSources = accept(&gateway, &json!({})).await;
    let emptied = served(&setup, &gateway).await.0;
    assert!(emptied.is_empty());
    assert_eq!(emptied.sequence(), Some(7));

    // Every step has its record, once, restart or not.
    let page: AuditPage = gateway.admin.get(&format!("/v1/audit?subject={LOCAL}")).await;
    let records: Vec<_> = page.records.into_iter().map(|entry| entry.record.unwrap()).collect();
    let done: Vec<String> = records.iter().map(|record| record.what.name()).collect();
    let steps = ["source.held", "source.accepted", "own_bundle.changed"];
    assert_eq!(done, [&["own_bundle.changed"][..], &steps, &steps].concat());
    let [first, held, accepted, changed, ..] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(first.why, "source `issuer` gave it");
    assert_eq!((held.who.to_string(), held.why.as_str()), ("gateway".into(), "it went back from sequence 5 to 2"));
    assert_eq!((&held.before["sequence"], &held.after["sequence"]), (&json!(5), &json!(2)));
    assert_eq!(held.after["source"], "issuer");
    assert!(matches!(accepted.who, Actor::User { .. }) && accepted.who == changed.who);
    assert_eq!((accepted.why.as_str(), changed.why.as_str()), ("the issuer was restored", "the issuer was restored"));
    assert_eq!(accepted.after["held_because"], "it went back from sequence 5 to 2");
    assert_eq!(changed.before["digest"], first.after["digest"]);
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_withdrew_all_its_keys_can_take_that_back() {
    let mut setup = Setup::new().await;
    let endpoint_id = format!("spiffe://{LOCAL}/endpoint");
    let (identity, own) = {
        let state = setup.issuer.state();
        (state.authority.identity(&endpoint_id), state.authority.bundle(3))
    };
    let partner = Partner::spiffe(identity, crate::support::partner::document(&own)).await;
    setup.config["trust_domains"][0]["sources"] = json!([{
        "url": {"url": partner.url(), "profile": "https_spiffe", "endpoint_spiffe_id": endpoint_id},
    }]);
    let gateway = setup.start().await;
    let source = async || {
        let list: SourceList = gateway.admin.get("/v1/sources").await;
        list.sources[1].clone()
    };
    eventually("its keys", || async { source().await.sequence == Some(3) }).await;
    partner.serve(&Bundle::new(td(LOCAL)).with_sequence(Some(4)).with_refresh_hint(Some(Duration::from_secs(4))));
    eventually("the hold", || async { source().await.held.is_some() }).await;
    partner.serve(&own.with_sequence(Some(5)));
    eventually("the recovery", || async { source().await.sequence == Some(5) }).await;
    assert!(source().await.held.is_none() && source().await.failing_since.is_none());
    gateway.stop().await;
}

#[tokio::test]
async fn a_workload_api_that_takes_calls_and_says_nothing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    // Connections wait in the kernel's queue.
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let clock = ManualClock::new(time::OffsetDateTime::now_utc());
    let mut source = WorkloadApiSource::new(td(LOCAL), socket, Arc::new(clock.clone()));
    let next = tokio::spawn(async move { source.next().await.map_err(|error| error.to_string()) });
    while !next.is_finished() {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = next.await.unwrap().unwrap_err();
    assert!(error.contains("sent no bundle within 30s"), "{error}");
}

#[tokio::test]
async fn what_a_stream_gave_is_stored_although_the_database_was_locked_and_it_says_no_more() {
    let mut setup = Setup::new().await;
    let socket = setup.file("agent.sock");
    let (agent, bundles) = watch::channel(Some(Authority::new(&td("static.example")).bundle(1)));
    workload_api::serve_bundles(&socket, bundles);
    setup.config["trust_domains"].as_array_mut().unwrap().push(json!({
        "name": "static.example",
        "sources": [{"workload_api": {"socket_path": socket}}],
    }));
    let gateway = setup.start().await;
    let changes = async || {
        let log = gateway.audited().await;
        log.iter().filter(|(what, subject)| what == "own_bundle.changed" && subject == "static.example").count()
    };
    eventually("the first bundle", || async { changes().await == 1 }).await;

    let database = format!("sqlite://{}", setup.file("data/gateway.sqlite3").display());
    sqlx::any::install_default_drivers();
    let mut other = <sqlx::AnyConnection as sqlx::Connection>::connect(&database).await.unwrap();
    sqlx::raw_sql("begin immediate").execute(&mut other).await.unwrap();
    agent.send_replace(Some(Authority::new(&td("static.example")).bundle(1)));
    // Longer than the gateway waits for the lock.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let list: SourceList = gateway.admin.get("/v1/sources").await;
    let source = list.sources.into_iter().find(|source| source.trust_domain == "static.example").unwrap();
    assert!(source.failing_since.is_none(), "the source answered: {source:?}");
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    // Its X.509 authorities and its JWT keys come one after the other.
    eventually("the second bundle", || async { changes().await == 3 }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_held_source_that_recovers_is_recorded_too() {
    let setup = Setup::new().await;
    let own = setup.issuer.state().authority.bundle(5);
    setup.issuer.state().own = own.clone();
    let gateway = setup.start().await;
    setup.issuer.state().own = own.clone().with_sequence(Some(1));
    let recorded = |what: &'static str| {
        let gateway = &gateway;
        async move { gateway.audited().await.iter().any(|(done, _)| done == what) }
    };
    eventually("the hold to be recorded", || recorded("source.held")).await;
    setup.issuer.state().own = own.with_sequence(Some(6));
    eventually("the release to be recorded", || recorded("source.released")).await;
    let done = gateway.audited().await;
    let done: Vec<&str> = done.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(done, ["own_bundle.changed", "source.held", "source.released", "own_bundle.changed"]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_domain_without_issuer_is_served_from_its_sources() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td("static.example"));
    let file = setup.file("static.pem");
    replace(&file, keys.bundle(1).to_pem().as_bytes());
    setup.config["trust_domains"].as_array_mut().unwrap().push(json!({
        "name": "static.example",
        "sources": [{"file": {"path": file, "format": "pem"}}],
    }));
    let gateway = setup.start().await;
    let roots = WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    let config = web_client_config(&roots, SystemClock::shared(), &[b"http/1.1"]).unwrap();
    let mut client = Connection::open(gateway.web_address, &config).await.unwrap();
    let answer = client.send("GET", "/static.example", &[]).await;
    let bundle = bundle_json::parse(&td("static.example"), answer.body()).unwrap().bundle;
    assert_eq!((bundle.x509_authorities().len(), bundle.sequence()), (1, None));
    gateway.stop().await;
}
