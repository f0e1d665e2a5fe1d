//! Which X509-SVIDs to sign next, and which to forget.

use std::{collections::HashSet, sync::Arc};

use time::{Duration, OffsetDateTime};

use super::{Snapshot, SvidSlot, entry::Entry};
use crate::rotation;

/// An SVID that chains to a tainted authority although it was signed after the taint was noticed is signed again only
/// after this time, so that an issuer that still signs with that authority is not asked without end.
const TAINTED_AGAIN: Duration = Duration::MINUTE;

/// What the signer has to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Entries to sign now: first those somebody waits for.
    pub sign: Vec<Arc<Entry>>,
    /// IDs of entries whose SVID is to be forgotten.
    pub evict: Vec<String>,
    /// When the next SVID falls due, if nothing else happens.
    pub next: Option<OffsetDateTime>,
}

impl Plan {
    /// Plans for a state of the cache. `followed` are the entries of living streams, which are always kept; of the others
    /// the most recently used, then those not used yet, are kept while there are no more than `max_size` in all.
    pub fn new(snapshot: &Snapshot, followed: &HashSet<String>, max_size: usize, now: OffsetDateTime) -> Self {
        let mut plan = Self::default();
        let (wanted, mut optional): (Vec<_>, Vec<_>) =
            snapshot.entries.iter().filter(|entry| entry.is_served()).partition(|entry| followed.contains(&entry.id));

        let held = |entry: &Entry| snapshot.svids.get(&entry.id).and_then(|slot| slot.held.as_ref());
        // Most recently used first, then held but never used, then not held; the order by ID decides among equals.
        optional.sort_by_key(|entry| std::cmp::Reverse(held(entry).map(|svid| svid.last_used())));
        let room = max_size.saturating_sub(wanted.len());
        let mut kept = 0;
        let mut keep = Vec::new();
        for entry in optional {
            let has_svid = held(entry).is_some();
            if kept < room && (has_svid || entry.prefetch) {
                kept += 1;
                keep.push(entry);
            } else if has_svid {
                plan.evict.push(entry.id.clone());
            }
        }

        let (mut waited_for, mut renewals) = (Vec::new(), Vec::new());
        for entry in wanted.into_iter().chain(keep) {
            match due(snapshot, entry, now) {
                Due::Now { held: false } => waited_for.push(Arc::clone(entry)),
                Due::Now { held: true } => renewals.push(Arc::clone(entry)),
                Due::At(at) => plan.next = rotation::earlier(plan.next, Some(at)),
            }
        }
        plan.sign = waited_for;
        plan.sign.append(&mut renewals);
        plan
    }
}

enum Due {
    Now { held: bool },
    At(OffsetDateTime),
}

fn due(snapshot: &Snapshot, entry: &Entry, now: OffsetDateTime) -> Due {
    let slot = snapshot.svids.get(&entry.id);
    let retry_at = slot.and_then(|slot| slot.failure.as_ref()).and_then(|failure| {
        (failure.revision == (entry.revision_number, entry.created_at)).then_some(failure.retry_at)
    });
    let due_at = slot.and_then(|slot| due_at(snapshot, entry, slot));
    // A failed signing is not repeated before its time, whatever made it due.
    let at = match (due_at, retry_at) {
        (None, None) => None,
        (due, retry) => due.max(retry),
    };
    match at {
        Some(at) if at > now => Due::At(at),
        _ => Due::Now { held: slot.is_some_and(|slot| slot.held.is_some()) },
    }
}

/// When the held SVID must be replaced; `None` for at once.
fn due_at(snapshot: &Snapshot, entry: &Entry, slot: &SvidSlot) -> Option<OffsetDateTime> {
    let svid = slot.held.as_ref().filter(|svid| svid.is_for(entry))?;
    let tainted = svid.facts.authority_key_ids.iter().filter_map(|key_id| snapshot.tainted.get(key_id)).min();
    match tainted {
        Some(noticed) if svid.signed_at <= *noticed => None,
        Some(_) => Some(svid.rotate_at.min(svid.signed_at + TAINTED_AGAIN)),
        None => Some(svid.rotate_at),
    }
}
