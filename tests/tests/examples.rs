//! The examples in `docs/examples`: each is valid as it stands, and the three together, with only their
//! folders and ports changed, are a working trust domain.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use entente_tests::{
    binary::{entente, repository},
    cli,
    domain::get,
    forgery::Root,
    ports,
    process::Process,
    wait,
    web::{self, get_json},
    web_ca::WebCa,
};
use tokio::process::Command;

const SERVICES: [&str; 3] = ["issuer", "agent", "gateway"];

fn example(service: &str) -> PathBuf {
    repository().join(format!("docs/examples/{service}.yaml"))
}

/// Every example with its service, which its name begins with: `gateway-acme.yaml` is a gateway's.
fn all() -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(repository().join("docs/examples"))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(service) = SERVICES.into_iter().find(|service| name.starts_with(service) && name.ends_with(".yaml"))
        {
            found.push((service.to_owned(), path));
        }
    }
    ensure!(found.len() > SERVICES.len(), "examples are missing: {found:?}");
    Ok(found)
}

#[tokio::test]
async fn each_is_valid() -> Result<()> {
    for (service, path) in all()? {
        cli::entente(&[&service, "validate", "-config", &path.display().to_string()]).await?.ok()?;
    }
    Ok(())
}

/// Every key an example shows is known to the schema, and the schema is JSON.
#[tokio::test]
async fn each_has_a_schema() -> Result<()> {
    for (service, path) in all()? {
        let schema = cli::entente(&["config", "schema", &service]).await?.json()?;
        ensure!(schema["properties"].as_object().is_some_and(|keys| keys.len() > 5), "{schema}");
        let text = fs::read_to_string(&path)?;
        for line in text.lines().filter(|line| !line.starts_with([' ', '#', '-'])) {
            if let Some((key, _)) = line.split_once(':') {
                ensure!(schema["properties"].get(key).is_some(), "`{key}` of {} is not in the schema", path.display());
            }
        }
    }
    Ok(())
}

/// The example with its folders below `dir` and free ports instead of its own; its health port.
fn moved(service: &str, dir: &Path, changes: &[(&str, String)]) -> Result<(PathBuf, u16)> {
    let health = ports::free()?;
    let mut text = fs::read_to_string(example(service))?;
    for (from, to) in [
        // First, since the folder itself lies there.
        ("/tmp/", format!("{}/", dir.join("run").display())),
        ("/var/lib/entente", dir.join("lib").display().to_string()),
        ("/etc/entente", dir.join("etc").display().to_string()),
        ("0.0.0.0", "127.0.0.1".to_owned()),
        ("localhost", "127.0.0.1".to_owned()),
        ("bind_port: 8082", format!("bind_port: {health}")),
        ("bind_port: 8083", format!("bind_port: {health}")),
        ("bind_port: 8084", format!("bind_port: {health}")),
        ("issuer.cloud.example", "127.0.0.1".to_owned()),
    ]
    .iter()
    .map(|(from, to)| (*from, to.clone()))
    .chain(changes.iter().cloned())
    {
        text = text.replace(from, &to);
    }
    let path = dir.join(format!("{service}.yaml"));
    fs::write(&path, text)?;
    Ok((path, health))
}

async fn run(service: &str, config: &Path, health: u16) -> Result<Process> {
    let mut command = Command::new(entente()?);
    command.arg(service).arg("run").arg("-config").arg(config);
    let mut process = Process::start(service, command, &config.with_extension("log"))?;
    let url = format!("http://127.0.0.1:{health}/ready");
    let mut ended = None;
    let ready = wait::until(&format!("{service} is ready"), || {
        ended = process.check_running().err();
        let (gone, url) = (ended.is_some(), url.clone());
        async move {
            if !gone {
                let (status, body) = get(&url).await?;
                ensure!(status == 200, "{status} {body}");
            }
            Ok(())
        }
    })
    .await;
    match ended {
        Some(error) => Err(error),
        None => match ready {
            Ok(()) => Ok(process),
            Err(error) => Err(error.context(process.log_tail())),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn together_they_are_a_trust_domain() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ex-").tempdir_in("/tmp")?;
    let dir = folder.path();
    fs::create_dir_all(dir.join("etc"))?;
    fs::create_dir_all(dir.join("lib"))?;
    let web_ca = WebCa::create(dir)?;
    fs::copy(&web_ca.certificate, dir.join("etc/web.pem"))?;
    fs::copy(&web_ca.key, dir.join("etc/web.key"))?;
    let node_ca = Root::create(dir)?;
    fs::copy(&node_ca.certificate, dir.join("etc/node-ca.pem"))?;
    let (api, web, spiffe) = (ports::free()?, ports::free()?, ports::free()?);
    let replaced = |from: u16, to: u16| (format!("port: {from}"), format!("port: {to}"));
    let (from, to) = replaced(8081, api);
    let changes = [(from.as_str(), to)];

    let (config, health) = moved("issuer", dir, &changes)?;
    let mut issuer = run("issuer", &config, health).await?;
    let socket = dir.join("run/spire-server/private/api.sock").display().to_string();
    let bundle = cli::entente(&["issuer", "bundle", "show", "-socketPath", &socket]).await?.ok()?;
    fs::write(dir.join("etc/bundle.pem"), bundle)?;
    let token = ["issuer", "token", "generate", "-socketPath", &socket, "-output", "json"];
    let token = cli::entente(&token).await?.json()?;

    let (config, health) = moved("agent", dir, &changes)?;
    fs::write(dir.join("etc/join-token"), token["value"].as_str().unwrap_or_default())?;
    let mut agent = run("agent", &config, health).await?;

    let ((from, to), (from2, to2)) = (replaced(8443, web), replaced(8444, spiffe));
    let changes = [(from.as_str(), to), (from2.as_str(), to2)];
    let (config, health) = moved("gateway", dir, &changes)?;
    let mut gateway = run("gateway", &config, health).await?;
    let client = web::client(&web_ca.ca)?;
    let (_, bundle) = get_json(&client, &format!("https://127.0.0.1:{web}/cloud.example")).await?;
    ensure!(bundle["keys"].as_array().is_some_and(|keys| keys.len() == 2), "{bundle}");

    // The relationships of the example can be applied once the configuration does not name the partner itself.
    let socket = dir.join("run/entente-gateway/private/api.sock").display().to_string();
    let apply = |file: PathBuf, flags: &'static [&'static str]| {
        let mut arguments = vec!["gateway".to_owned(), "apply".to_owned(), "-socketPath".to_owned(), socket.clone()];
        arguments.extend(["-f".to_owned(), file.display().to_string()]);
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        async move { cli::entente(&arguments).await }
    };
    apply(example("relationships"), &["-dry-run"])
        .await?
        .refused(&["`onprem.example` is defined in the configuration"])?;
    let others = dir.join("relationships.yaml");
    fs::write(&others, fs::read_to_string(example("relationships"))?.replace("onprem.example", "third.example"))?;
    let applied = apply(others, &["-prune", "-output", "json"]).await?.json()?;
    ensure!(applied["changes"].as_array().is_some_and(|changes| changes.len() == 3), "{applied}");
    for process in [&mut gateway, &mut agent, &mut issuer] {
        process.stop().await?;
    }
    Ok(())
}
