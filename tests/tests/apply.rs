//! `entente gateway apply` and the commands for one relationship, with a real gateway and a real issuer.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    hostile::{authority::WebAuthority, good::GoodPartners},
    plan::Plan,
    ports, wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A gateway with its issuer, and partners it does not know yet.
struct Scene {
    domain: Domain,
    partners: GoodPartners,
    web: WebAuthority,
}

impl Scene {
    async fn start() -> Result<Self> {
        Self::start_with(Plan::new("cloud.example")?).await
    }

    async fn start_with(plan: Plan) -> Result<Self> {
        let web = WebAuthority::create(&plan.file("partner-ca.pem"))?;
        let partners = GoodPartners::start(3, &web).await?;
        let mut domain = Domain::from_plan(plan);
        domain.start_issuer().await?;
        domain.start_gateway().await?;
        Ok(Self { domain, partners, web })
    }

    /// The definitions of the partners, with files beside the file they will be in.
    fn definitions(&self) -> Result<Vec<Value>> {
        let mut all = self.partners.relationships(&self.web, Path::new(&self.domain.file(".")))?;
        for definition in &mut all {
            for key in ["ca_file", "bootstrap_bundle_file"] {
                if let Some(path) = definition.get(key).and_then(Value::as_str) {
                    let name = Path::new(path).file_name().and_then(|name| name.to_str());
                    definition[key] = name.context("a file without a name")?.into();
                }
            }
        }
        Ok(all)
    }

    fn write(&self, name: &str, relationships: &[Value]) -> Result<String> {
        let path = self.domain.file(name);
        fs::write(&path, json!({"relationships": relationships}).to_string())?;
        Ok(path.display().to_string())
    }

    async fn apply(&self, arguments: &[&str]) -> Result<entente_tests::cli::Answer> {
        let arguments: Vec<&str> = ["apply"].into_iter().chain(arguments.iter().copied()).collect();
        self.domain.gateway_cli(&arguments).await
    }

    async fn names(&self) -> Result<Vec<String>> {
        let list = self.domain.gateway_json(&["relationship", "list"]).await?;
        let list = list["relationships"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().filter_map(|item| item["trust_domain"].as_str().map(str::to_owned)).collect())
    }

    async fn at_issuer(&self, name: &str) -> bool {
        self.domain.federated_authorities(&format!("spiffe://{name}")).await.is_ok()
    }

    async fn arrives(&self, name: &str) -> Result<()> {
        wait::until(&format!("the bundle of {name} arrives"), || async {
            ensure!(self.at_issuer(name).await, "not there yet");
            Ok(())
        })
        .await
    }

