//! x509pop: the node proves that it holds the key of an X.509 certificate.
//!
//! The agent sends its certificates; they must chain to configured roots (or, in mode `spiffe`, to this trust domain's
//! own bundle). Then it signs a fresh nonce together with one of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use aws_lc_rs::rand;
use federation_specs::{
    attestation::{NONCE_BYTES, NonceChallenge, X509POP, X509popChallenge, X509popPayload, X509popResponse},
    bundle::{Bundle, BundleError},
    certificate::{Certificate, KeyUsage},
    id::TrustDomain,
    public_key::{KeyKind, PublicKey},
    selector::Selector,
    x509_svid::verify_path,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tonic::Code;

use super::{
    Attempt, AttestationError, AttestedAgent, Challenger, NodeAttestor,
    agent_path::{AgentPathError, AgentPathTemplate},
};
use crate::store::Store;

mod certificate;
mod proof;

use certificate::NodeCertificate;

/// Largest file of root certificates, in bytes.
const MAX_ROOTS_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Largest value of `max_intermediates`.
const MAX_MAX_INTERMEDIATES: usize = 8;

/// Largest value of `max_rsa_key_size`, in bits.
const MAX_MAX_RSA_KEY_SIZE: usize = 8192;

/// Fields that `agent_path_template` may name.
const TEMPLATE_FIELDS: &[&str] = &[
    "PluginName",
    "TrustDomain",
    "Fingerprint",
    "SerialNumberHex",
    "SVIDPathTrimmed",
    "Subject.CommonName",
    "URISanSelectors.*",
];

/// Which roots the certificates must chain to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The roots in the configured files.
    #[default]
    ExternalPki,
    /// The X.509 authorities of this trust domain; the SVID's path becomes the agent's.
    Spiffe,
}

/// Options of the attestor, named as SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct X509popConfig {
    /// Which roots the certificates must chain to.
    pub mode: Mode,
    /// PEM file of roots; mode `external_pki` needs this or `ca_bundle_paths`.
    pub ca_bundle_path: Option<PathBuf>,
    /// Several PEM files of roots.
    pub ca_bundle_paths: Vec<PathBuf>,
    /// In mode `spiffe`, what the path of the node's SPIFFE ID must begin with.
    pub svid_prefix: String,
    /// Path of the agent's SPIFFE ID after `/spire/agent`.
    pub agent_path_template: Option<String>,
    /// Most certificates after the first.
    pub max_intermediates: usize,
    /// Largest RSA key, in bits.
    pub max_rsa_key_size: usize,
    /// The client's address must be one of the certificate's IP names.
    pub verify_client_ip: bool,
}

impl Default for X509popConfig {
    fn default() -> Self {
        Self {
            mode: Mode::ExternalPki,
            ca_bundle_path: None,
            ca_bundle_paths: Vec::new(),
            svid_prefix: "/spire-exchange/".into(),
            agent_path_template: None,
            max_intermediates: 4,
            max_rsa_key_size: 8192,
            verify_client_ip: false,
        }
    }
}

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum X509popConfigError {
    /// No roots.
    #[error("ca_bundle_path is missing; name a PEM file with the roots of the node certificates")]
    NoRoots,
    /// Both ways to name roots.
    #[error("ca_bundle_path and ca_bundle_paths are both set; keep one of them")]
    RootsTwice,
    /// Roots where none belong.
    #[error("ca_bundle_path has no meaning in mode spiffe; remove it, or use mode external_pki")]
    RootsInSpiffeMode,
    /// The prefix is no path.
    #[error("svid_prefix `{0}` does not begin with /")]
    SvidPrefix(String),
    /// A limit is out of range.
    #[error("{setting} is {value}; use a value from {least} to {most}")]
    Limit {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// Smallest value.
        least: usize,
        /// Largest value.
        most: usize,
    },
    /// The template is not valid.
    #[error(transparent)]
    Template(#[from] AgentPathError),
    /// A file of roots cannot be read.
    #[error("root certificates {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of roots holds none.
    #[error("root certificates {} are not usable: {source}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
}

impl X509popConfig {
    /// Checks the options without opening files.
    ///
    /// # Errors
    /// [`X509popConfigError`] with the remedy.
    pub fn check(&self) -> Result<(), X509popConfigError> {
        let limit = |setting, value, least, most| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(X509popConfigError::Limit { setting, value, least, most })
            }
        };
        limit("max_intermediates", self.max_intermediates, 0, MAX_MAX_INTERMEDIATES)?;
        limit("max_rsa_key_size", self.max_rsa_key_size, 2048, MAX_MAX_RSA_KEY_SIZE)?;
        match (self.mode, &self.ca_bundle_path, self.ca_bundle_paths.as_slice()) {
            (Mode::ExternalPki, None, []) => Err(X509popConfigError::NoRoots),
            (Mode::ExternalPki, Some(_), [_, ..]) => Err(X509popConfigError::RootsTwice),
            (Mode::Spiffe, Some(_), _) | (Mode::Spiffe, _, [_, ..]) => Err(X509popConfigError::RootsInSpiffeMode),
            _ => Ok(()),
        }?;
        if !self.svid_prefix.starts_with('/') {
            return Err(X509popConfigError::SvidPrefix(self.svid_prefix.clone()));
        }
        self.template()?;
        Ok(())
    }

    fn template(&self) -> Result<AgentPathTemplate, AgentPathError> {
        let default = match self.mode {
            Mode::ExternalPki => "/{{ .PluginName }}/{{ .Fingerprint }}",
            Mode::Spiffe => "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}",
        };
        AgentPathTemplate::parse(self.agent_path_template.as_deref().unwrap_or(default), TEMPLATE_FIELDS)
    }

    fn svid_prefix(&self) -> String {
        let prefix = self.svid_prefix.trim_end_matches('/');
        format!("{prefix}/")
    }
}

