//! OpenSSL's view of our certificates: chains verify, and `openssl x509 -text` reads as SPIRE's does (`golden/`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use entente_tests::{cli, domain::Domain, forgery::Root, plan::Plan, workload::Workload};
use serde_json::json;
use tokio::process::Command;

async fn openssl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(arguments);
    cli::run(command, "").await?.ok()
}

/// `openssl x509 -text` of every certificate in a PEM file.
async fn texts(pem: &Path) -> Result<Vec<String>> {
    let content = fs::read_to_string(pem)?;
    let mut texts = Vec::new();
    for (index, certificate) in content.split_inclusive("-----END CERTIFICATE-----\n").enumerate() {
        if certificate.contains("BEGIN CERTIFICATE") {
            let one = pem.with_extension(format!("{index}.one"));
            fs::write(&one, certificate)?;
            texts.push(openssl(&["x509", "-noout", "-text", "-in", &one.display().to_string()]).await?);
        }
    }
    ensure!(!texts.is_empty(), "no certificate in {}", pem.display());
    Ok(texts)
}

/// A certificate's text without what differs between two certificates of the same profile: serial numbers, times, key
/// and signature bytes, and the name of the join token.
fn profile(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_end();
        let content = line.trim();
        let hex =
            !content.is_empty() && content.chars().all(|c| c.is_ascii_hexdigit() || c == ':') && content.contains(':');
        if hex {
            if lines.last().is_some_and(|last: &String| last.trim() == "<bytes>") {
                continue;
            }
            lines.push(format!("{:indent$}<bytes>", ""));
        } else if content.starts_with("Not Before") || content.starts_with("Not After") {
            lines.push(format!("{:indent$}{}: <time>", "", content.split(':').next().unwrap_or_default().trim()));
        } else if let Some((head, tail)) = line.split_once("serialNumber = ") {
            let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            lines.push(format!("{head}serialNumber = <number>{rest}"));
        } else if let Some((head, _)) = line.split_once("/spire/agent/join_token/") {
            lines.push(format!("{head}/spire/agent/join_token/<token>"));
        } else if !content.starts_with('#') {
            lines.push(line.to_owned());
        }
    }
    // OpenSSL prints short serial numbers in one line, as a number.
    lines.join("\n").replace("Serial Number:\n            <bytes>", "Serial Number: <number>")
}

/// The certificates of a golden file.
fn golden(name: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/certs").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text
        .split("# certificate ")
        .skip(1)
        .map(|part| profile(part.split_once('\n').map_or("", |(_, rest)| rest)))
        .collect())
}

/// Fails unless the certificates in `pem` have the profile of those in the golden file.
async fn same_profile(pem: &Path, name: &str) -> Result<()> {
    let ours: Vec<String> = texts(pem).await?.iter().map(|text| profile(text)).collect();
    let theirs = golden(name)?;
    assert_eq!(ours.join("\n\n"), theirs.join("\n\n"), "ours is left, SPIRE's ({name}) right");
    Ok(())
}

