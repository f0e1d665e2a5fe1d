//! `entente dev` and `entente demo` as their users run them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    binary, cli,
    peer::Peer,
    process::Process,
    wait,
    web::{self, get_json},
};
use tokio::process::Command;

/// The variables of a shell that read `DIR/env`.
async fn variables(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut shell = Command::new("sh");
    shell.arg("-euc").arg(". \"$0\" && env").arg(dir.join("env")).env_clear();
    let printed = cli::run(shell, "").await?.ok()?;
    Ok(printed.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

fn start(dir: &Path, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary::entente()?);
    command.arg("dev").arg("--dir").arg(dir).args(arguments);
    let log = dir.with_extension("log");
    Process::start("dev", command, &log)
}

async fn up(process: &mut Process, dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut ended = None;
    let found = wait::until("DIR/env is written", || {
        if let Err(error) = process.check_running() {
            ended = Some(error);
        }
        let (gone, file) = (ended.is_some(), dir.join("env"));
        async move {
            ensure!(gone || file.exists(), "no env yet");
            Ok(())
        }
    })
    .await;
    match ended {
        Some(error) => Err(error),
        None => {
            found?;
            variables(dir).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_keeps_a_domain_up_for_its_user() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("dev-").tempdir_in("/tmp")?;
    let dir = folder.path().join("a");
    let mut dev = start(&dir, &["--trust-domain", "mine.example"])?;
    let env = up(&mut dev, &dir).await?;
    let value = |name: &str| env.get(name).map(String::as_str).with_context(|| format!("{name} is not in {env:?}"));
    assert_eq!(value("ENTENTE_TRUST_DOMAIN")?, "mine.example");

    // The user's own SPIFFE program works at once.
    let mut peer = Peer::go_workload_watch(folder.path(), value("SPIFFE_ENDPOINT_SOCKET")?)?;
    ensure!(peer.event("x509_source").await?["id"].as_str().is_some_and(|id| id.starts_with("spiffe://mine.example/")));
    peer.finish().await?;

    // The other variables lead where they say.
    let client = web::client(Path::new(value("ENTENTE_WEB_CA")?))?;
    get_json(&client, value("ENTENTE_BUNDLE_URL_WEB")?).await?;
    get_json(&client, &format!("{}/.well-known/openid-configuration", value("ENTENTE_OIDC_URL")?)).await?;
    let health = ["issuer", "healthcheck", "-socketPath", value("ENTENTE_ISSUER_SOCKET")?];
    cli::entente(&health).await?.ok()?;
    let list = ["gateway", "bundle", "list", "-socketPath", value("ENTENTE_GATEWAY_SOCKET")?];
    cli::entente(&list).await?.ok()?;
    ensure!(Path::new(value("ENTENTE_AGENT_ADMIN_SOCKET")?).exists());
    ensure!(value("ENTENTE_ISSUER_ADDRESS")?.starts_with("127.0.0.1:"));
    ensure!(value("ENTENTE_BUNDLE_URL_SPIFFE")?.starts_with("https://"));
    for service in ["ISSUER", "AGENT", "GATEWAY"] {
        let pid = value(&format!("ENTENTE_{service}_PID"))?;
        ensure!(Path::new("/proc").join(pid).exists(), "{service} {pid} does not run");
    }

    // Ctrl-C or SIGTERM ends all of it; started again it is the same domain.
    let bundle = ["issuer", "bundle", "show", "-socketPath", value("ENTENTE_ISSUER_SOCKET")?];
    let before = cli::entente(&bundle).await?.ok()?;
    ensure!(dev.stop().await? < Duration::from_secs(20));
    for service in ["ISSUER", "AGENT", "GATEWAY"] {
        let pid = value(&format!("ENTENTE_{service}_PID"))?;
        ensure!(!Path::new("/proc").join(pid).exists(), "{service} {pid} still runs");
    }
    fs::remove_file(dir.join("env"))?;
    let mut again = start(&dir, &["--trust-domain", "mine.example"])?;
    up(&mut again, &dir).await?;
    assert_eq!(cli::entente(&bundle).await?.ok()?, before);
    again.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_leaves_agent_and_gateway_to_the_user() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("dev-").tempdir_in("/tmp")?;
    let dir = folder.path().join("b");
    let mut dev = start(&dir, &["--no-agent", "--no-gateway"])?;
    let env = up(&mut dev, &dir).await?;
    ensure!(env.contains_key("ENTENTE_ISSUER_PID"), "{env:?}");
    ensure!(!env.contains_key("ENTENTE_AGENT_PID") && !env.contains_key("ENTENTE_GATEWAY_PID"), "{env:?}");
    dev.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_shows_eight_steps_and_leaves_nothing() -> Result<()> {
    let temporary = tempfile::Builder::new().prefix("demo-").tempdir_in("/tmp")?;
    let mut command = Command::new(binary::entente()?);
    command.args(["demo", "--once"]).env("TMPDIR", temporary.path()).env("NO_COLOR", "1");
    let shown = cli::run(command, "").await?.ok()?;
    for step in 1..=8 {
        ensure!(shown.contains(&format!("{step}/8")), "step {step} is not shown:\n{shown}");
    }
    ensure!(shown.contains("all 8 steps hold"), "{shown}");
    let left: Vec<_> = fs::read_dir(temporary.path())?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
