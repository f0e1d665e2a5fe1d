//! The loopback ports of one trust domain, kept in its folder so that a restart keeps its URLs.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Every TCP port one trust domain listens on, all on 127.0.0.1.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) issuer: u16,
    pub(crate) issuer_health: u16,
    pub(crate) agent_health: u16,
    pub(crate) gateway_health: u16,
    pub(crate) web: u16,
    pub(crate) spiffe: u16,
}

impl Ports {
    /// Six ports that are free now. They are held together while being chosen, so they differ.
    pub(crate) fn free() -> Result<Self> {
        let listeners = (0..6)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("no free port on 127.0.0.1")?;
        let mut ports = Vec::with_capacity(listeners.len());
        for listener in &listeners {
            ports.push(listener.local_addr().context("cannot read the chosen port")?.port());
        }
        Ok(Self {
            issuer: ports[0],
            issuer_health: ports[1],
            agent_health: ports[2],
            gateway_health: ports[3],
            web: ports[4],
            spiffe: ports[5],
        })
    }

    /// The ports this folder used before, if all of them are free again; new ones otherwise.
    pub(crate) fn remembered(file: &Path) -> Result<Self> {
        let before = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let ports = match before {
            Some(ports) if ports.all().iter().all(|port| is_free(*port)) => ports,
            _ => Self::free()?,
        };
        std::fs::write(file, serde_json::to_vec_pretty(&ports)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(ports)
    }

    fn all(&self) -> [u16; 6] {
        [self.issuer, self.issuer_health, self.agent_health, self.gateway_health, self.web, self.spiffe]
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_remembered_while_free() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ports.json");
        let first = Ports::remembered(&file).unwrap();
        let mut all = first.all().to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
        assert_eq!(Ports::remembered(&file).unwrap().all(), first.all());

        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first.web)).unwrap();
        assert_ne!(Ports::remembered(&file).unwrap().web, first.web);
        drop(taken);
    }
}