/// The chain a TLS port of ours presents, as a PEM file.
async fn presented(domain: &Domain, port: u16, file: &str) -> Result<PathBuf> {
    let answer = openssl(&["s_client", "-connect", &format!("127.0.0.1:{port}"), "-showcerts", "-alpn", "h2"]).await?;
    let mut chain = String::new();
    let mut inside = false;
    for line in answer.lines() {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            chain.push_str(line);
            chain.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    let path = domain.file(file);
    fs::write(&path, chain)?;
    Ok(path)
}

/// `x509 mint`: the folder with svid.pem and bundle.pem.
async fn mint(domain: &Domain, name: &str, flags: &[&str]) -> Result<PathBuf> {
    let folder = domain.file(name);
    fs::create_dir(&folder)?;
    let (id, path) = (domain.id("/m"), folder.display().to_string());
    let arguments = [&["x509", "mint", "-spiffeID", &id, "-write", &path], flags].concat();
    domain.issuer_cli(&arguments).await?.ok()?;
    Ok(folder)
}

/// Replaces the entries' X509-SVIDs on disk by fetching again.
async fn fetch(domain: &Domain, name: &str) -> Result<PathBuf> {
    let folder = domain.file(name);
    fs::create_dir(&folder)?;
    domain.agent_cli(&["api", "fetch", "x509", "-write", &folder.display().to_string()]).await?.ok()?;
    Ok(folder.join("svid.0.pem"))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_have_spires_profile() -> Result<()> {
    let mut domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    same_profile(&domain.file("bundle.pem"), "cloud-ca").await?;
    same_profile(&presented(&domain, domain.ports().issuer, "server.pem").await?, "cloud-server").await?;

    let entry = domain.create_entry("/onrack", &[]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    same_profile(&fetch(&domain, "plain").await?, "cloud-workload").await?;
    domain.issuer_cli(&["entry", "delete", "-entryID", &entry]).await?.ok()?;
    domain.create_entry("/workload", &["-dns", "db.cloud.example", "-dns", "db2.cloud.example"]).await?;
    entente_tests::wait::until("the entry with DNS names is served", async || {
        let svid = domain.agent_cli(&["api", "fetch", "x509"]).await?.ok()?;
        ensure!(svid.contains("/workload") && !svid.contains("/onrack"), "{svid}");
        Ok(())
    })
    .await?;
    same_profile(&fetch(&domain, "dns").await?, "cloud-workload-dns").await?;

    // The agent's own certificate is in its folder.
    domain.stop_service(entente_tests::domain::Service::Agent).await?;
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(domain.file("agent/agent-data.json"))?)?;
    let encoded = kept["svid"][0].as_str().context("no SVID in agent-data.json")?;
    let pem = String::from_utf8(base64_decode(encoded)?)?;
    fs::write(domain.file("agent.pem"), pem)?;
    same_profile(&domain.file("agent.pem"), "cloud-agent-join-token").await?;
    domain.stop().await
}

fn base64_decode(text: &str) -> Result<Vec<u8>> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_below_an_upstream_authority_have_spires_profile() -> Result<()> {
    let plan = Plan::new("onprem.example")?;
    let root = Root::create(&plan.file("."))?;
    let subject = json!({"country": ["CH"], "organization": ["Example"], "common_name": "onprem CA"});
    let plan = plan
        .issuer("upstream_authority", json!({"disk": {"cert_file_path": root.certificate, "key_file_path": root.key}}))
        .issuer("ca_key_type", json!("ec-p384"))
        .issuer("ca_subject", subject);
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    let presented = presented(&domain, domain.ports().issuer, "server.pem").await?;
    let ours: Vec<String> = texts(&presented).await?.iter().map(|text| profile(text)).collect();
    let theirs = golden("onprem-server-chain")?;
    assert_eq!(ours[0], theirs[0], "ours is left, SPIRE's right");
    // The root that signed the CA differs (its name, key and so its signature), the rest must not.
    let shared = |text: &str| -> Vec<String> {
        let text = text.lines().filter(|line| !line.contains("Issuer:") && !line.contains("Signature Algorithm:"));
        text.map(str::to_owned).collect()
    };
    assert_eq!(shared(&ours[1]), shared(&theirs[1]), "ours is left, SPIRE's right");
    verifies(&domain.file("bundle.pem"), &presented).await?;

    let minted = mint(&domain, "minted", &[]).await?;
    verifies(&minted.join("bundle.pem"), &minted.join("svid.pem")).await?;
    domain.stop().await
}

/// `openssl verify` of a chain, strictly, as a TLS server's and as a TLS client's.
async fn verifies(roots: &Path, chain: &Path) -> Result<()> {
    let (roots, chain) = (roots.display().to_string(), chain.display().to_string());
    for purpose in ["sslserver", "sslclient"] {
        let arguments =
            ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &roots, "-untrusted", &chain, &chain];
        ensure!(openssl(&arguments).await?.trim_end().ends_with(": OK"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_every_key_type() -> Result<()> {
    for key_type in ["ec-p256", "ec-p384", "rsa-2048"] {
        let mut domain = Domain::from_plan(Plan::new("cloud.example")?.issuer("ca_key_type", json!(key_type)));
        domain.start_issuer().await?;
        let minted = mint(&domain, "minted", &["-dns", "d.example", "-ttl", "90s"]).await?;
        verifies(&minted.join("bundle.pem"), &minted.join("svid.pem")).await?;
        verifies(&domain.file("bundle.pem"), &presented(&domain, domain.ports().issuer, "server.pem").await?).await?;
        // The lifetime asked for, begun 10 s early against clocks that are behind.
        let (_, pem) = x509_parser::pem::parse_x509_pem(&fs::read(minted.join("svid.pem"))?)
            .map(|(rest, pem)| (rest.len(), pem))?;
        let validity = pem.parse_x509()?.validity().clone();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 100);
        domain.stop().await?;
    }
    Ok(())
}
