//! Forcing an issuer's authorities to rotate.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::domain::Domain;

/// X.509 or JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signs X509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

fn authority_id(answer: &Value, member: &str) -> Result<String> {
    let id = answer[member]["authority_id"].as_str();
    Ok(id.with_context(|| format!("no {member} in {answer}"))?.to_owned())
}

impl Domain {
    /// Prepares a new authority, published at once but not signing: its ID.
    pub async fn prepare_authority(&self, kind: Kind) -> Result<String> {
        let answer = self.issuer_json(&["localauthority", kind.word(), "prepare"]).await?;
        authority_id(&answer, "prepared_authority")
    }

    /// Lets a prepared authority sign.
    pub async fn activate_authority(&self, kind: Kind, id: &str) -> Result<()> {
        self.issuer_json(&["localauthority", kind.word(), "activate", "-authorityID", id]).await.map(drop)
    }

    /// The authority that signs now.
    pub async fn active_authority(&self, kind: Kind) -> Result<String> {
        authority_id(&self.issuer_json(&["localauthority", kind.word(), "show"]).await?, "active")
    }

    /// Marks an old authority as no longer to be used, so that everything it signed is signed again.
    pub async fn taint_authority(&self, kind: Kind, id: &str) -> Result<()> {
        self.issuer_json(&["localauthority", kind.word(), "taint", "-authorityID", id]).await.map(drop)
    }

    /// Removes an old, tainted authority from the bundle.
    pub async fn revoke_authority(&self, kind: Kind, id: &str) -> Result<()> {
        self.issuer_json(&["localauthority", kind.word(), "revoke", "-authorityID", id]).await.map(drop)
    }
}
