//! What begins and ends by itself: partners that keep failing, bundles that get old or expire, issuers that cannot be
//! reached. What was told of is in the store, so that it is told once, also across restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use federation_specs::bundle::{Bundle, X509Authority};
use serde_json::{Map, Value, json};
use service_kit::{BoxError, clock::SharedClock, lifecycle::Shutdown};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::event::{Condition, Message, subject};
use crate::{
    partners::{HeldBundle, PartnerBundles},
    refresh::manager::{Manager, Progress, confirmed_at},
    served::ServedDomains,
    settings::Thresholds,
    store::{Store, webhooks::ConditionKey},
};

/// How often it is looked.
pub const LOOK: Duration = Duration::from_secs(2);

/// An authority expires soon at the latest when this part of its life is left.
const EXPIRY_PER_LIFE: i32 = 6;

/// A bundle is not stale before this many of its refresh hints have passed.
const HINTS: u32 = 2;

/// Most changes stored in one transaction.
const MAX_CHANGES: usize = 500;

/// Stands between the partner and the receiver of a delivery.
const AT: &str = " at ";

/// The trust domain whose work a subject belongs to: deliveries are the work on their receiver.
fn worked_on_as(subject: &str) -> &str {
    subject.rsplit_once(AT).map_or(subject, |(_, local)| local)
}

/// How things are with one condition of one subject.
#[derive(Debug, Clone, PartialEq)]
enum State {
    /// It lasts.
    On(Value),
    /// It does not.
    Off(Value),
    /// Neither: what was told stays.
    Between,
}

/// What is looked at.
#[derive(Debug)]
pub struct Watcher {
    /// Relationships and deliveries.
    pub manager: Manager,
    /// Partners' bundles.
    pub partners: Arc<PartnerBundles>,
    /// Own bundles.
    pub served: Arc<ServedDomains>,
    /// From when on something is worth telling.
    pub thresholds: Thresholds,
    /// Where it is noted.
    pub store: Store,
    /// The clock.
    pub clock: SharedClock,
}

type Changes = Vec<(ConditionKey, Option<OffsetDateTime>, Option<Message>)>;

impl Watcher {
    /// Looks until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut told = None;
        loop {
            tokio::select! {
                () = self.clock.sleep(LOOK) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            if let Err(error) = self.look(&mut told).await {
                tracing::warn!(%error, "conditions for webhooks not stored");
                // What is stored now is not known.
                told = None;
            }
        }
    }

    async fn look(
        &self,
        told: &mut Option<BTreeMap<ConditionKey, OffsetDateTime>>,
    ) -> Result<(), crate::store::StoreError> {
        let leases = self.store.leases();
        let told = match told {
            Some(told) if !leases.are_shared() => told,
            // Another gateway may have told of something since.
            _ => told.insert(self.store.webhook_conditions().await?),
        };
        // Each subject is looked at by the gateway that works on it.
        let ours = |key: &ConditionKey| leases.holds_work(worked_on_as(&key.1));
        told.retain(|key, _| ours(key));
        let now = self.clock.now();
        let states = self.states(now).into_iter().filter(|(key, _)| ours(key)).collect();
        let changes = compare(told, states, now);
        for part in changes.chunks(MAX_CHANGES) {
            self.store.change_conditions(part).await?;
        }
        for (key, since, _) in changes {
            match since {
                Some(since) => told.insert(key, since),
                None => told.remove(&key),
            };
        }
        Ok(())
    }

    fn states(&self, now: OffsetDateTime) -> Vec<(ConditionKey, State)> {
        let mut states = Vec::new();
        let thresholds = &self.thresholds;
        for progress in self.manager.progress() {
            let name = progress.partner.to_string();
            states.push(((Condition::RelationshipFailing, name.clone()), failing(thresholds, &progress)));
            if let Some(held) = self.partners.get(&progress.partner) {
                states.push(((Condition::BundleStale, name.clone()), stale(thresholds, &progress, &held, now)));
                let state = expiring(thresholds, &held.bundle, &held.digest, now);
                states.push(((Condition::BundleExpiring, name), state));
            }
        }
        for delivery in self.manager.delivery_progress() {
            let subject = format!("{}{AT}{}", delivery.partner, delivery.local);
            let state = match delivery.last_error {
                Some(_) if delivery.attempts < thresholds.consecutive_failures => State::Between,
                Some(error) => State::On(json!({ "error": error, "consecutive_failures": delivery.attempts })),
                None => State::Off(json!({})),
            };
            states.push(((Condition::DeliveryFailing, subject), state));
        }
        for domain in self.served.iter() {
            let Some(published) = domain.current() else { continue };
            let name = domain.name().to_string();
            let age = domain.age(now).unwrap_or_default();
            let limit = thresholds.bundle_age.max(domain.settings().refresh_hint * HINTS);
            let status = domain.sources().status();
            let error =
                status.iter().find_map(|source| Some(format!("{}: {}", source.key, source.last_error.as_ref()?)));
            let data = json!({ "digest": published.digest, "age_seconds": age.as_secs(), "error": error });
            let state = if age > limit { State::On(data) } else { State::Off(data) };
            states.push(((Condition::OwnBundleStale, name.clone()), state));
            let state = expiring(thresholds, &published.bundle, &published.digest, now);
            states.push(((Condition::OwnBundleExpiring, name), state));
        }
        states
    }
}

