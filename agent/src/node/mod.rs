//! Node attestation: how this agent proves to the issuer which machine it runs on.

pub mod attest;
pub mod bootstrap;
pub mod join_token;
pub mod x509pop;

use std::fmt::Debug;

use async_trait::async_trait;
use zeroize::Zeroizing;

/// Challenges answered in one attestation.
pub const MAX_CHALLENGES: usize = 16;

/// Largest challenge accepted, in bytes.
pub const MAX_CHALLENGE_BYTES: usize = 1 << 20;

/// Proves this node to the issuer (SPIRE 1.15). One value serves one attestation at a time.
#[async_trait]
pub trait NodeAttestor: Send + Sync + Debug {
    /// Name of the attestor, sent as the attestation type.
    fn name(&self) -> &'static str;

    /// What is sent first.
    ///
    /// # Errors
    /// [`NodeAttestorError`] when the evidence cannot be had.
    async fn payload(&self) -> Result<Zeroizing<Vec<u8>>, NodeAttestorError>;

    /// The answer to a challenge of the issuer.
    ///
    /// # Errors
    /// [`NodeAttestorError`] when the challenge is not understood; an attestor that expects none refuses every one.
    async fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestorError>;

    /// Whether what is sent may be used once only, so that a second attempt cannot succeed.
    fn is_single_use(&self) -> bool {
        false
    }
}

/// Why the evidence for an attestation cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NodeAttestorError {
    /// The issuer sent a challenge where none belongs.
    #[error(
        "the issuer sent a challenge, which {0} attestation does not have; check that agent and issuer use the same attestor"
    )]
    UnexpectedChallenge(&'static str),
    /// The challenge has another form than expected.
    #[error("the issuer's challenge is not understood: {0}")]
    BadChallenge(String),
    /// No join token is configured.
    #[error(
        "no join token is given; make one at the issuer (`entente issuer token generate`) and pass it with -joinToken, join_token or join_token_file"
    )]
    NoToken,
    /// A file cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    File {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{what} {path} is not usable: {reason}")]
    Content {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The crypto library failed.
    #[error("signing the answer failed in the crypto library")]
    Crypto,
}

/// Reads a file of at most `limit` bytes.
fn read_file(what: &'static str, path: &std::path::Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, NodeAttestorError> {
    use std::io::Read;
    let file_error = |source| NodeAttestorError::File { what, path: path.display().to_string(), source };
    // Room for the whole file, so that growing leaves no copies of a secret behind.
    let file = std::fs::File::open(path).map_err(file_error)?;
    let size = file.metadata().map_err(file_error)?.len().min(limit) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default()));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(file_error)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it is larger than {limit} bytes");
        return Err(NodeAttestorError::Content { what, path: path.display().to_string(), reason });
    }
    Ok(bytes)
}
