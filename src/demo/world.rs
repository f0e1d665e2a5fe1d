//! The processes of the demo.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use federation_specs::id::{SpiffeId, TrustDomain};
use serde_json::json;
use service_kit::clock::{Clock, SystemClock};

use crate::demo::observer::{self, Workload};
use crate::demo::{impostor, report};
use crate::local::domain::{Domain, Options};
use crate::local::layout::Layout;
use crate::local::ports::Ports;
use crate::local::web_ca;

/// How often the demo looks whether a process has ended.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Two domains that federate, the issuer of a third that does not, and a workload on each side.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cloud: Domain,
    pub(crate) onprem: Domain,
    pub(crate) stranger: Domain,
    pub(crate) shop: Option<Workload>,
    pub(crate) stock: Option<Workload>,
    pub(crate) shop_program: PathBuf,
    pub(crate) stock_program: PathBuf,
    pub(crate) shop_address: SocketAddr,
    pub(crate) stock_address: SocketAddr,
    pub(crate) root: PathBuf,
    pub(crate) root_key: PathBuf,
    folder: PathBuf,
}

impl World {
    /// Writes everything the processes need; none runs yet.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let now = SystemClock.now();
        let layout =
            |short: &str, name: &str| Layout::new(&folder.join(short), TrustDomain::parse(name)?, Ports::free()?);
        let cloud = layout("cloud", "cloud.example")?;
        let onprem = layout("onprem", "onprem.example")?;
        let stranger = layout("stranger", "stranger.example")?;
        web_ca::ensure(&cloud, now)?;
        web_ca::ensure(&onprem, now)?;
        let (root, root_key) = (cloud.file("root.pem"), cloud.file("root-key.pem"));
        impostor::make_root(&root, &root_key, now)?;

        let quick = Options { refresh_hint: "4s", min_refresh_interval: "1s", ..Options::default() };
        let cloud_options = Options { upstream: Some((root.clone(), root_key.clone())), ..quick.clone() };
        // onprem reads cloud's bundle over https_web, with the CA of that one relationship. The other
        // direction, https_spiffe, is declared at cloud's issuer once onprem has a bundle to start from.
        let relationship = json!({
            "trust_domain": cloud.trust_domain().as_str(),
            "url": cloud.bundle_url_web(),
            "profile": "https_web",
            "ca_file": cloud.web_ca(),
        });
        let onprem_options = Options { relationships: vec![relationship], ..quick };
        Ok(Self {
            shop_program: observer::install(&cloud, "shop")?,
            stock_program: observer::install(&onprem, "stock")?,
            cloud: Domain::new(cloud, cloud_options)?,
            onprem: Domain::new(onprem, onprem_options)?,
            stranger: Domain::new(stranger, Options::default())?,
            shop: None,
            stock: None,
            shop_address: free_address()?,
            stock_address: free_address()?,
            root,
            root_key,
            folder: folder.to_owned(),
        })
    }

    pub(crate) fn shop_id(&self) -> Result<SpiffeId> {
        self.cloud.layout().id("/shop")
    }

    pub(crate) fn stock_id(&self) -> Result<SpiffeId> {
        self.onprem.layout().id("/stock")
    }

    pub(crate) fn workloads(&mut self) -> Result<(&mut Workload, &mut Workload)> {
        let missing = "the workloads do not run";
        Ok((self.shop.as_mut().context(missing)?, self.stock.as_mut().context(missing)?))
    }

    /// Waits until a process ends that should not; gives the reason.
    pub(crate) async fn watch(&mut self) -> anyhow::Error {
        loop {
            for domain in [&mut self.cloud, &mut self.onprem] {
                if let Err(error) = domain.check() {
                    return error;
                }
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        for workload in [self.shop.take(), self.stock.take()].into_iter().flatten() {
            let mut workload = workload;
            workload.stop().await;
        }
        tokio::join!(self.cloud.stop(), self.onprem.stop(), self.stranger.stop());
    }

    pub(crate) fn log_tails(&self) -> String {
        let workloads = [&self.shop, &self.stock].into_iter().flatten().map(Workload::log_tail);
        [&self.cloud, &self.onprem].into_iter().map(|domain| domain.log_tails()).chain(workloads).collect()
    }

    pub(crate) fn print_what_to_try(&self) {
        let (cloud, onprem) = (self.cloud.layout(), self.onprem.layout());
        let command = std::env::args_os().next().map_or_else(|| "entente".into(), PathBuf::from);
        let entente = command.display();
        report::section(
            "It stays up. Try, in another shell:",
            &[
                format!("curl --cacert {} {}", cloud.web_ca().display(), cloud.bundle_url_web()),
                format!(
                    "curl --cacert {} {}/.well-known/openid-configuration",
                    cloud.web_ca().display(),
                    cloud.oidc_url()
                ),
                format!("curl --insecure {}", onprem.bundle_url_spiffe()),
                format!("{entente} agent api fetch x509 -socketPath {}", cloud.agent_socket().display()),
                format!("{entente} issuer entry show -socketPath {}", cloud.issuer_socket().display()),
                format!("{entente} gateway relationship list -socketPath {}", onprem.gateway_socket().display()),
                format!("tail -f {}/*/*.log", self.folder.display()),
            ],
        );
        anstream::println!("\nCtrl-C ends every process and removes {}.", self.folder.display());
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}