fn failing(thresholds: &Thresholds, progress: &Progress) -> State {
    let data = || {
        json!({
            "consecutive_failures": progress.failures,
            "error": progress.last_error,
            "last_success": progress.last_success.map(text),
        })
    };
    match progress.failures {
        0 if progress.last_success.is_some() => State::Off(data()),
        failures if failures >= thresholds.consecutive_failures => State::On(data()),
        _ => State::Between,
    }
}

fn stale(thresholds: &Thresholds, progress: &Progress, held: &HeldBundle, now: OffsetDateTime) -> State {
    let age: Duration = (now - confirmed_at(held, progress.confirmed_at)).try_into().unwrap_or_default();
    let hint = held.bundle.refresh_hint().unwrap_or(crate::refresh::schedule::DEFAULT_REFRESH_HINT);
    let data = json!({
        "digest": held.digest,
        "sequence": held.bundle.sequence(),
        "age_seconds": age.as_secs(),
        "next_refresh": progress.next_refresh.map(text),
    });
    if age > thresholds.bundle_age.max(hint.saturating_mul(HINTS)) { State::On(data) } else { State::Off(data) }
}

/// The authority that expires last: before that, a newer one has to be published.
fn expiring(thresholds: &Thresholds, bundle: &Bundle, digest: &str, now: OffsetDateTime) -> State {
    let Some(last) = bundle.x509_authorities().iter().max_by_key(|authority| authority.not_after()) else {
        return State::Off(json!({ "digest": digest }));
    };
    let left = last.not_after() - now;
    let data = json!({
        "digest": digest,
        "sequence": bundle.sequence(),
        "expires_at": text(last.not_after()),
        "seconds_left": left.whole_seconds(),
    });
    if left < soon(thresholds, last) { State::On(data) } else { State::Off(data) }
}

fn soon(thresholds: &Thresholds, authority: &X509Authority) -> time::Duration {
    let life = authority.not_after() - authority.not_before();
    time::Duration::try_from(thresholds.expiry).unwrap_or(time::Duration::MAX).min(life / EXPIRY_PER_LIFE)
}

fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// What to store: conditions that begin or end with a message, those of subjects that are gone without one.
fn compare(
    told: &BTreeMap<ConditionKey, OffsetDateTime>,
    states: Vec<(ConditionKey, State)>,
    now: OffsetDateTime,
) -> Changes {
    let mut changes = Vec::new();
    let mut there = BTreeSet::new();
    for (key, state) in states {
        let since = told.get(&key);
        match (since, state) {
            (None, State::On(data)) => {
                let message = message(key.0.begins(), &key.1, now, data);
                changes.push((key.clone(), Some(now), Some(message)));
            }
            (Some(since), State::Off(mut data)) => {
                data["since"] = text(*since).into();
                changes.push((key.clone(), None, Some(message(key.0.ends(), &key.1, now, data))));
            }
            _ => {}
        }
        there.insert(key);
    }
    let gone = told.keys().filter(|key| !there.contains(*key));
    changes.extend(gone.map(|key| (key.clone(), None, None)));
    changes
}

fn message(kind: &str, about: &str, now: OffsetDateTime, data: Value) -> Message {
    let mut all = subject(about);
    if let Value::Object(data) = data {
        all.extend::<Map<String, Value>>(data);
    }
    Message::new(kind, now, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn key(subject: &str) -> ConditionKey {
        (Condition::RelationshipFailing, subject.to_owned())
    }

    #[test]
    fn a_condition_is_told_when_it_begins_and_when_it_ends() {
        let nothing = BTreeMap::new();
        let on = || vec![(key("p.example"), State::On(json!({"error": "e"})))];
        let changes = compare(&nothing, on(), NOON);
        let [(began, since, Some(message))] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((began, *since, message.kind.as_str()), (&key("p.example"), Some(NOON), "relationship.failing"));
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(body["data"], json!({"trust_domain": "p.example", "error": "e"}));

        let told = BTreeMap::from([(key("p.example"), NOON), (key("gone.example"), NOON)]);
        let changes = compare(&told, on(), NOON);
        assert_eq!(changes, [(key("gone.example"), None, None)], "what is gone ends without a word");
        let between = vec![(key("p.example"), State::Between), (key("gone.example"), State::Between)];
        assert_eq!(compare(&told, between, NOON), []);
        let off = vec![(key("p.example"), State::Off(json!({}))), (key("gone.example"), State::Between)];
        let changes = compare(&told, off, NOON + time::Duration::HOUR);
        let [(ended, None, Some(message))] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((ended, message.kind.as_str()), (&key("p.example"), "relationship.recovered"));
        assert!(message.body.contains("\"since\":\"2026-11-22T12:00:00Z\""), "{}", message.body);
    }

    #[test]
    fn soon_is_a_part_of_an_authoritys_life() {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = NOON;
        params.not_after = NOON + time::Duration::hours(24);
        let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let authority = X509Authority::from_der(root.der()).unwrap();
        let trust_domain = "p.example".parse().unwrap();
        let bundle = Bundle::new(trust_domain).with_x509_authorities([authority]);
        let thresholds = |hours: u64| Thresholds {
            consecutive_failures: 1,
            bundle_age: Duration::from_secs(1),
            expiry: Duration::from_secs(hours * 3600),
        };
        let state =
            |hours: u64, after: i64| expiring(&thresholds(hours), &bundle, "d", NOON + time::Duration::hours(after));
        assert!(matches!(state(48, 19), State::Off(_)), "five hours are left of a day");
        assert!(matches!(state(48, 21), State::On(_)));
        assert!(matches!(state(1, 21), State::Off(_)));
        assert!(matches!(state(1, 25), State::On(_)), "expired is soon as well");
    }
}
