//! What a request changes, worked out from what is kept and what is wanted, without doing anything.

use std::collections::BTreeMap;

use federation_specs::id::TrustDomain;
use serde_json::{Map, Value};

use super::{
    definition::{MAX_SET_BYTES, Stored, Wanted, difference, shown},
    error::ManagedError,
};
use crate::audit::Actor;

/// Who the relationships belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// To whom they belonged; new ones to nobody.
    Kept,
    /// To a set.
    Set {
        /// Its name.
        name: String,
        /// What belongs to it and is not wanted any more is removed.
        prune: bool,
        /// Even if that is more than half of it.
        confirmed: bool,
        /// Relationships of other sets are taken over rather than refused.
        take_over: bool,
    },
}

/// What must hold for a change of one relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// It does not exist.
    Absent,
    /// It has this version.
    Version(i64),
}

/// What somebody asks for.
#[derive(Debug)]
pub struct Request {
    /// Relationships as they shall be.
    pub wanted: BTreeMap<TrustDomain, Wanted>,
    /// A relationship that shall not be.
    pub removed: Option<TrustDomain>,
    /// Who they belong to from then on.
    pub ownership: Ownership,
    /// What must hold, where the request is about one relationship.
    pub precondition: Option<Precondition>,
    /// Only say what would change.
    pub dry_run: bool,
    /// Who asks.
    pub by: Actor,
    /// Why.
    pub why: String,
}

impl Request {
    /// The only relationship that is looked at, if there is only one.
    pub fn only(&self) -> Option<&TrustDomain> {
        match &self.ownership {
            Ownership::Kept => self.removed.as_ref().or_else(|| self.wanted.keys().next()),
            Ownership::Set { .. } => None,
        }
    }
}

/// What happens to a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It differs.
    Changed,
    /// It is as it was.
    Unchanged,
    /// It goes.
    Removed,
}

/// What happens to one relationship.
#[derive(Debug, Clone)]
pub struct Change {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// What.
    pub kind: Kind,
    /// The keys that differ, before and after; none if it is unchanged.
    pub fields: Vec<(String, Value, Value)>,
    /// The set it belongs to afterwards, or belonged to.
    pub set: Option<String>,
    /// Its version afterwards; 0 before a new one has any.
    pub version: i64,
    /// As the audit log knows it before.
    pub before: Option<Map<String, Value>>,
    /// As the audit log knows it afterwards.
    pub after: Option<Map<String, Value>>,
}

/// What a request changes, by partner.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// All relationships asked for, and those that are removed.
    pub changes: Vec<Change>,
    /// Whether so much would be removed that somebody has to confirm it.
    pub needs_confirmation: bool,
}

impl Plan {
    /// How many relationships this happens to.
    pub fn count(&self, kind: Kind) -> usize {
        self.changes.iter().filter(|change| change.kind == kind).count()
    }
}

/// Works out what `request` changes of `stored`, which has at least the relationships it is about.
///
/// # Errors
/// [`ManagedError`] when something in the way forbids all of it.
pub(crate) fn plan(stored: &BTreeMap<TrustDomain, Stored>, request: &Request) -> Result<Plan, ManagedError> {
    if let Some((partner, precondition)) = request.only().zip(request.precondition) {
        check(partner, precondition, stored.get(partner))?;
    }
    let mut plan = Plan::default();
    for (partner, wanted) in &request.wanted {
        let before = stored.get(partner);
        let set = owner(partner, before, &request.ownership)?;
        plan.changes.push(change(partner, before, Some((&wanted.definition, set))));
    }
    if let Some(before) = request.removed.as_ref().and_then(|partner| stored.get(partner)) {
        plan.changes.push(change(&before.trust_domain, Some(before), None));
    }
    if let Ownership::Set { name, prune: true, confirmed, .. } = &request.ownership {
        let own: Vec<&Stored> = stored.values().filter(|it| it.set.as_ref() == Some(name)).collect();
        let gone: Vec<&&Stored> = own.iter().filter(|it| !request.wanted.contains_key(&it.trust_domain)).collect();
        plan.needs_confirmation = gone.len() * 2 > own.len();
        if plan.needs_confirmation && !confirmed && !request.dry_run {
            return Err(ManagedError::ManyRemovals { removed: gone.len(), of: own.len(), set: name.clone() });
        }
        plan.changes.extend(gone.into_iter().map(|before| change(&before.trust_domain, Some(before), None)));
        plan.changes.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    }
    Ok(plan)
}

fn check(partner: &TrustDomain, precondition: Precondition, stored: Option<&Stored>) -> Result<(), ManagedError> {
    match (precondition, stored) {
        (Precondition::Absent, Some(_)) => Err(ManagedError::Exists(partner.clone())),
        (Precondition::Version(_), None) => Err(ManagedError::Gone(partner.clone())),
        (Precondition::Version(wanted), Some(stored)) if stored.version != wanted => {
            Err(ManagedError::Version { partner: partner.clone(), version: stored.version })
        }
        _ => Ok(()),
    }
}

/// The set a relationship belongs to afterwards.
fn owner(
    partner: &TrustDomain,
    before: Option<&Stored>,
    ownership: &Ownership,
) -> Result<Option<String>, ManagedError> {
    let owner = before.and_then(|before| before.set.clone());
    let Ownership::Set { name, take_over, .. } = ownership else { return Ok(owner) };
    match owner {
        Some(owner) if owner != *name && !take_over => {
            Err(ManagedError::OtherSet { partner: partner.clone(), owner, set: name.clone() })
        }
        _ => Ok(Some(name.clone())),
    }
}

fn change(
    partner: &TrustDomain,
    before: Option<&Stored>,
    after: Option<(&Map<String, Value>, Option<String>)>,
) -> Change {
    let version = before.map_or(0, |before| before.version);
    let shown_before = before.map(|before| shown(&before.definition, before.set.as_deref()));
    let shown_after = after.as_ref().map(|(definition, set)| shown(definition, set.as_deref()));
    let fields = difference(shown_before.as_ref().unwrap_or(&Map::new()), shown_after.as_ref().unwrap_or(&Map::new()));
    let kind = match (before, &after) {
        (None, _) => Kind::Added,
        (Some(_), None) => Kind::Removed,
        (Some(_), Some(_)) if fields.is_empty() => Kind::Unchanged,
        (Some(_), Some(_)) => Kind::Changed,
    };
    let set = match after {
        Some((_, set)) => set,
        None => before.and_then(|before| before.set.clone()),
    };
    Change { trust_domain: partner.clone(), kind, fields, set, version, before: shown_before, after: shown_after }
}

/// Whether a text can name a set.
///
/// # Errors
/// [`ManagedError::Set`].
pub(crate) fn check_set(name: &str) -> Result<(), ManagedError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    match (1..=MAX_SET_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(ManagedError::Set(name.chars().take(MAX_SET_BYTES).collect())),
    }
}
