//! The audit log: who changed what, when and why, in a chain of hashes that shows every later change to it.
//!
//! A record is written in the transaction that makes the change it tells of ([`crate::store`]); what changes nothing,
//! such as a refused fetch, is in the log file and in the list of relationships instead.

pub mod chain;

use federation_specs::bundle::Bundle;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use crate::api::Role;

/// Longest reason an operator may give, in bytes.
pub const MAX_WHY_BYTES: usize = 1024;

/// Most keys of one kind a record names of a bundle; the digest stands for all of them.
const MAX_KEYS: usize = 64;

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Actor {
    /// The gateway by itself, following its configuration.
    Gateway,
    /// An issuer, by what somebody asked of it.
    Issuer {
        /// Its trust domain.
        trust_domain: String,
    },
    /// A user of this machine, as the kernel names the process at the other end of the admin socket.
    User {
        /// User ID.
        uid: u32,
        /// Login name, if this machine knows one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Process ID.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// Somebody at the admin listener, by the X509-SVID presented there.
    #[serde(rename = "spiffe_id")]
    Spiffe {
        /// The SPIFFE ID.
        spiffe_id: String,
        /// The role it has.
        role: Role,
    },
}

impl std::fmt::Display for Actor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gateway => formatter.write_str("gateway"),
            Self::Issuer { trust_domain } => write!(formatter, "issuer of {trust_domain}"),
            Self::User { uid, name: Some(name), .. } => write!(formatter, "{name} (uid {uid})"),
            Self::User { uid, name: None, .. } => write!(formatter, "uid {uid}"),
            Self::Spiffe { spiffe_id, role } => write!(formatter, "{spiffe_id} ({role})"),
        }
    }
}

/// What an operator orders: who, why, and about what.
pub struct Order<'a> {
    /// Who.
    pub by: &'a Actor,
    /// Why.
    pub why: &'a str,
    /// Whether everything is still as the operator saw it. Asked when nobody else can change it any more.
    pub as_seen: &'a (dyn Fn() -> bool + Send + Sync),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Action {
    /// The own bundle of a served trust domain changed.
    #[serde(rename = "own_bundle.changed")]
    OwnBundleChanged,
    /// What a source of a served trust domain gives is held back.
    #[serde(rename = "source.held")]
    SourceHeld,
    /// A held source gives something acceptable again.
    #[serde(rename = "source.released")]
    SourceReleased,
    /// What a held source gives was accepted.
    #[serde(rename = "source.accepted")]
    SourceAccepted,
    /// A partner's bundle came in force by a refresh.
    #[serde(rename = "bundle.accepted")]
    Accepted,
    /// A fetched bundle waits for an operator.
    #[serde(rename = "bundle.offered")]
    Offered,
    /// A waiting or rejected bundle is forgotten, because the partner serves the one in force again.
    #[serde(rename = "bundle.withdrawn")]
    Withdrawn,
    /// A waiting bundle came in force.
    #[serde(rename = "bundle.approved")]
    Approved,
    /// A waiting bundle was turned down.
    #[serde(rename = "bundle.rejected")]
    Rejected,
    /// A named bundle was put in force.
    #[serde(rename = "bundle.restored")]
    Restored,
    /// A relationship was stopped in place.
    #[serde(rename = "relationship.frozen")]
    Frozen,
    /// A relationship goes on.
    #[serde(rename = "relationship.unfrozen")]
    Unfrozen,
    /// The bundle in force is older than its maximum age.
    #[serde(rename = "relationship.expired")]
    Expired,
    /// The partner confirmed the bundle after it had expired.
    #[serde(rename = "relationship.renewed")]
    Renewed,
    /// A relationship was made.
    #[serde(rename = "relationship.added")]
    Added,
    /// A relationship was changed.
    #[serde(rename = "relationship.changed")]
    Changed,
    /// A relationship was removed.
    #[serde(rename = "relationship.removed")]
    Removed,
    /// A partner's bundle went back to a lower sequence and was refused; once for each such bundle.
    #[serde(rename = "bundle.rollback_refused")]
    RollbackRefused,
    /// An issuer confirmed a bundle.
    #[serde(rename = "delivery.confirmed")]
    Delivered,
    /// A delivered bundle was taken away from an issuer.
    #[serde(rename = "delivery.removed")]
    Undelivered,
    /// A delivered bundle stays at an issuer, because somebody changed it there.
    #[serde(rename = "delivery.left")]
    Left,
    /// An issuer holds something else than was delivered.
    #[serde(rename = "delivery.drifted")]
    Drifted,
    /// An issuer holds what was delivered again, without a delivery.
    #[serde(rename = "delivery.settled")]
    Settled,
    /// A place was seen to hold what is served, other than before.
    #[serde(rename = "publication.confirmed")]
    PublicationConfirmed,
    /// A place holds something else than was published there.
    #[serde(rename = "publication.drifted")]
    PublicationDrifted,
    /// Messages a webhook could not deliver in time were given up; once until it works again.
    #[serde(rename = "webhook.messages_dropped")]
    WebhookDropped,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::OwnBundleChanged,
        Self::SourceHeld,
        Self::SourceReleased,
        Self::SourceAccepted,
        Self::Accepted,
        Self::Offered,
        Self::Withdrawn,
        Self::Approved,
        Self::Rejected,
        Self::Restored,
        Self::Frozen,
        Self::Unfrozen,
        Self::Expired,
        Self::Renewed,
        Self::Added,
        Self::Changed,
        Self::Removed,
        Self::RollbackRefused,
        Self::Delivered,
        Self::Undelivered,
        Self::Left,
        Self::Drifted,
        Self::Settled,
        Self::PublicationConfirmed,
        Self::PublicationDrifted,
        Self::WebhookDropped,
    ];

    /// The name used in records.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            _ => String::new(),
        }
    }
}

