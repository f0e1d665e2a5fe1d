//! Credentials that clouds give to programs that run there: by the environment, by files that are projected, by metadata
//! servers. The gateway runs in a process of its own with that environment, and asks the clouds' own addresses.

mod aws;
mod azure;
mod google;

use std::{path::PathBuf, process::Stdio};

use axum::Router;
use gateway::{Gateway, api::publishers::PublisherHealth};
use serde_json::Value;
use service_kit::{clock::SystemClock, lifecycle::Shutdown};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

use super::{
    conformance::{setup, until},
    internet::Internet,
};
use crate::support::{Setup, client::Admin, eventually};

/// Names the configuration file of a gateway in a process of its own.
const CONFIG: &str = "ENTENTE_TEST_GATEWAY_CONFIG";

/// Clients renew what lasts for less than five minutes more.
const LAST_MINUTES: i64 = 300;

/// How long what is given out is kept by clients, in seconds.
const KEPT: i64 = 2;

/// A gateway in a process of its own.
struct Elsewhere {
    setup: Setup,
    internet: Internet,
    admin: Admin,
    // Ends with it.
    _process: Child,
}

impl AsRef<Admin> for Elsewhere {
    fn as_ref(&self) -> &Admin {
        &self.admin
    }
}

impl Elsewhere {
    /// A gateway that publishes to `place`, with this environment and nothing else of this one's, on a network with these
    /// hosts.
    async fn start(place: Value, environment: &[(&str, String)], hosts: Vec<(&str, Router)>) -> Self {
        let setup = setup(place).await;
        let internet = Internet::start(&setup, hosts).await;
        let config = setup.file("gateway.json");
        std::fs::write(&config, setup.config.to_string()).unwrap();
        let log = || std::fs::File::options().create(true).append(true).open(setup.file("gateway.log")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "publishers::credentials::a_gateway_elsewhere", "--ignored", "--nocapture"])
            .env_clear()
            .env(CONFIG, config)
            .env("HOME", setup.folder.path())
            .envs(internet.environment())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .kill_on_drop(true);
        let process = command.spawn().unwrap();
        let socket: PathBuf = serde_json::from_value(setup.config["socket_path"].clone()).unwrap();
        eventually("the gateway to answer", || async { UnixStream::connect(&socket).await.is_ok() }).await;
        Self { admin: Admin::new(socket), setup, internet, _process: process }
    }

    async fn published(&self, sequence: u64) {
        until(self, "publication", |now| {
            let published = now.published.as_ref().and_then(|published| published.sequence);
            published == Some(sequence) && now.health == PublisherHealth::Healthy
        })
        .await;
    }

    /// A new bundle is published, after what was given out at first was renewed: `given_out` counts.
    async fn goes_on_with_renewed(&self, given_out: impl Fn() -> usize) {
        eventually("the credentials to be renewed", || async { given_out() >= 3 }).await;
        let next = self.setup.issuer.state().authority.bundle(2);
        self.setup.issuer.state().own = next;
        self.published(2).await;
    }

    async fn refused(&self) -> String {
        until(self, "error", |now| now.last_error.is_some()).await.last_error.unwrap()
    }
}

/// When something given out now ends, that clients keep for [`KEPT`].
fn expiry() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::seconds(LAST_MINUTES + KEPT)
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

/// A file with a token of the machine, in a folder of its own.
fn token_file(token: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, token).unwrap();
    (folder, path)
}

/// The gateway itself: this program, started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests of this module, each with an environment of its own"]
async fn a_gateway_elsewhere() {
    let path = std::env::var_os(CONFIG).expect("a configuration, which the tests of this module give");
    let config = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    service_kit::crypto::install();
    let gateway = Gateway::start(&config, SystemClock::shared(), Shutdown::new()).await.unwrap();
    gateway.run().await.unwrap();
}
