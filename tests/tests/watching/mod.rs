//! What every client of the Workload API must see while authorities rotate; the programs in `tests/peers` speak the
//! same events, so one scenario serves them all.

use anyhow::{Result, ensure};
use entente_tests::{
    domain::Domain,
    peer::{Peer, text},
    rotation::Kind,
};
use serde_json::Value;

fn holds(event: &Value, trust_domain: &str, key: &str) -> bool {
    event["bundles"][trust_domain].as_array().is_some_and(|keys| keys.iter().any(|held| held == key))
}

/// Starts a domain and a client in it, and rotates both authorities under the client's eyes.
pub(crate) async fn follows_a_rotation(start: impl FnOnce(&Domain) -> Result<Peer>) -> Result<()> {
    const NAME: &str = "cloud.example";
    let domain = Domain::start(NAME).await?;
    domain.create_entry("/web", &[]).await?;
    let mut peer = start(&domain)?;
    let (old, old_jwt) = (domain.active_authority(Kind::X509).await?, domain.active_authority(Kind::Jwt).await?);

    let first = peer.event("x509_source").await?;
    assert_eq!(first["id"], domain.id("/web"));
    assert_eq!(first["authority_key_id"], old);
    peer.event_where("jwt_bundles", |event| holds(event, NAME, &old_jwt)).await?;
    let token = peer.ask("jwt greeter other", "jwt_svid").await?;
    assert_eq!(token["id"], domain.id("/web"));
    let old_token = text(&token, "token")?.to_owned();
    assert_eq!(peer.ask(&format!("validate greeter {old_token}"), "valid").await?["id"], domain.id("/web"));
    peer.ask(&format!("validate stranger {old_token}"), "invalid").await?;

    let (new, new_jwt) = (domain.prepare_authority(Kind::X509).await?, domain.prepare_authority(Kind::Jwt).await?);
    peer.event_where("jwt_bundles", |event| holds(event, NAME, &new_jwt) && holds(event, NAME, &old_jwt)).await?;
    domain.activate_authority(Kind::X509, &new).await?;
    domain.activate_authority(Kind::Jwt, &new_jwt).await?;
    domain.taint_authority(Kind::X509, &old).await?;
    domain.taint_authority(Kind::Jwt, &old_jwt).await?;
    let renewed = peer.event_where("x509_source", |event| event["authority_key_id"] == new.as_str()).await?;
    ensure!(renewed["serial"] != first["serial"], "{renewed}");

    domain.revoke_authority(Kind::X509, &old).await?;
    domain.revoke_authority(Kind::Jwt, &old_jwt).await?;
    peer.event_where("jwt_bundles", |event| !holds(event, NAME, &old_jwt)).await?;
    peer.event_where("x509_context", |event| holds(event, NAME, &new) && !holds(event, NAME, &old)).await?;
    // Signed with the new key: the client validates it with the bundle it was pushed.
    peer.ask("jwt greeter other", "jwt_svid").await?;
    peer.ask(&format!("validate greeter {old_token}"), "invalid").await?;
    peer.finish().await?;
    domain.stop().await
}
