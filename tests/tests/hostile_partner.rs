//! A partner's endpoint that is slow, wrong or hostile: each time the refresh fails with its documented error, the
//! bundle held stays, and neither other partners nor local identities notice.

use std::time::Duration;

use anyhow::{Result, ensure};
use entente_tests::{
    documented::documented,
    domain::Domain,
    partner::{Behaviour, Partner},
    peer::Peer,
    plan::Plan,
    wait,
    workload::Workload,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Deadline of one fetch in these tests.
const FETCH_LIMIT: Duration = Duration::from_secs(2);

/// A domain whose one partner, `partner.example`, is under the test's control; its good bundle is held already.
struct Scene {
    domain: Domain,
    partner: Partner,
    good: Value,
}

impl Scene {
    async fn start() -> Result<Self> {
        let mut plan = Plan::new("cloud.example")?;
        // A real bundle to begin with: that of a domain made by go-spiffe.
        let (certificate, key) = (plan.web_certificate().display().to_string(), plan.web_key().display().to_string());
        let arguments =
            ["-trust-domain", "partner.example", "-profile", "https_web", "-cert", &certificate, "-key", &key];
        let mut authority = Peer::go(&plan.file("."), "federation-server", &arguments)?;
        let made = authority.event("listening").await?;
        authority.finish().await?;
        let good: Value = serde_json::from_str(made["json"].as_str().unwrap_or_default())?;

        let partner = Partner::start(plan.web(), Behaviour::Serve(good.to_string())).await?;
        plan.relationship(json!({
            "trust_domain": "partner.example",
            "url": partner.url(),
            "profile": "https_web",
            "ca_file": plan.web_ca(),
        }));
        let plan = plan.gateway(
            "refresh",
            json!({
                "min_interval": "1s",
                "timeout": "2s",
                "max_body_bytes": 100_000,
                "allow_addresses": ["127.0.0.1"],
            }),
        );
        let mut domain = Domain::from_plan(plan);
        domain.start_all().await?;
        wait::until("the good bundle arrived", || async {
            domain.federated_authorities("spiffe://partner.example").await
        })
        .await?;
        Ok(Self { domain, partner, good })
    }

    /// Refreshes while the partner behaves like this: must be refused with `texts`, in time, and change nothing.
    async fn refused(&self, behaviour: Behaviour, texts: &[&str]) -> Result<()> {
        let before = self.domain.federated_authorities("spiffe://partner.example").await?;
        let shown = format!("{behaviour:?}").chars().take(80).collect::<String>();
        self.partner.behave(behaviour);
        let begin = Instant::now();
        let answer = self.domain.gateway_cli(&["relationship", "refresh", "partner.example"]).await?;
        answer.refused(texts).map_err(|error| error.context(shown.clone()))?;
        ensure!(begin.elapsed() < FETCH_LIMIT + Duration::from_secs(8), "{shown}: refused after {:?}", begin.elapsed());
        let after = self.domain.federated_authorities("spiffe://partner.example").await?;
        ensure!(before == after, "{shown}: the bundle changed from {before:?} to {after:?}");
        Ok(())
    }

    /// Refreshes while the partner serves `bundle`: must be accepted.
    async fn accepted(&self, bundle: &Value) -> Result<()> {
        self.partner.behave(Behaviour::Serve(bundle.to_string()));
        self.domain.gateway_cli(&["relationship", "refresh", "partner.example"]).await?.ok().map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_broken_answers() -> Result<()> {
    let scene = Scene::start().await?;
    let good = scene.good.to_string();
    scene.refused(Behaviour::Silence, &[documented("did not answer within")?]).await?;
    scene.refused(Behaviour::Drip, &[documented("did not answer within")?]).await?;
    scene.refused(Behaviour::Flood, &[documented("bytes, the most accepted")?]).await?;
    scene.refused(Behaviour::Cut, &[documented("fetching")?]).await?;
    scene.refused(Behaviour::Status(500, good.clone()), &[documented("answered 500")?]).await?;
    scene.refused(Behaviour::Status(404, good.clone()), &["answered 404"]).await?;
    scene.refused(Behaviour::Redirect("http://localhost/".to_owned()), &[documented("which is refused")?]).await?;
    scene.refused(Behaviour::Redirect(scene.partner.url()), &[documented("redirects more than")?]).await?;

    // Meanwhile and afterwards everything else works.
    scene.partner.behave(Behaviour::Silence);
    scene.domain.create_entry("/web", &[]).await?;
    Workload::join(&scene.domain.endpoint_socket()).await?;
    scene.accepted(&scene.good).await?;
    scene.domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_no_bundle() -> Result<()> {
    let scene = Scene::start().await?;
    let not_acceptable = documented("the endpoint's answer is not an acceptable SPIFFE bundle")?;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut bundle = scene.good.clone();
        change(&mut bundle);
        bundle.to_string()
    };
    let twice = scene.good.to_string().replacen("{\"keys\"", "{\"keys\":[],\"keys\"", 1);
    let deep = format!("{{\"keys\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let bodies = [
        String::new(),
        "no JSON".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "{\"keys\": null}".to_owned(),
        twice,
        deep,
        with(&|bundle| bundle["keys"][0]["x5c"] = json!("AAAA")),
        with(&|bundle| bundle["keys"][0]["x5c"] = json!(["AAAA"])),
        with(&|bundle| bundle["keys"][1]["kid"] = json!("")),
        with(&|bundle| bundle["spiffe_sequence"] = json!(-1)),
    ];
    for body in bodies {
        scene.refused(Behaviour::Serve(body), &[not_acceptable]).await?;
    }
    scene.accepted(&scene.good).await?;
    scene.domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_future_are_passed_over() -> Result<()> {
    let scene = Scene::start().await?;
    let before = scene.domain.federated_authorities("spiffe://partner.example").await?;
    let mut newer = scene.good.clone();
    newer["spiffe_sequence"] = json!(10);
    if let Some(keys) = newer["keys"].as_array_mut() {
        keys.push(json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}));
        keys.push(json!({"use": "tomorrow", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}));
        keys.push(json!({"use": "jwt-svid", "kty": "LATTICE", "kid": "new", "pub": "AA"}));
        keys.push(json!({"use": "wit-svid", "kty": "LATTICE", "kid": "wit", "pub": "AA"}));
    }
    scene.accepted(&newer).await?;
    let after = scene.domain.federated_authorities("spiffe://partner.example").await?;
    ensure!(before.same_keys(&after), "before: {before:?}, after: {after:?}");

    // A rollback is refused, and a bundle without hint is taken as well.
    scene.refused(Behaviour::Serve(scene.good.to_string()), &[documented("sequence")?]).await?;
    if let Some(members) = newer.as_object_mut() {
        members.remove("spiffe_refresh_hint");
    }
    newer["spiffe_sequence"] = json!(11);
    scene.accepted(&newer).await?;
    scene.domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_valid_now() -> Result<()> {
    for (from, until, text) in [(2100, 2101, documented("not valid yet")?), (2000, 2001, documented("expired")?)] {
        let mut plan = Plan::new("cloud.example")?;
        let folder = tempfile::tempdir()?;
        let web = entente_tests::web_ca::WebCa::create_with(folder.path(), |leaf| {
            leaf.not_before = rcgen::date_time_ymd(from, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(until, 1, 1);
        })?;
        let partner = Partner::start(&web, Behaviour::Serve("{\"keys\":[]}".to_owned())).await?;
        plan.relationship(json!({
            "trust_domain": "partner.example", "url": partner.url(), "profile": "https_web", "ca_file": web.ca,
        }));
        let mut domain = Domain::from_plan(plan);
        domain.start_all().await?;
        let refresh = domain.gateway_cli(&["relationship", "refresh", "partner.example"]).await?;
        refresh.refused(&[documented("was not trusted")?, text])?;
        ensure!(partner.requests() == 0, "a request was sent");
        domain.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_or_wrong_endpoint() -> Result<()> {
    let scene = Scene::start().await?;
    // Another web CA than the one configured for the relationship.
    let elsewhere = tempfile::tempdir()?;
    let web = entente_tests::web_ca::WebCa::create(elsewhere.path())?;
    let other = Partner::start(&web, Behaviour::Serve(scene.good.to_string())).await?;
    let mut plan = Plan::new("other.example")?;
    for (name, url) in [("untrusted.example", other.url()), ("nobody.example", "https://localhost:1/x".to_owned())] {
        plan.relationship(json!({"trust_domain": name, "url": url, "profile": "https_web", "ca_file": plan.web_ca()}));
    }
    // https_spiffe at an endpoint with a web certificate, and without any bundle of its domain.
    plan.relationship(json!({
        "trust_domain": "unknown.example",
        "url": other.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": "spiffe://unknown.example/endpoint",
    }));
    let mut domain = Domain::from_plan(plan);
    domain.start_all().await?;
    let refresh = async |name: &str| domain.gateway_cli(&["relationship", "refresh", name]).await;
    refresh("untrusted.example").await?.refused(&[documented("was not trusted")?])?;
    refresh("nobody.example").await?.refused(&[documented("cannot connect to")?])?;
    refresh("unknown.example").await?.refused(&[documented("bundle")?])?;
    refresh("never-heard-of.example").await?.refused(&["never-heard-of.example"])?;
    ensure!(other.requests() == 0, "a request was sent to an endpoint that is not trusted");
    domain.stop().await?;
    scene.domain.stop().await
}
