//! Services that cannot start say why and what to do, end with exit code 1, and change nothing.

use std::{fs, net::TcpListener};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    cli::{self, Answer},
    documented::documented,
    domain::{Domain, Service},
    forgery::Root,
    plan::Plan,
    tls, wait,
    workload::Greeter,
};
use serde_json::{Value, json};

/// Runs a service of `domain` that is expected to end by itself.
async fn run(domain: &Domain, service: Service, arguments: &[&str]) -> Result<Answer> {
    let config = domain.write_config(service)?.display().to_string();
    cli::entente(&[&[service.word(), "run", "-config", &config], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_cannot_be_right() -> Result<()> {
    for (service, key, value, texts) in [
        (Service::Issuer, "log_levle", json!("info"), [documented("unknown key")?, "`log_level`"]),
        (Service::Agent, "server_adress", json!("x"), [documented("unknown key")?, "`server_address`"]),
        (Service::Gateway, "listener", json!({}), [documented("unknown key")?, "`listeners`"]),
        (Service::Issuer, "ca_ttl", json!("soon"), ["ca_ttl", "soon"]),
        (Service::Issuer, "ca_key_type", json!("rsa-512"), ["ca_key_type", "rsa-512"]),
        (Service::Issuer, "trust_domain", json!("Not A Domain"), ["trust_domain", "Not A Domain"]),
        (Service::Issuer, "bind_port", json!(70_000), ["bind_port", "70000"]),
        (Service::Agent, "workload_x509_svid_key_type", json!("dsa"), ["workload_x509_svid_key_type", "dsa"]),
        (Service::Gateway, "trust_domains", json!([]), ["trust_domains", ""]),
    ] {
        let plan = Plan::new("cloud.example")?;
        let plan = match service {
            Service::Issuer => plan.issuer(key, value),
            Service::Agent => plan.agent(key, value),
            Service::Gateway => plan.gateway(key, value),
        };
        let domain = Domain::from_plan(plan);
        run(&domain, service, &[]).await?.refused(&texts)?;
        let config = domain.write_config(service)?.display().to_string();
        let answer = cli::entente(&[service.word(), "validate", "-config", &config]).await?;
        answer.refused(&texts)?;
        ensure!(!domain.file(service.word()).exists(), "{}: the data folder was made", service.word());
        domain.stop().await?;
    }
    let answer = cli::entente(&["issuer", "run", "-config", "/nowhere/issuer.yaml"]).await?;
    answer.refused(&["/nowhere/issuer.yaml", documented("could not find config file")?]).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_settings_are_named() -> Result<()> {
    for (service, text) in [
        ("issuer", "data_dir: d\n"),
        ("issuer", "trust_domain: cloud.example\n"),
        ("agent", "trust_domain: cloud.example\ndata_dir: d\n"),
        ("gateway", "data_dir: d\n"),
        ("issuer", "trust_domain: [\n"),
        ("issuer", ""),
    ] {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("config.yaml");
        fs::write(&file, text)?;
        let stderr = cli::entente(&[service, "run", "-config", &file.display().to_string()]).await?.refused(&[])?;
        ensure!(
            stderr.contains("config.yaml") || stderr.contains("trust_domain") || stderr.contains("data_dir"),
            "{stderr}"
        );
        ensure!(!stderr.contains("panicked"), "{stderr}");
        ensure!(fs::read_dir(folder.path())?.count() == 1, "something was made");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    let ports = domain.ports();
    for (service, port) in [
        (Service::Agent, ports.agent_health),
        (Service::Gateway, ports.gateway_health),
        (Service::Gateway, ports.web),
        (Service::Gateway, ports.spiffe),
    ] {
        let _taken = TcpListener::bind(("127.0.0.1", port))?;
        let token = domain.join_token(None).await?;
        let arguments: &[&str] = if service == Service::Agent { &["-joinToken", &token] } else { &[] };
        let port = port.to_string();
        run(&domain, service, arguments).await?.refused(&[&port, documented("Address already in use")?])?;
    }
    domain.stop_service(Service::Issuer).await?;
    for port in [ports.issuer, ports.issuer_health] {
        let _taken = TcpListener::bind(("127.0.0.1", port))?;
        run(&domain, Service::Issuer, &[]).await?.refused(&[&port.to_string(), "Address already in use"])?;
    }
    // Nothing was lost: it starts as soon as the ports are free.
    domain.restart(Service::Issuer).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_cannot_be_used() -> Result<()> {
    for service in [Service::Issuer, Service::Agent, Service::Gateway] {
        let plan = Plan::new("cloud.example")?;
        fs::write(plan.file("occupied"), "a file")?;
        fs::write(plan.file("bundle.pem"), "")?;
        // /proc takes no folder from anybody, not even root.
        for (path, text) in [
            (plan.file("occupied"), documented("is not a folder")?),
            (plan.file("occupied/below"), documented("cannot be created")?),
            ("/proc/entente".into(), documented("cannot be created")?),
        ] {
            let plan = Plan::new("cloud.example")?;
            let plan = match service {
                Service::Issuer => plan.issuer("data_dir", json!(path)),
                Service::Agent => plan
                    .agent("data_dir", json!(path))
                    .agent("trust_bundle_path", Value::Null)
                    .agent("insecure_bootstrap", json!(true)),
                Service::Gateway => plan.gateway("data_dir", json!(path)),
            };
            let domain = Domain::from_plan(plan);
            let arguments: &[&str] = if service == Service::Agent { &["-joinToken", "x"] } else { &[] };
            run(&domain, service, arguments).await?.refused(&[&path.display().to_string(), text])?;
            domain.stop().await?;
        }
        ensure!(fs::read_to_string(plan.file("occupied"))? == "a file");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    let before = (domain.authorities().await?, domain.counts().await?);
    for service in [Service::Issuer, Service::Agent, Service::Gateway] {
        let pid = domain.pid(service)?.as_raw_nonzero().to_string();
        let stderr = run(&domain, service, &[]).await?.refused(&[documented("is in use by another process")?, &pid])?;
        ensure!(stderr.contains(service.word()), "{stderr}");
    }
    // The first ones did not notice.
    for service in [Service::Issuer, Service::Agent, Service::Gateway] {
        domain.process(service)?.check_running()?;
        domain.ready(service).await?;
    }
    assert_eq!((domain.authorities().await?, domain.counts().await?), before);
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_another_process_answers_on() -> Result<()> {
    let first = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    let plan = Plan::new("other.example")?.issuer("socket_path", json!(first.issuer_socket()));
    let second = Domain::from_plan(plan);
    let socket = first.issuer_socket().display().to_string();
    run(&second, Service::Issuer, &[]).await?.refused(&[&socket, documented("is in use by a running process")?])?;
    ensure!(first.issuer_cli(&["healthcheck"]).await?.ok()?.contains("Server is healthy."));
    second.stop().await?;
    first.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn join_tokens_that_do_not_count() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    let used = documented("join token does not exist or has already been used")?;
    run(&domain, Service::Agent, &["-joinToken", "no-such-token"]).await?.refused(&[used])?;

    let token = domain.issuer_json(&["token", "generate", "-ttl", "1"]).await?;
    let expires: u64 = token["expires_at"].as_str().context("no expires_at")?.parse()?;
    let token = token["value"].as_str().context("no token")?.to_owned();
    wait::until("the token expires", || async {
        ensure!(std::time::UNIX_EPOCH.elapsed()?.as_secs() > expires, "not yet");
        Ok(())
    })
    .await?;
    run(&domain, Service::Agent, &["-joinToken", &token]).await?.refused(&[documented("join token expired")?])?;
    ensure!(domain.counts().await?[1] == 0, "an agent was made");

    // A token works once; the agent that used it keeps what it got.
    let token = domain.join_token(None).await?;
    domain.launch(Service::Agent, &["-joinToken", &token])?;
    domain.ready(Service::Agent).await?;
    let folder = tempfile::tempdir()?;
    let thief = Plan::new("cloud.example")?
        .agent("server_port", json!(domain.ports().issuer))
        .agent("trust_bundle_path", json!(domain.file("bundle.pem")))
        .agent("data_dir", json!(folder.path()));
    let thief = Domain::from_plan(thief);
    run(&thief, Service::Agent, &["-joinToken", &token]).await?.refused(&[used])?;
    ensure!(domain.counts().await?[1] == 1);
    thief.stop().await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_of_an_unknown_authority() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    let mut stranger = Domain::from_plan(Plan::new("cloud.example")?);
    stranger.start_issuer().await?;
    // The agent holds the other issuer's bundle, of the same trust domain's name.
    fs::copy(stranger.file("bundle.pem"), domain.file("bundle.pem"))?;
    let token = domain.join_token(None).await?;
    let arguments = ["-joinToken", &token];
    run(&domain, Service::Agent, &arguments).await?.refused(&[documented("trust bundle")?])?;
    // The token was not spent on it.
    let bundle = domain.issuer_cli(&["bundle", "show"]).await?.ok()?;
    fs::write(domain.file("bundle.pem"), bundle)?;
    domain.launch(Service::Agent, &arguments)?;
    domain.ready(Service::Agent).await?;
    stranger.stop().await?;
    domain.stop().await
}

/// What a clock that is behind sees: an issuer whose certificate begins in the future.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_certificate_is_not_valid_yet() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let root = Root::create(&plan.file("."))?;
    fs::copy(&root.certificate, plan.file("bundle.pem"))?;
    let (chain, key) = root.sign_leaf_with(&plan.file("."), "spiffe://cloud.example/spire/server", |leaf| {
        leaf.not_before = rcgen::date_time_ymd(2100, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2101, 1, 1);
    })?;
    let _server = Greeter::start_on(plan.ports().issuer, tls::server(&chain, &key)?).await?;
    let domain = Domain::from_plan(plan);
    run(&domain, Service::Agent, &["-joinToken", "x"])
        .await?
        .refused(&[documented("is before the start of the issuer's certificate")?])?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_bundles_that_are_none() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    fs::write(plan.file("empty.pem"), "")?;
    fs::write(plan.file("key.pem"), fs::read(plan.web_key())?)?;
    for (name, texts) in
        [("empty.pem", ["empty.pem", ""]), ("key.pem", ["key.pem", ""]), ("missing.pem", ["missing.pem", ""])]
    {
        let domain = Domain::from_plan(Plan::new("cloud.example")?.agent("trust_bundle_path", json!(plan.file(name))));
        run(&domain, Service::Agent, &["-joinToken", "x"]).await?.refused(&texts)?;
        domain.stop().await?;
    }
    // Without any bundle it wants to be told that this is meant.
    let domain = Domain::from_plan(Plan::new("cloud.example")?.agent("trust_bundle_path", Value::Null));
    run(&domain, Service::Agent, &["-joinToken", "x"]).await?.refused(&["insecure_bootstrap"])?;
    domain.stop().await
}
