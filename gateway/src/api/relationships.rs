//! Relationships and how they are doing.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{bundles::BundleSummary, managed::Managed, waiting::WaitingBundle};
use crate::refresh::policy::{Drift, Emptied, Mode};

/// `GET /v1/relationships`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelationshipList {
    /// Relationships this gateway keeps, by trust domain.
    pub relationships: Vec<Relationship>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One federation relationship and how it is doing. Also `GET /v1/relationships/{trust_domain}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Relationship {
    /// The partner, bare name.
    pub trust_domain: String,
    /// The local trust domains that receive the partner's bundle.
    pub local_trust_domains: Vec<String>,
    /// Bundle endpoint URL.
    pub url: String,
    /// Further URLs of the same bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover_urls: Vec<String>,
    /// The one of them that gave the last bundle, while `url` gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_in_use: Option<String>,
    /// How the endpoint proves who it is.
    pub profile: Profile,
    /// SPIFFE ID of the endpoint (`https_spiffe` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_spiffe_id: Option<String>,
    /// Certificate authorities that replace the system's (`https_web` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Document>,
    /// The bundle of the endpoint's trust domain to start with (`https_spiffe` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_bundle: Option<Document>,
    /// Networks that are not public and may be asked, besides those of `refresh.allow_addresses`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_addresses: Vec<String>,
    /// Who defined the relationship.
    pub origin: Origin,
    /// Set and version, if it is managed over this API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,
    /// Summary of the state below.
    pub health: Health,
    /// Who decides about changes.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of a bundle without keys.
    #[serde(default)]
    pub emptied: Emptied,
    /// What becomes of a bundle that somebody changed at an issuer.
    #[serde(default)]
    pub drift: Drift,
    /// Seconds after which a bundle the partner does not confirm is taken from the issuers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_age_seconds: Option<u64>,
    /// Since when the bundle held is older than that.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<OffsetDateTime>,
    /// Set while the relationship is stopped in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// A fetched bundle that is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingBundle>,
    /// Why the last attempt failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When a fetch was last tried.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<OffsetDateTime>,
    /// When the partner last answered with an acceptable bundle, changed or not.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_success: Option<OffsetDateTime>,
    /// Seconds since the bundle held was confirmed or put in force, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_age_seconds: Option<u64>,
    /// Seconds until the next fetch is due, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_seconds: Option<u64>,
    /// Seconds until the first X.509 authority held expires, when this was written; negative afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_expiry_seconds: Option<i64>,
    /// When the next fetch is due.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_refresh: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// The bundle held for the partner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<BundleSummary>,
    /// Delivery of the held bundle to each local trust domain's issuer.
    pub deliveries: Vec<Delivery>,
    /// Local trust domains whose issuer names another endpoint for this partner and therefore receive nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// The gateway that works on the relationship, where several share a database; absent while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}

impl Relationship {
    /// What an operator did or has to do.
    pub fn states(&self) -> Vec<RelationshipState> {
        let mut states = Vec::new();
        if self.frozen.is_some() {
            states.push(RelationshipState::Frozen);
        }
        match &self.waiting {
            Some(waiting) if waiting.rejected_at.is_none() => states.push(RelationshipState::Waiting),
            Some(_) => states.push(RelationshipState::Rejected),
            None => {}
        }
        if self.deliveries.iter().any(|delivery| delivery.drift.is_some()) {
            states.push(RelationshipState::Drift);
        }
        if !self.conflicts.is_empty() {
            states.push(RelationshipState::Conflict);
        }
        states
    }
}

/// What an operator did to a relationship or has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RelationshipState {
    /// It is stopped in place.
    Frozen,
    /// A bundle waits for a decision.
    Waiting,
    /// The bundle the partner serves was turned down.
    Rejected,
    /// An issuer holds something else than was delivered.
    Drift,
    /// An issuer names another endpoint.
    Conflict,
}

impl RelationshipState {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Waiting => "waiting",
            Self::Rejected => "rejected",
            Self::Drift => "drift",
            Self::Conflict => "conflict",
        }
    }
}

/// Who stopped a relationship in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Frozen {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who, in words.
    pub by: String,
    /// Why.
    #[serde(default)]
    pub why: String,
}

/// Bundle endpoint profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Web PKI certificate.
    HttpsWeb,
    /// X509-SVID with an agreed SPIFFE ID.
    HttpsSpiffe,
}

impl Profile {
    /// The name the standard uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe => "https_spiffe",
        }
    }
}

/// A document a relationship was given with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Document {
    /// The file of the gateway it is read from each time it is needed.
    File(String),
    /// SHA-256 of one that was given itself, lowercase hex: of the text of authorities; of the keys of a bundle, as
    /// `content_digest` elsewhere.
    Digest(String),
}

/// Where a relationship comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The gateway's configuration.
    Config,
    /// Managed over this API (`entente gateway apply`, `entente gateway relationship create`).
    Managed,
    /// Created at an issuer (`entente issuer federation create`).
    Issuer,
}

/// How a relationship is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not tried yet.
    Pending,
    /// The last attempt succeeded.
    Healthy,
    /// The last attempt failed; the bundle accepted before is still in use.
    Degraded,
    /// The last attempt failed and no bundle is held.
    Failing,
    /// The partner has not confirmed the bundle within the maximum age; the issuers do not have it any more.
    Expired,
}

impl Health {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Expired => "expired",
        }
    }

    /// The health of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Pending, Self::Healthy, Self::Degraded, Self::Failing, Self::Expired];
        all.into_iter().find(|health| health.as_str() == name)
    }
}

/// Delivery of a partner's bundle to one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The local trust domain whose issuer receives the bundle.
    pub local_trust_domain: String,
    /// True once the issuer confirmed the bundle that is held now.
    pub delivered: bool,
    /// When the issuer last confirmed one.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<OffsetDateTime>,
    /// Why the last delivery failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Set while the issuer holds something else than was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DeliveryDrift>,
}

/// An issuer holds something else than was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryDrift {
    /// When it was noticed.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Content digest of what the issuer holds; absent if it holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_digest: Option<String>,
}

/// Body of `POST /v1/relationships/{trust_domain}/refresh`; an empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// Accept this once a bundle with a lower sequence than the one held, for a partner known to have been rebuilt.
    #[serde(default)]
    pub accept_rollback: bool,
    /// Accept this once a bundle without keys, which revokes all trust in the partner.
    #[serde(default)]
    pub accept_emptied: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

impl RefreshRequest {
    /// Whether something is accepted this once that is not by itself.
    pub fn accepts_more(&self) -> bool {
        self.accept_rollback || self.accept_emptied
    }
}

/// Answer to a refresh that reached the partner and got an acceptable bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefreshResult {
    /// True when the fetched bundle differs from the one held before and was accepted.
    pub changed: bool,
    /// The relationship after the refresh.
    pub relationship: Relationship,
}
