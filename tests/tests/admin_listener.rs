//! The gateway's admin listener with X509-SVIDs of a real issuer and agent, by our command line and by curl.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    cli::{self, Answer},
    domain::{Domain, Service},
    plan::Plan,
    ports, wait,
};
use serde_json::{Value, json};
use tokio::process::Command;

const PARTNER: &str = "partner.example";

/// A trust domain whose gateway has an admin listener; the port of it.
async fn start() -> Result<(Domain, u16)> {
    let port = ports::free()?;
    let admin = json!({
        "bind_port": port,
        "endpoint_id": "spiffe://cloud.example/entente/admin",
        "dns_names": ["localhost"],
        "roles": [
            {"spiffe_id": "spiffe://cloud.example/viewer", "role": "viewer"},
            {"spiffe_id_prefix": "spiffe://cloud.example/sre/", "role": "operator"},
        ],
    });
    let mut plan = Plan::new("cloud.example")?.gateway("admin", admin);
    // Nobody is there: it is about the API only.
    plan.relationship(json!({"trust_domain": PARTNER, "url": "https://127.0.0.1:1/", "profile": "https_web"}));
    let mut domain = Domain::from_plan(plan);
    domain.start_all().await?;
    wait::until("the admin listener has its X509-SVID", || async {
        let health = domain.gateway_json(&["health"]).await?;
        let part = &health["subsystems"]["admin"];
        ensure!(part["ready"] == json!(true) && part.get("reason").is_none(), "{health}");
        Ok(())
    })
    .await?;
    Ok((domain, port))
}

/// X509-SVID, key and bundle in a folder of `domain`, and the flags that name them.
async fn minted(domain: &Domain, path: &str, flags: &[&str]) -> Result<Vec<String>> {
    let folder = domain.file(&path.replace('/', "_"));
    std::fs::create_dir(&folder)?;
    let (id, shown) = (domain.id(path), folder.display().to_string());
    let mint = ["x509", "mint", "-spiffeID", &id, "-write", &shown];
    domain.issuer_cli(&[&mint[..], flags].concat()).await?.ok()?;
    let files = [("--cert", "svid.pem"), ("--key", "key.pem"), ("--bundle", "bundle.pem")];
    Ok(files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), folder.join(file).display().to_string()]).collect())
}

async fn ask(port: u16, server_id: &str, identity: &[String], arguments: &[&str]) -> Result<Answer> {
    let address = format!("127.0.0.1:{port}");
    let mut all = vec!["gateway"];
    all.extend(arguments);
    all.extend(["--address", &address, "--server-id", server_id]);
    all.extend(identity.iter().map(String::as_str));
    cli::entente(&all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_goes_over_mtls() -> Result<()> {
    let (domain, port) = start().await?;
    let server = "spiffe://cloud.example/entente/admin";
    domain.create_entry("/sre/bob", &[]).await?;
    let socket = ["--workload-api-socket".to_owned(), domain.agent_socket().display().to_string()];
    wait::until("the agent serves the entry", || async {
        domain.agent_cli(&["api", "fetch", "x509"]).await?.ok().map(drop)
    })
    .await?;

    // An operator by the Workload API.
    let list = ask(port, server, &socket, &["relationship", "list", "--output", "json"]).await?.json()?;
    assert_eq!(list["relationships"][0]["trust_domain"], PARTNER);
    let freeze = ["relationship", "freeze", PARTNER, "--why", "their incident"];
    ask(port, server, &socket, &freeze).await?.ok()?;
    let audit = domain.gateway_json(&["audit", "list", "--limit", "1"]).await?;
    let who = json!({"kind": "spiffe_id", "spiffe_id": "spiffe://cloud.example/sre/bob", "role": "operator"});
    assert_eq!(audit["records"][0]["record"]["who"], who);
    ask(port, server, &socket, &["audit", "export"])
        .await?
        .refused(&["has the role operator, and this needs admin"])?;

    // A viewer by files: looks, and decides nothing.
    let viewer = minted(&domain, "/viewer", &[]).await?;
    for looking in [&["health"][..], &["bundle", "list"], &["source", "list"], &["audit", "list"], &["audit", "verify"]]
    {
        ask(port, server, &viewer, looking).await?.ok()?;
    }
    let unfreeze = ["relationship", "unfreeze", PARTNER];
    ask(port, server, &viewer, &unfreeze).await?.refused(&["has the role viewer, and this needs operator"])?;
    let shown = domain.gateway_json(&["relationship", "show", PARTNER]).await?;
    ensure!(shown["frozen"]["why"] == "their incident", "{shown}");

    // Whoever has no role, no name, no time left, or another trust domain.
    let nobody = minted(&domain, "/web", &[]).await?;
    ask(port, server, &nobody, &["health"]).await?.refused(&["spiffe://cloud.example/web has no role here"])?;
    let mut other = Domain::from_plan(Plan::new("other.example")?);
    other.start_issuer().await?;
    let foreign = minted(&other, "/viewer", &[]).await?;
    let own_bundle = &viewer[4..];
    let same_path = [&foreign[..4], own_bundle].concat();
    ask(port, server, &same_path, &["health"]).await?.refused(&["the gateway refuses this X509-SVID"])?;
    let short = minted(&domain, "/sre/short", &["-ttl", "2s"]).await?;
    wait::until("the X509-SVID is refused because it has expired", || async {
        ask(port, server, &short, &["health"]).await?.refused(&["the gateway refuses this X509-SVID"]).map(drop)
    })
    .await?;

    // And a server that is somebody else is not believed.
    let answer = ask(port, "spiffe://cloud.example/entente/gateway", &viewer, &["health"]).await?;
    answer.refused(&["no gateway answers on", "spiffe://cloud.example/entente/admin, which is not expected here"])?;
    ask(port, server, &foreign, &["health"]).await?.refused(&["no gateway answers on"])?;
    other.stop().await?;
    domain.stop().await
}

/// As docs/admin-api.md shows it.
#[tokio::test(flavor = "multi_thread")]
async fn curl_goes_over_mtls_and_over_the_socket() -> Result<()> {
    let (mut domain, port) = start().await?;
    let viewer = minted(&domain, "/viewer", &[]).await?;
    let [_, cert, _, key, _, bundle] = viewer.as_slice() else { anyhow::bail!("six words are expected") };
    let url = format!("https://localhost:{port}/v1/relationships?health=failing,pending");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--cacert", bundle, "--cert", cert, "--key", key, &url]);
    let list: Value = cli::run(curl, "").await?.json()?;
    assert_eq!(list["relationships"][0]["trust_domain"], PARTNER);

    let mut curl = Command::new("curl");
    curl.args(["-sS", "--cacert", bundle, &url]);
    let refused = cli::run(curl, "").await?;
    ensure!(refused.code != 0 && refused.stdout.is_empty(), "without an X509-SVID: {refused:?}");

    let socket = domain.gateway_socket().display().to_string();
    let one = format!("http://localhost/v1/relationships/{PARTNER}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%header{etag}", "--unix-socket", &socket, &one]);
    let tag = cli::run(curl, "").await?.ok()?;
    let condition = format!("If-Match: {tag}");
    let json_type = "Content-Type: application/json";
    let freeze = format!("{one}/freeze");
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", &socket]);
        curl.args(["-H", json_type, "-H", &condition, "-d", "{\"why\": \"seen\"}", &freeze]);
        statuses.push(cli::run(curl, "").await?.ok()?);
    }
    assert_eq!(statuses, ["200", "412"], "the tag of the state before the freeze is good once");
    domain.process(Service::Gateway).context("it still runs")?.check_running()?;
    domain.stop().await
}
