//! What the agent keeps across restarts, in `<data_dir>/agent-data.json` in SPIRE's format.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use federation_specs::{
    bundle::{Bundle, X509Authority},
    id::TrustDomain,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use service_kit::atomic_file;

/// Name of the file inside the data folder.
pub const FILE_NAME: &str = "agent-data.json";

/// Permission bits of the file.
const FILE_MODE: u32 = 0o600;

/// Largest file read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Bootstrapping is over: the state SPIRE writes after the first successful attestation.
const BOOTSTRAPPED: u8 = 2;

/// The time that stands for none.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read.
    #[error("agent state {} cannot be read: {source}; check its owner and permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("agent state {} is damaged ({reason}); move it away to attest again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be written.
    #[error("agent state {} cannot be written: {source}; check permissions and free space of the data folder", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file's content. Certificates are the base64 of PEM texts, one certificate each.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    svid: Option<Vec<String>>,
    #[serde(default)]
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(default)]
    bootstrap_use: u8,
    #[serde(default)]
    bootstrap_start_time: Option<String>,
    #[serde(default)]
    connection_attempts: u64,
}

/// The agent's SVID (without its key, which the key manager keeps) and the bundle it last received.
#[derive(Debug, Clone, Default)]
pub struct AgentData {
    /// Certificates in DER, leaf first; empty if there is no SVID.
    pub chain: Vec<Vec<u8>>,
    /// X.509 authorities of the agent's trust domain; `None` if none were received.
    pub bundle: Option<Bundle>,
    /// Whether the agent may attest again instead of renewing its SVID.
    pub reattestable: bool,
}

/// The file.
#[derive(Debug, Clone)]
pub struct SavedState {
    path: PathBuf,
    trust_domain: TrustDomain,
}

impl SavedState {
    /// The file inside this data folder.
    pub fn new(data_dir: &Path, trust_domain: TrustDomain) -> Self {
        Self { path: data_dir.join(FILE_NAME), trust_domain }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; a missing one holds nothing.
    ///
    /// # Errors
    /// [`SavedError`] if the file is there and cannot be understood.
    pub fn load(&self) -> Result<AgentData, SavedError> {
        let read_error = |source| SavedError::Read { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(read_error)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AgentData::default()),
            Err(error) => return Err(read_error(error)),
        };
        let damaged = |reason: String| SavedError::Damaged { path: self.path.clone(), reason };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(damaged(format!("larger than {MAX_FILE_BYTES} bytes")));
        }
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let chain = decode(content.svid.unwrap_or_default()).map_err(damaged)?;
        let roots = decode(content.bundle.unwrap_or_default()).map_err(damaged)?;
        let bundle = if roots.is_empty() {
            None
        } else {
            let authorities = roots
                .iter()
                .map(|der| X509Authority::from_der(der))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| damaged(error.to_string()))?;
            Some(Bundle::new(self.trust_domain.clone()).with_x509_authorities(authorities))
        };
        Ok(AgentData { chain, bundle, reattestable: content.reattestable })
    }

    /// Replaces the file. A crash at any moment leaves the old content or the new.
    ///
    /// # Errors
    /// [`SavedError::Write`].
    pub fn store(&self, data: &AgentData) -> Result<(), SavedError> {
        let write_error = |source| SavedError::Write { path: self.path.clone(), source };
        let bundle = data.bundle.as_ref().map(|bundle| {
            bundle.x509_authorities().iter().map(|authority| encode(authority.der())).collect::<Vec<_>>()
        });
        let content = Content {
            svid: (!data.chain.is_empty()).then(|| data.chain.iter().map(|der| encode(der)).collect()),
            bundle,
            reattestable: data.reattestable,
            bootstrap_use: BOOTSTRAPPED,
            bootstrap_start_time: Some(NO_TIME.into()),
            connection_attempts: 0,
        };
        let bytes = serde_json::to_vec(&content).map_err(|error| write_error(io::Error::other(error)))?;
        atomic_file::write(&self.path, &bytes, FILE_MODE).map_err(write_error)
    }
}

fn encode(der: &[u8]) -> String {
    BASE64_STANDARD.encode(pem(der))
}

/// The certificate as a PEM text.
pub fn pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let body = BASE64_STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn decode(items: Vec<String>) -> Result<Vec<Vec<u8>>, String> {
    items
        .into_iter()
        .map(|item| {
            let pem = BASE64_STANDARD.decode(item).map_err(|error| format!("a certificate is not base64: {error}"))?;
            let certificate =
                CertificateDer::from_pem_slice(&pem).map_err(|error| format!("a certificate is not PEM: {error}"))?;
            Ok(certificate.as_ref().to_vec())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::authority::Authority;

    fn trust_domain() -> TrustDomain {
        TrustDomain::parse("cloud.example").unwrap()
    }

    #[test]
    fn round_trip_with_mode_0600() {
        let folder = tempfile::tempdir().unwrap();
        let saved = SavedState::new(folder.path(), trust_domain());
        assert!(saved.load().unwrap().chain.is_empty());

        let authority = Authority::new("cloud.example");
        let data = AgentData {
            chain: vec![authority.certificate_der(), authority.certificate_der()],
            bundle: Some(authority.bundle()),
            reattestable: true,
        };
        saved.store(&data).unwrap();
        let mode = std::fs::metadata(saved.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let loaded = saved.load().unwrap();
        assert_eq!(loaded.chain, data.chain);
        assert_eq!(loaded.bundle.unwrap().x509_authorities(), [authority.x509_authority()]);
        assert!(loaded.reattestable);

        let text = std::fs::read_to_string(saved.path()).unwrap();
        assert!(
            text.contains(r#""bootstrap_use":2,"bootstrap_start_time":"0001-01-01T00:00:00Z","connection_attempts":0"#)
        );
        saved.store(&AgentData::default()).unwrap();
        assert!(std::fs::read_to_string(saved.path()).unwrap().starts_with(r#"{"svid":null,"#));
    }

    #[test]
    fn reads_the_files_of_a_spire_agent() {
        let folder = tempfile::tempdir().unwrap();
        let saved = SavedState::new(folder.path(), trust_domain());
        std::fs::write(saved.path(), include_bytes!("../testdata/agent-data.json")).unwrap();
        let data = saved.load().unwrap();
        assert_eq!(data.chain.len(), 1);
        assert_eq!(data.bundle.unwrap().x509_authorities().len(), 1);

        std::fs::write(saved.path(), include_bytes!("../testdata/agent-data-after-ban.json")).unwrap();
        let data = saved.load().unwrap();
        assert!(data.chain.is_empty());
        assert!(data.bundle.is_some());
    }

    #[test]
    fn damage_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let saved = SavedState::new(folder.path(), trust_domain());
        for content in ["", "7", r#"{"svid":["!"]}"#, r#"{"svid":["AAAA"]}"#, r#"{"bundle":["LS0tLS0="]}"#] {
            std::fs::write(saved.path(), content).unwrap();
            let error = saved.load().unwrap_err();
            assert!(error.to_string().contains("agent-data.json is damaged"), "{error}");
            assert!(error.to_string().ends_with("move it away to attest again"), "{error}");
            assert_eq!(std::fs::read_to_string(saved.path()).unwrap(), content);
        }
    }
}