/// Roots the certificates must chain to.
#[derive(Debug)]
enum Roots {
    Files(Vec<Certificate>),
    OwnBundle(Store),
}

/// Attests agents by possession of a certificate's key.
#[derive(Debug)]
pub struct X509popAttestor {
    config: X509popConfig,
    trust_domain: TrustDomain,
    template: AgentPathTemplate,
    roots: Roots,
}

impl X509popAttestor {
    /// Checks the options and reads the files of roots.
    ///
    /// # Errors
    /// [`X509popConfigError`].
    pub fn open(config: X509popConfig, store: &Store) -> Result<Self, X509popConfigError> {
        config.check()?;
        let trust_domain = store.trust_domain().clone();
        let roots = match config.mode {
            Mode::Spiffe => Roots::OwnBundle(store.clone()),
            Mode::ExternalPki => {
                let mut roots = Vec::new();
                for path in config.ca_bundle_path.iter().chain(&config.ca_bundle_paths) {
                    roots.extend(read_roots(path, &trust_domain)?);
                }
                Roots::Files(roots)
            }
        };
        let template = config.template()?;
        Ok(Self { config, trust_domain, template, roots })
    }

    fn read(&self, payload: &[u8]) -> Result<(NodeCertificate, Vec<Certificate>), AttestationError> {
        let payload =
            X509popPayload::from_json(payload).map_err(|error| AttestationError::invalid(error.to_string()))?;
        let [leaf, intermediates @ ..] = payload.certificates.as_slice() else {
            return Err(AttestationError::invalid("no certificate to attest"));
        };
        if intermediates.len() > self.config.max_intermediates {
            return Err(AttestationError::invalid("too many intermediate certificates"));
        }
        let leaf = NodeCertificate::from_der(leaf, self.trust_domain.as_str())
            .map_err(|error| AttestationError::invalid(format!("unable to parse leaf certificate: {error}")))?;
        self.check_key_size(leaf.parsed())?;
        let mut parsed = Vec::with_capacity(intermediates.len());
        for (index, der) in intermediates.iter().enumerate() {
            let intermediate = Certificate::from_der(der).map_err(|error| {
                AttestationError::invalid(format!("unable to parse intermediate certificate {index}: {error}"))
            })?;
            self.check_key_size(&intermediate)?;
            parsed.push(intermediate);
        }
        Ok((leaf, parsed))
    }

