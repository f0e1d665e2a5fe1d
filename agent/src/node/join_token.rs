//! The `join_token` node attestor: a token made at the issuer, good for one attestation (SPIRE 1.15).

use std::path::PathBuf;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{NodeAttestor, NodeAttestorError, read_file};

/// Name of the attestor.
pub const NAME: &str = "join_token";

/// Longest token file read.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// Where the token comes from.
#[derive(Clone)]
pub enum TokenSource {
    /// The token itself.
    Value(Zeroizing<String>),
    /// A file with the token; white space around it does not count. Read at each attestation.
    File(PathBuf),
    /// None was given, which is right for an agent that has attested before.
    Missing,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Missing => f.write_str("Missing"),
        }
    }
}

/// Attests with a join token.
#[derive(Debug, Clone)]
pub struct JoinTokenAttestor {
    source: TokenSource,
}

impl JoinTokenAttestor {
    /// An attestor for this token.
    pub fn new(source: TokenSource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl NodeAttestor for JoinTokenAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn payload(&self) -> Result<Zeroizing<Vec<u8>>, NodeAttestorError> {
        match &self.source {
            TokenSource::Value(token) => Ok(Zeroizing::new(token.as_bytes().to_vec())),
            TokenSource::File(path) => {
                let bytes = read_file("join token file", path, MAX_TOKEN_FILE_BYTES)?;
                let content = |reason: &str| NodeAttestorError::Content {
                    what: "join token file",
                    path: path.display().to_string(),
                    reason: reason.into(),
                };
                let text = std::str::from_utf8(&bytes).map_err(|_| content("it is not text"))?.trim();
                if text.is_empty() {
                    return Err(content("it is empty"));
                }
                Ok(Zeroizing::new(text.as_bytes().to_vec()))
            }
            TokenSource::Missing => Err(NodeAttestorError::NoToken),
        }
    }

    async fn answer(&self, _challenge: &[u8]) -> Result<Vec<u8>, NodeAttestorError> {
        Err(NodeAttestorError::UnexpectedChallenge(NAME))
    }

    fn is_single_use(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sends_the_token_and_refuses_challenges() {
        let attestor = JoinTokenAttestor::new(TokenSource::Value("t-1".to_string().into()));
        assert_eq!(attestor.payload().await.unwrap().as_slice(), b"t-1");
        assert!(matches!(attestor.answer(b"x").await, Err(NodeAttestorError::UnexpectedChallenge("join_token"))));
        assert!(!format!("{attestor:?}").contains("t-1"));
    }

    #[tokio::test]
    async fn reads_a_file_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "  t-2\n").unwrap();
        let attestor = JoinTokenAttestor::new(TokenSource::File(path.clone()));
        assert_eq!(attestor.payload().await.unwrap().as_slice(), b"t-2");
        std::fs::write(&path, " \n").unwrap();
        assert!(attestor.payload().await.unwrap_err().to_string().ends_with("is not usable: it is empty"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(attestor.payload().await, Err(NodeAttestorError::File { .. })));
        let missing = JoinTokenAttestor::new(TokenSource::Missing);
        assert!(missing.payload().await.unwrap_err().to_string().contains("entente issuer token generate"));
    }
}
