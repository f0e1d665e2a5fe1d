//! What webhooks tell: one message for each record of the audit log, and one when a condition begins or ends.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::audit::{Action, Event};

/// Largest body of a message (Standard Webhooks, payload size: small, below 20 kB).
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// The type of the message an operator sends to try a webhook.
pub const TEST: &str = "webhook.test";

/// Records about webhooks themselves are not sent by webhook: one that cannot be delivered would bring forth others.
const OWN_PREFIX: &str = "webhook.";

/// Something that lasts, told when it begins and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// A partner's bundle could not be refreshed several times in a row.
    RelationshipFailing,
    /// A partner has not confirmed its bundle for long.
    BundleStale,
    /// The last X.509 authority of a partner's bundle expires soon.
    BundleExpiring,
    /// A bundle could not be delivered to an issuer several times in a row.
    DeliveryFailing,
    /// A source of a served domain has not confirmed what is served for long.
    OwnBundleStale,
    /// The last X.509 authority of a served bundle expires soon.
    OwnBundleExpiring,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RelationshipFailing,
        Self::BundleStale,
        Self::BundleExpiring,
        Self::DeliveryFailing,
        Self::OwnBundleStale,
        Self::OwnBundleExpiring,
    ];

    /// The type of the message when it begins; also its name in the store.
    pub fn begins(self) -> &'static str {
        match self {
            Self::RelationshipFailing => "relationship.failing",
            Self::BundleStale => "bundle.stale",
            Self::BundleExpiring => "bundle.expiring",
            Self::DeliveryFailing => "delivery.failing",
            Self::OwnBundleStale => "own_bundle.stale",
            Self::OwnBundleExpiring => "own_bundle.expiring",
        }
    }

    /// The type of the message when it ends.
    pub fn ends(self) -> &'static str {
        match self {
            Self::RelationshipFailing => "relationship.recovered",
            Self::BundleStale => "bundle.fresh",
            Self::BundleExpiring => "bundle.rotated",
            Self::DeliveryFailing => "delivery.recovered",
            Self::OwnBundleStale => "own_bundle.fresh",
            Self::OwnBundleExpiring => "own_bundle.rotated",
        }
    }

    /// The condition of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.begins() == name)
    }
}

/// Every type of message a webhook may receive without asking for it, in order.
pub fn types() -> Vec<String> {
    let conditions = Condition::ALL.into_iter().flat_map(|condition| [condition.begins(), condition.ends()]);
    let mut types: Vec<String> = conditions.map(str::to_owned).collect();
    types.extend(Action::ALL.into_iter().map(Action::name).filter(|name| !name.starts_with(OWN_PREFIX)));
    types.sort_unstable();
    types
}

/// Which types a webhook wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter(Vec<String>);

impl EventFilter {
    /// From names (`bundle.accepted`) and groups (`bundle.*`); none of them is everything.
    ///
    /// # Errors
    /// What names nothing.
    pub fn new(names: &[String]) -> Result<Self, &str> {
        let types = types();
        let nothing = |name: &&String| !types.iter().any(|known| matches(name, known));
        match names.iter().find(nothing) {
            Some(unknown) => Err(unknown),
            None => Ok(Self(names.to_vec())),
        }
    }

    /// Whether messages of that type are wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// The names and groups; none is everything.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(".*") {
        Some(group) => name.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')),
        None => pattern == name,
    }
}

/// A message as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The same at every attempt.
    pub id: String,
    /// What it tells of.
    pub kind: String,
    /// The body: JSON with `type`, `timestamp` and `data`.
    pub body: String,
}

impl Message {
    /// A message about `data`.
    pub fn new(kind: &str, at: OffsetDateTime, data: Map<String, Value>) -> Self {
        let at = at.to_offset(UtcOffset::UTC);
        let timestamp = at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string());
        let body =
            |data: &Map<String, Value>| json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string();
        let mut text = body(&data);
        if text.len() > MAX_BODY_BYTES {
            let small = |value: &Value| !value.is_object() && !value.is_array() && value.to_string().len() <= 2048;
            let mut data: Map<String, Value> = data.into_iter().filter(|(_, value)| small(value)).collect();
            data.insert("shortened".to_owned(), true.into());
            text = body(&data);
        }
        Self { id: new_id(), kind: kind.to_owned(), body: text }
    }

    /// The message about record number `sequence` of the audit log, `None` if it is not for webhooks.
    pub fn of_record(event: &Event<'_>, sequence: i64, at: OffsetDateTime) -> Option<Self> {
        let kind = event.what.name();
        if kind.starts_with(OWN_PREFIX) {
            return None;
        }
        let mut data = subject(&event.subject);
        data.insert("audit_sequence".to_owned(), sequence.into());
        data.insert("who".to_owned(), event.who.to_string().into());
        data.insert("why".to_owned(), event.why.into());
        data.insert("before".to_owned(), counted(&event.before));
        data.insert("after".to_owned(), counted(&event.after));
        Some(Self::new(&kind, at, data))
    }
}

