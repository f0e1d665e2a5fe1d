//! Slots A and B of one kind of authority: what is in them, and when it is time for the next step.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use time::{Duration, OffsetDateTime};

use super::{Authority, AuthorityState};
use crate::store::{AuthorityRecord, AuthorityStatus, Slot};

/// The next authority is prepared when half of the lifetime is left, at most 30 days before the end.
const PREPARE_LIMIT: Duration = Duration::days(30);
/// It is activated when a sixth of the lifetime is left, at most 7 days before the end.
const ACTIVATE_LIMIT: Duration = Duration::days(7);

/// An authority in a slot.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) record: AuthorityRecord,
    /// What is needed to sign; `None` when the key is lost.
    pub(super) signer: Option<T>,
    /// State of the slot's key when this was put in.
    generation: u64,
}

impl<T> Held<T> {
    pub(super) fn authority(&self) -> Authority {
        Authority {
            authority_id: self.record.authority_id.clone(),
            expires_at: self.record.not_after,
            upstream_authority_subject_key_id: self.record.upstream_authority_id.clone(),
        }
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.record.not_after).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    fn lifetime(&self) -> Duration {
        Duration::seconds((self.record.not_after - self.record.issued_at).max(0))
    }

    /// From when the next authority should be prepared.
    pub(super) fn prepare_after(&self) -> OffsetDateTime {
        self.not_after() - (self.lifetime() / 2_i32).min(PREPARE_LIMIT)
    }

    /// From when the next authority should sign.
    pub(super) fn activate_after(&self) -> OffsetDateTime {
        self.not_after() - (self.lifetime() / 6_i32).min(ACTIVATE_LIMIT)
    }

    /// It holds its key and has not expired.
    pub(super) fn can_sign_at(&self, now: OffsetDateTime) -> bool {
        self.signer.is_some() && now < self.not_after()
    }
}

impl<T: Clone> Held<T> {
    fn with_status(&self, status: AuthorityStatus) -> Arc<Self> {
        let record = AuthorityRecord { status, ..self.record.clone() };
        Arc::new(Self { record, signer: self.signer.clone(), generation: self.generation })
    }
}

/// What the two slots hold.
#[derive(Debug)]
pub(super) struct Contents<T> {
    /// The authority that signs.
    pub(super) active: Option<Arc<Held<T>>>,
    /// The other slot: a prepared or an old authority.
    pub(super) next: Option<Arc<Held<T>>>,
}

impl<T> Clone for Contents<T> {
    fn clone(&self) -> Self {
        Self { active: self.active.clone(), next: self.next.clone() }
    }
}

impl<T> Default for Contents<T> {
    fn default() -> Self {
        Self { active: None, next: None }
    }
}

impl<T> Contents<T> {
    pub(super) fn next_with(&self, status: AuthorityStatus) -> Option<&Arc<Held<T>>> {
        self.next.as_ref().filter(|held| held.record.status == status)
    }

    /// The slot the next authority goes into.
    pub(super) fn free_slot(&self) -> Slot {
        match (&self.active, &self.next) {
            (Some(active), _) => active.record.slot.other(),
            (None, Some(next)) => next.record.slot.other(),
            (None, None) => Slot::A,
        }
    }

    pub(super) fn state(&self) -> AuthorityState {
        AuthorityState {
            active: self.active.as_ref().map(|held| held.authority()),
            prepared: self.next_with(AuthorityStatus::Prepared).map(|held| held.authority()),
            old: self.next_with(AuthorityStatus::Old).map(|held| held.authority()),
        }
    }
}

/// The slots of one kind. Readers see a snapshot; changes are made by one task at a time.
///
/// Keys are named after their slot, so the key under a name changes while somebody may be signing with it. Each slot
/// has a generation that is raised before its key changes: a signature made while it stayed the same is by the key that
/// was meant.
#[derive(Debug)]
pub(super) struct Slots<T> {
    contents: ArcSwap<Contents<T>>,
    generations: [AtomicU64; 2],
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { contents: ArcSwap::default(), generations: Default::default() }
    }
}

impl<T: Clone + Debug> Slots<T> {
    pub(super) fn contents(&self) -> Arc<Contents<T>> {
        self.contents.load_full()
    }

    pub(super) fn set(&self, contents: Contents<T>) {
        self.contents.store(Arc::new(contents));
    }

    pub(super) fn hold(&self, record: AuthorityRecord, signer: Option<T>) -> Arc<Held<T>> {
        let generation = self.generation(record.slot).load(Ordering::SeqCst);
        Arc::new(Held { record, signer, generation })
    }

    /// Must be called before the key of a slot changes. A prepared authority in that slot cannot be used any more.
    pub(super) fn key_changes(&self, slot: Slot) {
        self.generation(slot).fetch_add(1, Ordering::SeqCst);
        let contents = self.contents();
        if contents.next_with(AuthorityStatus::Prepared).is_some_and(|held| held.record.slot == slot) {
            self.set(Contents { active: contents.active.clone(), next: None });
        }
    }

    /// The key of the slot is still the one of `held`.
    pub(super) fn key_is_unchanged(&self, held: &Held<T>) -> bool {
        self.generation(held.record.slot).load(Ordering::SeqCst) == held.generation
    }

    pub(super) fn put_prepared(&self, held: Arc<Held<T>>) {
        self.set(Contents { active: self.contents().active.clone(), next: Some(held) });
    }

    /// The prepared authority becomes the active one and the other way round.
    pub(super) fn swap(&self) {
        let contents = self.contents();
        if let Some(next) = &contents.next {
            self.set(Contents {
                active: Some(next.with_status(AuthorityStatus::Active)),
                next: contents.active.as_ref().map(|active| active.with_status(AuthorityStatus::Old)),
            });
        }
    }

    fn generation(&self, slot: Slot) -> &AtomicU64 {
        match slot {
            Slot::A => &self.generations[0],
            Slot::B => &self.generations[1],
        }
    }
}
