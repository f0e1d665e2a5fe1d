//! Certificates of the `https_web` listener from a real ACME certificate authority, Pebble.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Result, ensure};
use entente_tests::{
    documented::documented,
    domain::{Domain, Service},
    observe::{self, gateway_log, says},
    pebble::{Options, Pebble},
    plan::Plan,
    ports, wait,
    workload::spiffe_id,
};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const NAMES: [&str; 2] = ["gateway.cloud.example", "bundles.cloud.example"];
const SVID_NAME: &str = "spiffe.cloud.example";

/// The `acme` section for a certificate of [`NAMES`] from `pebble`.
fn acme(pebble: &Pebble) -> Value {
    json!({
        "directory_url": pebble.directory_url(),
        "domain_names": NAMES,
        "email": "ops@cloud.example",
        "tos_accepted": true,
        "ca_file": pebble.ca(),
    })
}

/// A domain whose one listener has a certificate from Pebble and, for [`SVID_NAME`], an X509-SVID.
fn plan_with(plan: Plan, acme: &Value) -> Plan {
    let port = plan.ports().web;
    let https_web = json!({"bind_address": "127.0.0.1", "bind_port": port, "acme": acme});
    let https_spiffe = json!({"bind_address": "127.0.0.1", "bind_port": port});
    plan.gateway("listeners", json!({"https_web": https_web, "https_spiffe": https_spiffe}))
        .served_domain("server_names", json!([SVID_NAME]))
}

/// Issuer and gateway, not waiting for the gateway to be ready.
async fn launch(plan: Plan) -> Result<Domain> {
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    domain.launch(Service::Gateway, &[])?;
    Ok(domain)
}

/// A client that trusts Pebble's root alone and finds the names at the listener.
fn client(domain: &Domain, root: &Path, http2: bool) -> Result<Client> {
    entente_tests::install_crypto();
    let address = SocketAddr::from(([127, 0, 0, 1], domain.ports().web));
    let mut builder = Client::builder()
        .tls_certs_only(Certificate::from_pem_bundle(&std::fs::read(root)?)?)
        .no_proxy()
        .timeout(Duration::from_secs(20));
    for name in NAMES {
        builder = builder.resolve(name, address);
    }
    if !http2 {
        builder = builder.http1_only();
    }
    Ok(builder.build()?)
}

fn url(domain: &Domain, name: &str) -> String {
    format!("https://{name}:{}/cloud.example", domain.ports().web)
}

/// A handshake with the one listener.
async fn handshake(domain: &Domain, name: &str, alpn: &[&[u8]]) -> Result<(TlsStream<TcpStream>, Vec<u8>)> {
    observe::handshake(domain.ports().web, name, alpn).await
}

/// The value of a metric of the `https_web` listener's certificate.
async fn metric(domain: &Domain, name: &str, more: &str) -> Result<f64> {
    let labels = format!("listener=\"https_web\",certificate=\"web\"{more}");
    observe::metric(domain, &format!("entente_gateway_certificate_{name}{{{labels}}}")).await
}