/// A bundle as records name it: which it is, and how many keys it has.
pub(crate) fn bundle_summary(bundle: &Bundle, digest: &str) -> Value {
    json!({
        "digest": digest,
        "sequence": bundle.sequence(),
        "x509_authorities": bundle.x509_authorities().iter().map(|key| key.key_id_hex()).take(MAX_KEYS).collect::<Vec<_>>(),
        "jwt_authorities": bundle.jwt_authorities().iter().map(|key| key.key_id()).take(MAX_KEYS).collect::<Vec<_>>(),
    })
}

/// A change about to be recorded.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// Who made it.
    pub who: &'a Actor,
    /// What was done.
    pub what: Action,
    /// The trust domain it was done to; `partner at local` for deliveries.
    pub subject: String,
    /// How it was, `null` for nothing.
    pub before: Value,
    /// How it is now, `null` for nothing.
    pub after: Value,
    /// Why, in words.
    pub why: &'a str,
}

/// One record as it is stored, in canonical JSON ([`chain::canonical`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// Its place in the log, from 1.
    pub sequence: i64,
    /// When, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who.
    pub who: Actor,
    /// What.
    pub what: Action,
    /// To what.
    pub subject: String,
    /// How it was.
    #[serde(default)]
    pub before: Value,
    /// How it is now.
    #[serde(default)]
    pub after: Value,
    /// Why.
    pub why: String,
}

impl Event<'_> {
    /// The text of the record that is number `sequence`.
    pub(crate) fn text(&self, sequence: i64, at: OffsetDateTime) -> String {
        let at = at.to_offset(time::UtcOffset::UTC);
        let record = serde_json::json!({
            "sequence": sequence,
            "at": at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string()),
            "who": self.who,
            "what": self.what,
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
            "why": self.why,
        });
        chain::canonical(&record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_list_of_actions_is_whole() {
        // serde names every variant it knows when it meets one it does not.
        let known = serde_json::from_value::<Action>("nothing".into()).unwrap_err().to_string();
        let known: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
        let listed: Vec<String> = Action::ALL.into_iter().map(Action::name).collect();
        assert_eq!(known, listed);
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let who = Actor::User { uid: 1000, name: Some("ada".to_owned()), pid: Some(7) };
        let event = Event {
            who: &who,
            what: Action::Frozen,
            subject: "p.example".to_owned(),
            before: Value::Null,
            after: json!({"frozen": true, "because": "b"}),
            why: "their incident 7",
        };
        let text = event.text(3, datetime!(2026-11-22 12:00:00.5 UTC));
        assert_eq!(
            text,
            "{\"after\":{\"because\":\"b\",\"frozen\":true},\"at\":\"2026-11-22T12:00:00.5Z\",\"before\":null,\
             \"sequence\":3,\"subject\":\"p.example\",\"what\":\"relationship.frozen\",\
             \"who\":{\"kind\":\"user\",\"name\":\"ada\",\"pid\":7,\"uid\":1000},\"why\":\"their incident 7\"}"
        );
        let record: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (record.who.to_string(), record.what.name()),
            ("ada (uid 1000)".into(), "relationship.frozen".into())
        );
        assert_eq!(chain::canonical(&serde_json::to_value(&record).unwrap()), text);
    }
}
