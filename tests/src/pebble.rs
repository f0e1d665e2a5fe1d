//! Pebble, the ACME test server of Let's Encrypt, with a DNS server in which every name is 127.0.0.1.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::process::Command;

use crate::{ports, process::Process, wait, web, web_ca::WebCa};

/// What to do when it is not there.
const REMEDY: &str = "run tests/ci/system-packages.sh test, which installs the Debian package `pebble`";

/// How the certificate authority behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it looks for HTTP-01, instead of port 80.
    pub http_port: u16,
    /// Where it looks for TLS-ALPN-01, instead of port 443.
    pub tls_port: u16,
    /// Life of certificates in seconds.
    pub validity: u32,
    /// How many of a hundred good nonces it refuses.
    pub nonce_reject: u8,
    /// Key ID and base64url HMAC key of the only external account it lets in.
    pub external_account: Option<(String, String)>,
}

impl Options {
    /// A well-behaved one that looks for both challenges on `port`.
    pub fn validating_on(port: u16) -> Self {
        Self { http_port: port, tls_port: port, validity: 3600, nonce_reject: 0, external_account: None }
    }
}

/// A place for Pebble that stays the same when it is stopped and started again. Pebble itself forgets everything.
#[derive(Debug)]
pub struct Pebble {
    dir: PathBuf,
    ca: WebCa,
    directory: u16,
    management: u16,
    dns: u16,
    options: Options,
    running: Option<(Process, Process)>,
}

impl Pebble {
    /// Folder and ports; nothing runs yet.
    pub fn new(dir: &Path, options: Options) -> Result<Self> {
        let dir = dir.join("pebble");
        std::fs::create_dir_all(&dir)?;
        let ca = WebCa::create(&dir)?;
        let (directory, management, dns) = (ports::free()?, ports::free()?, ports::free()?);
        Ok(Self { dir, ca, directory, management, dns, options, running: None })
    }

    /// URL of the directory.
    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.directory)
    }

    /// PEM file of the authority that signed the directory's own certificate.
    pub fn ca(&self) -> &Path {
        &self.ca.ca
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let options = &self.options;
        let mut config = json!({
            "listenAddress": format!("127.0.0.1:{}", self.directory),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.ca.certificate,
            "privateKey": self.ca.key,
            "httpPort": options.http_port,
            "tlsPort": options.tls_port,
            "certificateValidityPeriod": options.validity,
        });
        if let Some((id, key)) = &options.external_account {
            config["externalAccountBindingRequired"] = json!(true);
            config["externalAccountMACKeys"] = json!({id: key});
        }
        let file = self.dir.join("pebble.json");
        std::fs::write(&file, json!({"pebble": config}).to_string())?;

        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-dns01", &format!("127.0.0.1:{}", self.dns), "-defaultIPv6", "", "-http01", "", "-https01", ""]);
        dns.args(["-tlsalpn01", "", "-management", &format!("127.0.0.1:{}", ports::free()?)]);
        let dns = Process::start("pebble-challtestsrv", dns, &self.dir.join("dns.log")).context(REMEDY)?;
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&file).args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        pebble.env("PEBBLE_WFE_NONCEREJECT", options.nonce_reject.to_string());
        let pebble = Process::start("pebble", pebble, &self.log_file()).context(REMEDY)?;
        self.running = Some((pebble, dns));
        let client = web::client(self.ca())?;
        let url = self.directory_url();
        wait::until("pebble answers", || async {
            let status = client.get(&url).send().await?.status();
            ensure!(status == 200, "{status}");
            Ok(())
        })
        .await
        .with_context(|| crate::process::tail("pebble", &self.log_file()))
    }

    /// SIGKILL to both.
    pub async fn stop(&mut self) -> Result<()> {
        let (mut pebble, mut dns) = self.running.take().context("pebble does not run")?;
        pebble.kill9().await?;
        dns.kill9().await
    }

    /// Its log file.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("pebble.log")
    }

    /// The root of the certificates it issues, another one after each start, as a PEM file.
    pub async fn root(&self) -> Result<PathBuf> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let answer = web::client(self.ca())?.get(url).send().await?.error_for_status()?;
        let file = self.dir.join("root.pem");
        std::fs::write(&file, answer.bytes().await?)?;
        Ok(file)
    }
}