/// `partner at local` in parts.
pub fn subject(subject: &str) -> Map<String, Value> {
    let mut data = Map::new();
    match subject.split_once(" at ") {
        Some((partner, local)) => {
            data.insert("trust_domain".to_owned(), partner.into());
            data.insert("local_trust_domain".to_owned(), local.into());
        }
        None => {
            data.insert("trust_domain".to_owned(), subject.into());
        }
    }
    data
}

/// Numbers of keys instead of their names.
fn counted(value: &Value) -> Value {
    let mut value = value.clone();
    for name in ["x509_authorities", "jwt_authorities"] {
        if let Some(keys) = value.get_mut(name)
            && let Some(count) = keys.as_array().map(Vec::len)
        {
            *keys = count.into();
        }
    }
    value
}

fn new_id() -> String {
    use std::fmt::Write as _;
    let mut random = [0_u8; 16];
    // Fails only without a source of randomness, where no TLS connection would come about either.
    let _ = aws_lc_rs::rand::fill(&mut random);
    random.iter().fold("evt_".to_owned(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Actor;
    use time::macros::datetime;

    const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn record(what: Action, subject: &str, after: Value) -> Event<'static> {
        let before = Value::Null;
        Event { who: &Actor::Gateway, what, subject: subject.to_owned(), before, after, why: "the test says so" }
    }

    #[test]
    fn a_record_becomes_a_small_message() {
        let after = json!({"digest": "d", "sequence": 7, "x509_authorities": ["a", "b"], "jwt_authorities": []});
        let message = Message::of_record(&record(Action::Accepted, "p.example", after), 12, NOON).unwrap();
        assert_eq!(message.kind, "bundle.accepted");
        assert!(message.id.len() == 36 && message.id.starts_with("evt_"), "{}", message.id);
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let expected = json!({"type": "bundle.accepted", "timestamp": "2026-11-22T12:00:00Z", "data": {
            "trust_domain": "p.example", "audit_sequence": 12, "who": "gateway", "why": "the test says so",
            "before": null,
            "after": {"digest": "d", "sequence": 7, "x509_authorities": 2, "jwt_authorities": 0},
        }});
        assert_eq!(body, expected);

        let message = Message::of_record(&record(Action::Drifted, "p.example at a.example", Value::Null), 1, NOON);
        let body: Value = serde_json::from_str(&message.unwrap().body).unwrap();
        assert_eq!(
            (&body["data"]["trust_domain"], &body["data"]["local_trust_domain"]),
            (&json!("p.example"), &json!("a.example"))
        );
        assert!(Message::of_record(&record(Action::WebhookDropped, "pager", Value::Null), 1, NOON).is_none());
    }

    #[test]
    fn a_long_message_is_shortened() {
        let long = json!({ "url": "x".repeat(MAX_BODY_BYTES) });
        let message = Message::of_record(&record(Action::Changed, "p.example", long), 3, NOON).unwrap();
        assert!(message.body.len() < 1024);
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!((&body["data"]["shortened"], &body["data"]["audit_sequence"]), (&json!(true), &json!(3)));
        assert!(body["data"].get("after").is_none());
    }

    #[test]
    fn filters_name_types_and_groups() {
        let filter = |names: &[&str]| {
            EventFilter::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).map_err(str::to_owned)
        };
        assert!(filter(&[]).unwrap().wants("anything.new"));
        let bundles = filter(&["bundle.*", "delivery.failing"]).unwrap();
        for (name, wanted) in [
            ("bundle.accepted", true),
            ("bundle.stale", true),
            ("own_bundle.stale", false),
            ("delivery.failing", true),
            ("delivery.recovered", false),
        ] {
            assert_eq!(bundles.wants(name), wanted, "{name}");
        }
        for unknown in ["bundel.*", "bundle", "*", "webhook.test", "webhook.*", "bundle.accept"] {
            assert_eq!(filter(&["bundle.*", unknown]).unwrap_err(), unknown);
        }
    }

    #[test]
    fn every_type_is_documented() {
        let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/webhooks.md")).unwrap();
        for name in types() {
            assert!(guide.contains(&format!("`{name}`")), "{name} is not in docs/webhooks.md");
        }
    }

    #[test]
    fn types_are_named_once() {
        let types = types();
        let mut unique = types.clone();
        unique.dedup();
        assert_eq!(types, unique);
        for condition in Condition::ALL {
            assert_eq!(Condition::from_name(condition.begins()), Some(condition));
        }
    }
}