    fn check_key_size(&self, certificate: &Certificate) -> Result<(), AttestationError> {
        match certificate.public_key().map(PublicKey::kind) {
            Ok(KeyKind::Rsa(bits)) if bits > self.config.max_rsa_key_size => {
                Err(AttestationError::invalid("RSA key size exceeds the maximum allowed"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(AttestationError::invalid(format!("certificate's public key is not usable: {error}"))),
        }
    }

    /// SHA-1 fingerprints of every CA above the leaf, one chain for each root that one leads to.
    fn verify(
        &self,
        leaf: &Certificate,
        intermediates: &[Certificate],
        now: OffsetDateTime,
    ) -> Result<Vec<String>, AttestationError> {
        let bundle;
        let roots: Vec<&Certificate> = match &self.roots {
            Roots::Files(roots) => roots.iter().collect(),
            Roots::OwnBundle(store) => {
                bundle = store.own_bundle();
                bundle
                    .iter()
                    .flat_map(|bundle| bundle.x509_authorities())
                    .map(|authority| authority.certificate())
                    .collect()
            }
        };
        let pinned = roots.iter().any(|root| root.der() == leaf.der()) && leaf.is_valid_at(now);
        let mut fingerprints: Vec<String> = Vec::new();
        let mut failure = None;
        for root in roots {
            match verify_path(leaf, intermediates, &[root], now) {
                Ok(path) => fingerprints.extend(path.iter().map(|ca| certificate::fingerprint(ca.der()))),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if fingerprints.is_empty() && !pinned {
            let reason = failure.map_or_else(|| "there are no roots".into(), |error| error.to_string());
            return Err(AttestationError::denied(format!("certificate verification failed: {reason}")));
        }
        fingerprints.sort();
        fingerprints.dedup();
        Ok(fingerprints)
    }

    fn check_client_address(&self, leaf: &Certificate, client: Option<IpAddr>) -> Result<(), AttestationError> {
        if !self.config.verify_client_ip {
            return Ok(());
        }
        let client = client
            .ok_or_else(|| AttestationError::new(Code::Internal, "client IP address is not known"))?
            .to_canonical();
        let octets = match client {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        if leaf.names().ips.contains(&octets) {
            Ok(())
        } else {
            Err(AttestationError::denied("client IP address is not an IP SAN of the certificate"))
        }
    }

    /// Mode `spiffe`: the path of the node's SPIFFE ID after the prefix.
    fn trimmed_path(&self, leaf: &NodeCertificate) -> Result<Option<String>, AttestationError> {
        if self.config.mode != Mode::Spiffe {
            return Ok(None);
        }
        let path = leaf.spiffe_path().and_then(|path| path.strip_prefix(&self.config.svid_prefix()).map(str::to_owned));
        path.map(Some).ok_or_else(|| AttestationError::denied("x509 cert doesnt match SVID prefix"))
    }

    fn attested(
        &self,
        leaf: &NodeCertificate,
        ca_fingerprints: Vec<String>,
        trimmed_path: Option<String>,
    ) -> Result<AttestedAgent, AttestationError> {
        let mut fields: BTreeMap<String, String> = BTreeMap::from([
            ("PluginName".into(), X509POP.into()),
            ("TrustDomain".into(), self.trust_domain.to_string()),
            ("Fingerprint".into(), leaf.fingerprint()),
            ("SerialNumberHex".into(), leaf.serial_hex().to_owned()),
        ]);
        if let Some(path) = trimmed_path {
            fields.insert("SVIDPathTrimmed".into(), path);
        }
        if let Some(name) = leaf.common_name() {
            fields.insert("Subject.CommonName".into(), name.to_owned());
        }
        for (key, value) in leaf.san_selectors() {
            fields.insert(format!("URISanSelectors.{key}"), value.clone());
        }
        let agent_id = self
            .template
            .agent_id(&self.trust_domain, &fields)
            .map_err(|error| AttestationError::new(Code::Internal, format!("failed to make spiffe id: {error}")))?;
        let values = leaf.common_name().map(|name| format!("subject:cn:{name}")).into_iter();
        let values = values.chain(ca_fingerprints.into_iter().map(|print| format!("ca:fingerprint:{print}")));
        let values = values.chain([format!("serialnumber:{}", leaf.serial_hex())]);
        let values = values.chain(leaf.san_selectors().iter().map(|(key, value)| format!("san:{key}:{value}")));
        let selectors: Result<Vec<_>, _> = values.map(|value| Selector::new(X509POP, value)).collect();
        let selectors = selectors
            .map_err(|error| AttestationError::invalid(format!("certificate gives an unusable selector: {error}")))?;
        Ok(AttestedAgent { agent_id, selectors, can_reattest: true, spends_token: None })
    }
}

fn read_roots(path: &Path, trust_domain: &TrustDomain) -> Result<Vec<Certificate>, X509popConfigError> {
    let unreadable = |source| X509popConfigError::Unreadable { path: path.to_path_buf(), source };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_ROOTS_FILE_BYTES {
        return Err(unreadable(io::Error::other(format!("the file is larger than {MAX_ROOTS_FILE_BYTES} bytes"))));
    }
    let pem = fs::read(path).map_err(unreadable)?;
    let roots = Bundle::parse_pem_roots(trust_domain.clone(), &pem)
        .map_err(|source| X509popConfigError::Roots { path: path.to_path_buf(), source })?;
    Ok(roots.x509_authorities().iter().map(|authority| authority.certificate().clone()).collect())
}

/// A fresh challenge for the kind of the leaf's key.
fn challenge(leaf: &Certificate) -> Result<(X509popChallenge, [u8; NONCE_BYTES]), AttestationError> {
    let failure = |text: &str| AttestationError::new(Code::Internal, format!("unable to generate challenge: {text}"));
    if !leaf.key_usage().is_some_and(|usage| usage.contains(KeyUsage::DIGITAL_SIGNATURE)) {
        return Err(failure("certificate not intended for digital signature use"));
    }
    let mut nonce = [0; NONCE_BYTES];
    rand::fill(&mut nonce).map_err(|_| failure("no randomness"))?;
    let challenge = match leaf.public_key().map(PublicKey::kind) {
        Ok(KeyKind::Rsa(_)) => {
            X509popChallenge { rsa_signature: Some(NonceChallenge { nonce: nonce.to_vec() }), ecdsa_signature: None }
        }
        Ok(KeyKind::P256 | KeyKind::P384 | KeyKind::P521) => {
            X509popChallenge { rsa_signature: None, ecdsa_signature: Some(NonceChallenge { nonce: nonce.to_vec() }) }
        }
        _ => return Err(failure("unsupported public key type")),
    };
    Ok((challenge, nonce))
}

fn check_response(leaf: &Certificate, nonce: &[u8], response: &[u8]) -> Result<(), AttestationError> {
    let response = X509popResponse::from_json(response)
        .map_err(|error| AttestationError::invalid(format!("unable to unmarshal challenge response: {error}")))?;
    let failure = |text: &str| AttestationError::denied(format!("challenge response verification failed: {text}"));
    let key = leaf.public_key().map_err(|error| failure(&error.to_string()))?;
    let is_rsa = matches!(key.kind(), KeyKind::Rsa(_));
    let verified = match (is_rsa, response.rsa_signature, response.ecdsa_signature) {
        (true, Some(proof), _) => {
            let message = signed_message(nonce, &proof.nonce).ok_or_else(|| failure("invalid nonce length"))?;
            proof::verify_rsa_pss(key, &message, &proof.signature)
        }
        (false, _, Some(proof)) => {
            let message = signed_message(nonce, &proof.nonce).ok_or_else(|| failure("invalid nonce length"))?;
            proof::verify_ecdsa(key, &message, &proof.r, &proof.s)
        }
        _ => return Err(failure("no signature of the certificate's kind of key")),
    };
    if verified { Ok(()) } else { Err(failure("signature verify failed")) }
}

/// What both sides' nonces sign together.
fn signed_message(challenge: &[u8], response: &[u8]) -> Option<Vec<u8>> {
    (response.len() == NONCE_BYTES).then(|| [challenge, response].concat())
}

#[async_trait]
impl NodeAttestor for X509popAttestor {
    fn name(&self) -> &'static str {
        X509POP
    }

    async fn attest(
        &self,
        attempt: Attempt,
        challenger: &mut dyn Challenger,
    ) -> Result<AttestedAgent, AttestationError> {
        let (leaf, intermediates) = self.read(&attempt.payload)?;
        let ca_fingerprints = self.verify(leaf.parsed(), &intermediates, attempt.now)?;
        self.check_client_address(leaf.parsed(), attempt.client_address)?;
        let (challenge, nonce) = challenge(leaf.parsed())?;
        let response = challenger.challenge(challenge.to_json()).await?;
        check_response(leaf.parsed(), &nonce, &response)?;
        let trimmed_path = self.trimmed_path(&leaf)?;
        self.attested(&leaf, ca_fingerprints, trimmed_path)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