/// Every file below the ACME folder, which must be this user's alone.
fn private_files(domain: &Domain) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in std::fs::read_dir(domain.file("gateway/acme"))? {
        for file in std::fs::read_dir(folder?.path())? {
            let file = file?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", file.path().display());
            names.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01_on_the_listener_itself_and_a_restart() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let mut pebble = Pebble::new(&plan.file("."), Options::validating_on(plan.ports().web))?;
    let mut domain = launch(plan_with(plan, &acme(&pebble))).await?;

    // Nobody to order from yet: the listener is there and refuses, and says why.
    says(&domain, 500, "https_web: no certificate yet: ").await?;
    says(&domain, 500, documented("the ACME directory cannot be reached")?).await?;
    ensure!(handshake(&domain, NAMES[0], &[b"h2"]).await.is_err(), "a handshake without a certificate");
    ensure!(gateway_log(&domain).contains("handshakes refused"), "{}", gateway_log(&domain));
    // The X509-SVID on the same listener does not wait for the other certificate.
    let (_, leaf) = handshake(&domain, SVID_NAME, &[b"h2"]).await?;
    assert_eq!(spiffe_id(&leaf)?, domain.endpoint_id());

    pebble.start().await?;
    domain.ready(Service::Gateway).await?;
    let root = pebble.root().await?;
    for http2 in [true, false] {
        for name in NAMES {
            let answer = client(&domain, &root, http2)?.get(url(&domain, name)).send().await?;
            let version = if http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 };
            ensure!(answer.status() == 200 && answer.version() == version, "{answer:?}");
            ensure!(answer.json::<Value>().await?["keys"].is_array());
        }
    }
    let (_, web_leaf) = handshake(&domain, NAMES[1], &[b"h2"]).await?;
    let (_, leaf) = handshake(&domain, SVID_NAME, &[b"h2"]).await?;
    assert_eq!(spiffe_id(&leaf)?, domain.endpoint_id());

    // Nothing is open any more: validations are refused, for names of both certificates. Who offers more is a client.
    for name in [NAMES[0], SVID_NAME] {
        ensure!(handshake(&domain, name, &[b"acme-tls/1"]).await.is_err(), "{name} still answers a challenge");
    }
    let (stream, _) = handshake(&domain, NAMES[0], &[b"acme-tls/1", b"h2"]).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    assert_eq!(private_files(&domain)?, ["account.json", "certificate.json"]);
    ensure!(metric(&domain, "renewals_total", ",result=\"ok\"").await? == 1.0);
    ensure!(metric(&domain, "renewals_total", ",result=\"failed\"").await? >= 1.0);
    ensure!(metric(&domain, "renewal_ok", "").await? == 1.0);
    let validated = "entente_gateway_connections_total{listener=\"https_web\",result=\"acme_validation\"}";
    ensure!(observe::metric(&domain, validated).await? >= 2.0, "both names were proven in handshakes");
    ensure!((3000.0..=3600.0).contains(&metric(&domain, "seconds_to_expiry", "").await?));

    // With nobody to order from, a restart serves the same certificate at once.
    pebble.stop().await?;
    domain.stop_service(Service::Gateway).await?;
    domain.restart(Service::Gateway).await?;
    let (_, again) = handshake(&domain, NAMES[0], &[b"h2"]).await?;
    ensure!(again == web_leaf, "another certificate after the restart");
    ensure!(client(&domain, &root, true)?.get(url(&domain, NAMES[0])).send().await?.status() == 200);
    ensure!(metric(&domain, "renewals_total", ",result=\"ok\"").await? == 0.0);
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_01_on_a_listener_of_its_own() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let port = ports::free()?;
    let mut pebble = Pebble::new(&plan.file("."), Options::validating_on(port))?;
    pebble.start().await?;
    let mut acme = acme(&pebble);
    acme["challenge"] = json!("http_01");
    acme["http_01"] = json!({"bind_address": "127.0.0.1", "bind_port": port, "redirect_to_https": true});
    let mut domain = launch(plan_with(plan, &acme)).await?;
    domain.ready(Service::Gateway).await?;
    let root = pebble.root().await?;
    ensure!(client(&domain, &root, true)?.get(url(&domain, NAMES[0])).send().await?.status() == 200);

    // Challenges that are over, and everything else, are not there; its own names are sent to https.
    let plain = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let ask = |path: &str, host: &'static str| {
        plain.get(format!("http://127.0.0.1:{port}{path}")).header("host", host).send()
    };
    ensure!(ask("/.well-known/acme-challenge/x", NAMES[0]).await?.status() == 404);
    ensure!(ask("/cloud.example", "other.example").await?.status() == 404);
    let answer = ask("/cloud.example", NAMES[1]).await?;
    assert_eq!(answer.headers()["location"], format!("https://{}/cloud.example", NAMES[1]));
    // A handshake is no answer to this challenge.
    ensure!(handshake(&domain, NAMES[0], &[b"acme-tls/1"]).await.is_err());
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_survives_a_certificate_authority_that_went_away_and_forgot() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let mut options = Options::validating_on(plan.ports().web);
    // Renewed after some thirteen seconds. Every fifth good nonce is refused.
    (options.validity, options.nonce_reject) = (20, 20);
    let mut pebble = Pebble::new(&plan.file("."), options)?;
    pebble.start().await?;
    let mut domain = launch(plan_with(plan, &acme(&pebble))).await?;
    domain.ready(Service::Gateway).await?;
    let root = pebble.root().await?;
    let (_, first) = handshake(&domain, NAMES[0], &[b"h2"]).await?;
    // One connection, held open through all that follows.
    let held = client(&domain, &root, true)?;
    let fetch = || async {
        let answer = held.get(url(&domain, NAMES[0])).send().await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(())
    };
    fetch().await?;
    let connections =
        || observe::metric(&domain, "entente_gateway_connections_total{listener=\"https_web\",result=\"served\"}");
    let before = connections().await?;

    wait::until("the certificate is renewed", || async {
        fetch().await?;
        ensure!(metric(&domain, "renewals_total", ",result=\"ok\"").await? >= 2.0, "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(connections().await?, before, "the connection was dropped");
    let (_, second) = handshake(&domain, NAMES[0], &[b"h2"]).await?;
    ensure!(first != second, "still the old certificate");

    // Away at the next renewal: the certificate goes on, and everybody can see that it was not renewed.
    pebble.stop().await?;
    says(&domain, 200, "not renewed: the ACME directory cannot be reached").await?;
    fetch().await?;
    ensure!(client(&domain, &root, true)?.get(url(&domain, NAMES[0])).send().await?.status() == 200);
    ensure!(metric(&domain, "renewal_ok", "").await? == 0.0);

    // Back without a memory: another root, and the account is unknown.
    pebble.start().await?;
    let root = pebble.root().await?;
    wait::until("a certificate of the new root is served", || async {
        let answer = client(&domain, &root, true)?.get(url(&domain, NAMES[0])).send().await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(())
    })
    .await?;
    ensure!(gateway_log(&domain).contains("ACME account is gone"), "{}", gateway_log(&domain));
    wait::until("the last renewal worked", || async {
        ensure!(metric(&domain, "renewal_ok", "").await? == 1.0);
        Ok(())
    })
    .await?;
    fetch().await?;
    domain.ready(Service::Gateway).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_to_do() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    // Validates where nobody listens, and knows one external account.
    let mut options = Options::validating_on(ports::free()?);
    options.external_account =
        Some(("kid-1".to_owned(), "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned()));
    let mut pebble = Pebble::new(&plan.file("."), options)?;
    pebble.start().await?;
    let mut wrong = acme(&pebble);
    // Some other authority than the one that signed the directory's certificate.
    wrong["ca_file"] = json!(plan.web_ca());
    let mut plan = plan_with(plan, &wrong);
    let mut unbound = acme(&pebble);
    std::fs::write(plan.file("hmac"), "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n")?;
    let mut domain = launch(plan).await?;
    says(&domain, 500, documented("was not trusted")?).await?;
    says(&domain, 500, "set listeners.https_web.acme.ca_file").await?;
    domain.stop_service(Service::Gateway).await?;
    domain.stop_service(Service::Issuer).await?;

    plan = plan_with(Plan::new("cloud.example")?, &unbound);
    unbound["external_account"] = json!({"key_id": "kid-1", "hmac_key_file": domain.file("hmac")});
    let mut second = launch(plan).await?;
    says(&second, 500, documented("knows only accounts it was told of before")?).await?;
    says(&second, 500, "set listeners.https_web.acme.external_account").await?;
    second.stop_service(Service::Gateway).await?;
    second.stop_service(Service::Issuer).await?;

    let third = launch(plan_with(Plan::new("cloud.example")?, &unbound)).await?;
    says(&third, 500, documented("was not proven by TLS-ALPN-01")?).await?;
    says(&third, 500, "port 443 of the name must lead to the https_web listener").await?;
    for domain in [domain, second, third] {
        domain.stop().await?;
    }
    Ok(())
}
