//! Where one trust domain's files lie below its folder, and its URLs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use federation_specs::id::{SpiffeId, TrustDomain};

use crate::local::ports::Ports;

/// Longest path of a Unix socket on Linux, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The folder, ports and names of one trust domain.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    folder: PathBuf,
    trust_domain: TrustDomain,
    ports: Ports,
}

impl Layout {
    /// Makes the folder (0700) and checks that its sockets can be named.
    pub(crate) fn new(folder: &Path, trust_domain: TrustDomain, ports: Ports) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = std::path::absolute(folder)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let layout = Self { folder, trust_domain, ports };
        let longest = layout.agent_admin_socket();
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            bail!(
                "the folder name is too long: {} has more than {MAX_SOCKET_PATH} bytes, and Unix sockets cannot be \
                 longer; choose a shorter --dir",
                longest.display()
            );
        }
        Ok(layout)
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// `name` inside the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn issuer_socket(&self) -> PathBuf {
        self.file("run/issuer/api.sock")
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.file("run/agent/api.sock")
    }

    pub(crate) fn agent_admin_socket(&self) -> PathBuf {
        self.file("run/agent-admin/admin.sock")
    }

    pub(crate) fn gateway_socket(&self) -> PathBuf {
        self.file("run/gateway/api.sock")
    }

    pub(crate) fn web_ca(&self) -> PathBuf {
        self.file("web-ca.pem")
    }

    pub(crate) fn web_certificate(&self) -> PathBuf {
        self.file("web-certificate.pem")
    }

    pub(crate) fn web_key(&self) -> PathBuf {
        self.file("web-key.pem")
    }

    /// The issuer's own bundle as the agent needs it to begin with.
    pub(crate) fn bootstrap_bundle(&self) -> PathBuf {
        self.file("bundle.pem")
    }

    /// The same as SPIFFE JSON, for partners that federate over `https_spiffe`.
    pub(crate) fn spiffe_bundle(&self) -> PathBuf {
        self.file("bundle.json")
    }

    /// What `SPIFFE_ENDPOINT_SOCKET` must hold for this domain's workloads.
    pub(crate) fn endpoint_socket(&self) -> String {
        format!("unix://{}", self.agent_socket().display())
    }

    pub(crate) fn bundle_url_web(&self) -> String {
        format!("https://127.0.0.1:{}/{}", self.ports.web, self.trust_domain)
    }

    pub(crate) fn bundle_url_spiffe(&self) -> String {
        format!("https://127.0.0.1:{}/{}", self.ports.spiffe, self.trust_domain)
    }

    /// The OIDC issuer, below which discovery document and keys lie.
    pub(crate) fn oidc_url(&self) -> String {
        self.bundle_url_web()
    }

    /// The SPIFFE ID the gateway's `https_spiffe` endpoint presents.
    pub(crate) fn endpoint_id(&self) -> Result<SpiffeId> {
        self.id("/entente/gateway")
    }

    /// The alias of this domain's one agent, parent of its entries.
    pub(crate) fn agent_id(&self) -> Result<SpiffeId> {
        self.id("/node/local")
    }

    pub(crate) fn id(&self, path: &str) -> Result<SpiffeId> {
        Ok(SpiffeId::from_parts(&self.trust_domain, path)?)
    }
}