    /// The records of what people did.
    async fn by_people(&self) -> Result<Vec<Value>> {
        let list = self.domain.gateway_json(&["audit", "list", "-last", "1000"]).await?;
        let records = list["records"].as_array().cloned().unwrap_or_default().into_iter();
        Ok(records.map(|entry| entry["record"].clone()).filter(|record| record["who"]["kind"] == "user").collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_become_relationships_and_go_again() -> Result<()> {
    let mut scene = Scene::start().await?;
    let all = scene.definitions()?;
    let names: Vec<String> = scene.partners.trust_domains().map(str::to_owned).collect();
    let file = scene.write("partners.yaml", &all)?;

    let dry = scene.apply(&["-f", &file, "-dry-run"]).await?;
    ensure!(dry.code == 2 && dry.stdout.contains("Would apply set default: 3 added, 0 changed"), "{dry:?}");
    ensure!(scene.names().await?.is_empty(), "a dry run changes nothing");
    let done = scene.apply(&["-f", &file, "-why", "change 4711"]).await?.ok()?;
    ensure!(done.starts_with("+ good-0.example added\n") && done.contains("    ca_pem: sha256:"), "{done}");

    // At once, and for good: kill -9 right after the answer loses nothing.
    scene.domain.kill9(Service::Gateway).await?;
    scene.domain.restart(Service::Gateway).await?;
    assert_eq!(scene.names().await?, names);
    for name in &names {
        scene.arrives(name).await?;
    }
    let show = scene.domain.gateway_cli(&["relationship", "show", &names[0]]).await?.ok()?;
    ensure!(show.contains("managed, set default"), "{show}");

    // Again, from other places: nothing differs and nothing is recorded.
    wait::until("deliveries are confirmed", || async {
        let list = scene.domain.gateway_json(&["relationship", "list"]).await?;
        let list = list["relationships"].as_array().cloned().unwrap_or_default();
        ensure!(list.iter().all(|item| item["deliveries"][0]["delivered"] == json!(true)), "not yet");
        Ok(())
    })
    .await?;
    let folder = scene.domain.file("sets");
    fs::create_dir(&folder)?;
    for (index, definition) in all.iter().enumerate() {
        let mut definition = definition.clone();
        for key in ["ca_file", "bootstrap_bundle_file"] {
            if let Some(name) = definition.get(key).and_then(Value::as_str) {
                definition[key] = format!("../{name}").into();
            }
        }
        scene.write(&format!("sets/{index}.json"), &[definition])?;
    }
    let folder = folder.display().to_string();
    let again = scene.apply(&["-f", &folder, "-prune", "-dry-run"]).await?.ok()?;
    assert_eq!(again, "Would apply set default: 0 added, 0 changed, 0 removed, 3 unchanged\n");
    let applied = scene.apply(&["-f", &folder, "-prune", "-output", "json"]).await?.json()?;
    assert_eq!(applied["changes"][0]["change"], "unchanged");
    let of_people = scene.by_people().await?;
    ensure!(of_people.len() == 3 && of_people.iter().all(|record| record["why"] == "change 4711"), "{of_people:?}");

    // One goes: its bundle leaves the issuer within seconds. More than half goes only with -yes.
    fs::remove_file(Path::new(&folder).join("0.json"))?;
    let pruned = scene.apply(&["-f", &folder, "-prune"]).await?.ok()?;
    ensure!(pruned.starts_with("- good-0.example removed\n"), "{pruned}");
    let began = Instant::now();
    wait::until("the bundle is taken from the issuer", || async {
        ensure!(!scene.at_issuer(&names[0]).await, "still there");
        Ok(())
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let none = scene.write("none.yaml", &[])?;
    let dry = scene.apply(&["-f", &none, "-prune", "-dry-run"]).await?;
    ensure!(dry.code == 2 && dry.stdout.contains("that needs -yes"), "{dry:?}");
    scene.apply(&["-f", &none, "-prune"]).await?.refused(&["remove 2 of the 2 relationships", "--yes"])?;
    assert_eq!(scene.names().await?.len(), 2);
    scene.apply(&["-f", &none, "-prune", "-yes"]).await?.ok()?;
    ensure!(scene.names().await?.is_empty());
    scene.domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_change_nothing() -> Result<()> {
    let scene = Scene::start().await?;
    let all = scene.definitions()?;
    let good = scene.write("good.yaml", &all[..1])?;
    let mut bad = all[1].clone();
    bad["endpoint_spiffe_id"] = json!("spiffe://Not/an-id");
    let bad = scene.write("bad.yaml", &[bad])?;
    scene.apply(&["-f", &good, "-f", &bad]).await?.refused(&["relationship `good-1.example`.endpoint_spiffe_id"])?;
    scene.apply(&["-f", &good, "-f", &good]).await?.refused(&["good-0.example is defined twice, in ", "good.yaml"])?;
    scene.apply(&["-f", "/nowhere.yaml"]).await?.refused(&["open /nowhere.yaml: no such file or directory"])?;
    scene.apply(&[]).await?.refused(&["nothing to apply"])?;
    let typo = scene.domain.file("typo.yaml");
    fs::write(&typo, "relationships:\n  - trust_domains: a.example\n")?;
    let typo = typo.display().to_string();
    scene.apply(&["-f", &typo]).await?.refused(&["unknown key `relationships[0].trust_domains`", "did you mean"])?;
    scene.apply(&["-f", &good, "-set", "No Name"]).await?.refused(&["is no name of a set"])?;
    ensure!(scene.names().await?.is_empty());
    ensure!(scene.by_people().await?.is_empty());

    // A set keeps what is its own.
    scene.apply(&["-f", &good, "-set", "team-a"]).await?.ok()?;
    scene.apply(&["-f", &good]).await?.refused(&["belongs to set `team-a`"])?;
    scene.apply(&["-f", &good, "-take-over"]).await?.ok()?;
    scene.domain.stop().await
}

/// A key of a definition.
fn text(definition: &Value, key: &str) -> String {
    definition[key].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relationship_is_created_changed_and_deleted() -> Result<()> {
    let scene = Scene::start().await?;
    let all = scene.definitions()?;
    let (web, spiffe) = (&all[0], &all[1]);
    let ca = scene.domain.file(&text(web, "ca_file")).display().to_string();
    let (name, url) = (text(web, "trust_domain"), text(web, "url"));
    let relationship = async |verb: &str, flags: &[&str]| {
        let arguments: Vec<&str> = ["relationship", verb].into_iter().chain(flags.iter().copied()).collect();
        scene.domain.gateway_cli(&arguments).await
    };
    let flags =
        ["-trustDomain", &name, "-bundleEndpointURL", &url, "-bundleEndpointProfile", "https_web", "-caPath", &ca];
    let created = relationship("create", &flags).await?.ok()?;
    ensure!(created.starts_with(&format!("+ {name} added\n")), "{created}");
    scene.arrives(&name).await?;
    relationship("create", &flags).await?.refused(&["exists already"])?;
    let same = relationship("update", &["-trustDomain", &name]).await?.ok()?;
    assert_eq!(same, format!("{name} is unchanged\n"));
    let changed = relationship("update", &["-trustDomain", &name, "-mode", "hold", "-maximumAge", "1h"]).await?.ok()?;
    ensure!(changed.contains("mode: - -> hold") && changed.contains("maximum_age: - -> 1h"), "{changed}");
    let changed = relationship("update", &["-trustDomain", &name, "-maximumAge", ""]).await?.ok()?;
    ensure!(changed.contains("maximum_age: 1h -> -") && !changed.contains("mode"), "{changed}");

    // Over https_spiffe, with the first bundle from a file.
    let (name, url) = (text(spiffe, "trust_domain"), text(spiffe, "url"));
    let (id, bundle) = (text(spiffe, "endpoint_spiffe_id"), text(spiffe, "bootstrap_bundle_file"));
    let bundle = scene.domain.file(&bundle).display().to_string();
    let flags = [
        "-trustDomain",
        &name,
        "-bundleEndpointURL",
        &url,
        "-bundleEndpointProfile",
        "https_spiffe",
        "-endpointSpiffeID",
        &id,
        "-trustDomainBundlePath",
        &bundle,
        "-trustDomainBundleFormat",
        "spiffe",
        "-localTrustDomain",
        "cloud.example",
    ];
    relationship("create", &flags).await?.ok()?;
    scene.arrives(&name).await?;
    let gone = relationship("delete", &[&name, "-why", "contract ended"]).await?.ok()?;
    assert_eq!(gone, format!("- {name} removed\n"));
    relationship("delete", &[&name]).await?.refused(&["no relationship with trust domain"])?;
    relationship("update", &["-trustDomain", &name, "-mode", "hold"]).await?.refused(&["no relationship with"])?;
    relationship("create", &["-trustDomain", "a.example"]).await?.refused(&["bundle endpoint URL is required"])?;
    let list = scene.domain.gateway_cli(&["audit", "list", "-subject", &name]).await?.ok()?;
    ensure!(list.contains("relationship.removed") && list.contains("contract ended"), "{list}");
    scene.domain.stop().await
}

/// Each key of a definition with the flag that says the same.
const FLAGS: [(&str, &str); 13] = [
    ("trust_domain", "-trustDomain"),
    ("local_trust_domains", "-localTrustDomain"),
    ("url", "-bundleEndpointURL"),
    ("failover_urls", "-failoverURL"),
    ("allow_addresses", "-allowAddress"),
    ("profile", "-bundleEndpointProfile"),
    ("endpoint_spiffe_id", "-endpointSpiffeID"),
    ("ca_file", "-caPath"),
    ("bootstrap_bundle_file", "-trustDomainBundlePath"),
    ("mode", "-mode"),
    ("emptied", "-emptied"),
    ("drift", "-drift"),
    ("maximum_age", "-maximumAge"),
];

/// A definition as flags.
fn as_flags(definition: &Value, folder: &Path) -> Result<Vec<String>> {
    let mut flags = vec!["-trustDomainBundleFormat".to_owned(), "spiffe".to_owned()];
    for (key, value) in definition.as_object().context("no definition")? {
        let (_, flag) = FLAGS.iter().find(|(name, _)| name == key).with_context(|| format!("no flag for {key}"))?;
        let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for value in values {
            let text = value.as_str().context("no text")?;
            let text = if key.ends_with("_file") { folder.join(text).display().to_string() } else { text.to_owned() };
            flags.extend([(*flag).to_owned(), text]);
        }
    }
    Ok(flags)
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_say_whatever_files_say() -> Result<()> {
    // Nothing on this machine is asked unless a relationship says so.
    let refresh = json!({"min_interval": "1s", "allow_addresses": []});
    let scene = Scene::start_with(Plan::new("cloud.example")?.gateway("refresh", refresh)).await?;
    let verb = async |verb: &str, flags: &[String]| {
        let arguments = ["relationship", verb].into_iter().chain(flags.iter().map(String::as_str));
        scene.domain.gateway_cli(&arguments.collect::<Vec<_>>()).await
    };
    let dead = format!("https://localhost:{}/none", ports::free()?);
    for mut definition in scene.definitions()?.into_iter().take(2) {
        let name = definition["trust_domain"].as_str().context("no name")?.to_owned();
        let url = definition["url"].take();
        definition["url"] = json!(dead);
        definition["failover_urls"] = json!([url]);
        definition["allow_addresses"] = json!(["127.0.0.0/8", "::1"]);
        definition["local_trust_domains"] = json!(["cloud.example"]);
        definition["emptied"] = json!("refuse");
        definition["drift"] = json!("show");
        definition["mode"] = json!("auto");
        definition["maximum_age"] = json!("26h");

        scene.apply(&["-f", &scene.write("one.json", std::slice::from_ref(&definition))?]).await?.ok()?;
        verb("delete", std::slice::from_ref(&name)).await?.ok()?;
        let flags = as_flags(&definition, &scene.domain.file("."))?;
        verb("create", &flags).await?.ok()?;
        let mut records = scene.by_people().await?;
        let created = records.pop().context("no record")?;
        ensure!(created["what"] == "relationship.added", "{created}");
        let applied =
            records.iter().rev().find(|record| record["what"] == "relationship.added").context("no record")?;
        let mut applied = applied["after"].clone();
        applied.as_object_mut().and_then(|keys| keys.remove("set")).context("no set")?;
        assert_eq!(created["after"], applied);

        // And all of it works, and is shown.
        scene.arrives(&name).await?;
        let show = verb("show", std::slice::from_ref(&name)).await?.ok()?;
        let url = url.as_str().context("no url")?;
        let of_profile = match definition["profile"].as_str() {
            Some("https_web") => "Authorities         : given, SHA-256 ".to_owned(),
            _ => format!(
                "Endpoint SPIFFE ID  : {}\nBootstrap bundle    : given, SHA-256 ",
                text(&definition, "endpoint_spiffe_id")
            ),
        };
        for line in [
            format!("Bundle endpoint URL : {dead}\nFailover URL        : {url} (in use)\n"),
            of_profile,
            "\nAllowed addresses   : 127.0.0.0/8, ::1/128\nReceived by         : cloud.example\n".to_owned(),
            "\nMode                : auto\nIf emptied          : refuse\nIf changed at issuer: show\n".to_owned(),
            "\nMaximum age         : 1d2h\n".to_owned(),
        ] {
            ensure!(show.contains(&line), "{line}\n{show}");
        }

        // An empty value takes a setting away.
        let without = ["-trustDomain", &name, "-failoverURL", ""].map(str::to_owned);
        let changed = verb("update", &without).await?.ok()?;
        ensure!(changed.contains("failover_urls: ") && !changed.contains("allow_addresses"), "{changed}");
        verb("refresh", std::slice::from_ref(&name)).await?.refused(&["cannot connect to "])?;
        let without = ["-trustDomain", &name, "-bundleEndpointURL", url, "-allowAddress", ""].map(str::to_owned);
        verb("update", &without).await?.ok()?;
        verb("refresh", std::slice::from_ref(&name)).await?.refused(&["a loopback address, which is not asked"])?;
        let show = verb("show", std::slice::from_ref(&name)).await?.ok()?;
        ensure!(!show.contains("Failover URL") && !show.contains("Allowed addresses"), "{show}");
        verb("update", &["-trustDomain", &name, "-failoverURL", "http://plain/"].map(str::to_owned))
            .await?
            .refused(&["failover_urls[0]", "https"])?;
    }
    scene.domain.stop().await
}
