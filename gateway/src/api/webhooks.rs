//! Webhooks: how each is doing.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `GET /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    /// Every webhook, in the order of the configuration.
    pub webhooks: Vec<Webhook>,
}

/// One receiver of events, and how delivering to it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its name in the configuration.
    pub name: String,
    /// Scheme, host and port of its URL; the path may be a secret.
    pub url: String,
    /// Types and groups of events it wants; empty for all of them.
    pub events: Vec<String>,
    /// Whether it works.
    pub health: WebhookHealth,
    /// Events that wait to be delivered to it.
    pub waiting: u64,
    /// When the oldest of them happened.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub oldest_waiting: Option<OffsetDateTime>,
    /// When an event was last delivered.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_success: Option<OffsetDateTime>,
    /// When an event was last sent.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<OffsetDateTime>,
    /// When the next attempt is due, while the last one failed.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<OffsetDateTime>,
    /// Why the last attempt failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Events given up since the webhook was configured, because they were too old or too many.
    pub dropped: u64,
}

/// Whether a webhook works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookHealth {
    /// Nothing was sent yet.
    Pending,
    /// The last event was delivered.
    Healthy,
    /// It was not, and is sent again.
    Failing,
    /// The receiver answered 410 Gone: nothing is sent before a restart.
    Disabled,
}

/// Answer to `POST /v1/webhooks/{name}/test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookTest {
    /// Whether the receiver took the message.
    pub delivered: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
