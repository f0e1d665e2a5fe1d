//! The publishers of served bundles.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `GET /v1/publishers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublisherList {
    /// Publishers, by trust domain and then by name.
    pub publishers: Vec<Publisher>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A publisher in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublisherHealth {
    /// Not tried yet, or there is no bundle yet.
    Pending,
    /// The place holds what is served.
    Healthy,
    /// The last attempt failed.
    Failing,
}

impl PublisherHealth {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
        }
    }
}

/// A place the bundle of a served trust domain is published to, and how that is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Publisher {
    /// The served trust domain.
    pub trust_domain: String,
    /// Name of the publisher.
    pub name: String,
    /// Kind of place, as in the configuration: `aws_s3`.
    pub kind: String,
    /// The place in words.
    pub place: String,
    /// Name of the gateway that publishes; only where several share a database, and while one does. A file is published
    /// by each of them, and this is the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// In a word.
    pub health: PublisherHealth,
    /// What the place was last seen to hold after a publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedDocument>,
    /// When the place was last seen to hold what is served.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_success: Option<OffsetDateTime>,
    /// When it was last tried.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<OffsetDateTime>,
    /// When it is tried or looked at next.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Why the last attempt failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The last time the place was found to hold something else than was published, since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<PublisherDrift>,
}

/// What a place was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedDocument {
    /// SHA-256 of the document, lowercase hex.
    pub digest: String,
    /// Sequence number of the bundle it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it was first seen there.
    #[serde(with = "time::serde::rfc3339")]
    pub confirmed_at: OffsetDateTime,
}

/// A place held something else than was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublisherDrift {
    /// When that was noticed.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// SHA-256 of what it held, lowercase hex; absent if it held nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How often since the start.
    pub count: u64,
}
