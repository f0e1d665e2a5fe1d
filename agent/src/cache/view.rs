//! What one kind of caller sees of the cache.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use federation_specs::{bundle::Bundle, id::TrustDomain};
use time::OffsetDateTime;

use super::{Snapshot, entry::Entry, svid::X509Svid};
use crate::{rotation, workload::SelectorSet};

/// Bundles by trust domain.
pub type Bundles = BTreeMap<TrustDomain, Arc<Bundle>>;

/// What `FetchX509SVID` answers, complete and valid when made.
#[derive(Debug)]
pub struct X509Answer {
    /// Identities in order, the first is the default one.
    pub identities: Vec<(Arc<Entry>, Arc<X509Svid>)>,
    /// Bundle of the agent's trust domain.
    pub own: Arc<Bundle>,
    /// Bundles of the trust domains any of the caller's identities federates with.
    pub federated: Bundles,
}

impl X509Answer {
    fn same_message(&self, other: &Self) -> bool {
        self.identities.len() == other.identities.len()
            && self.identities.iter().zip(&other.identities).all(|((a, svid_a), (b, svid_b))| {
                Arc::ptr_eq(svid_a, svid_b) && a.hint == b.hint && a.spiffe_id == b.spiffe_id
            })
            && same_x509(&self.own, &other.own)
            && same_bundles(&self.federated, &other.federated, same_x509)
    }
}

fn same_x509(a: &Arc<Bundle>, b: &Arc<Bundle>) -> bool {
    Arc::ptr_eq(a, b)
        || a.x509_authorities()
            .iter()
            .map(|authority| authority.der())
            .eq(b.x509_authorities().iter().map(|authority| authority.der()))
}

fn same_jwt(a: &Arc<Bundle>, b: &Arc<Bundle>) -> bool {
    let keys = |bundle: &'_ Bundle| -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<_> = bundle
            .jwt_authorities()
            .iter()
            .map(|authority| (authority.key_id().to_string(), authority.public_key().spki_der().to_vec()))
            .collect();
        keys.sort();
        keys
    };
    Arc::ptr_eq(a, b) || keys(a) == keys(b)
}

fn same_bundles(a: &Bundles, b: &Bundles, same: impl Fn(&Arc<Bundle>, &Arc<Bundle>) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((td_a, a), (td_b, b))| td_a == td_b && same(a, b))
}

/// Everything a caller with certain selectors may have, made from one snapshot of the cache.
#[derive(Debug)]
pub struct View {
    /// Number of the snapshot it was made from.
    pub snapshot: u64,
    /// Matching entries by ID, before the hint filter.
    pub entries: Vec<Arc<Entry>>,
    /// Matching entries by ID that remain after the hint filter.
    pub identities: Vec<Arc<Entry>>,
    /// The answer to `FetchX509SVID`; `None` while an identity waits for its first signature or none is signed. An
    /// unchanged answer is the same `Arc` from view to view.
    pub x509: Option<Arc<X509Answer>>,
    /// Own and federated bundles; the same `Arc` while no X.509 authority changes.
    pub x509_bundles: Arc<Bundles>,
    /// Own and federated bundles; the same `Arc` while no JWT authority changes.
    pub jwt_bundles: Arc<Bundles>,
    /// When the first SVID of the answer expires.
    pub valid_until: Option<OffsetDateTime>,
    last_x509: Option<Arc<X509Answer>>,
}

impl View {
    /// The view of a caller with these selectors. `previous` is the same caller's view of an earlier snapshot, if any;
    /// what has not changed since is taken over from it.
    pub fn new(snapshot: &Snapshot, selectors: &SelectorSet, previous: Option<&Self>, now: OffsetDateTime) -> Self {
        let entries = snapshot.entries.matching(selectors);
        let identities = without_repeated_hints(&entries);

        let mut federated = Bundles::new();
        for trust_domain in entries.iter().flat_map(|entry| &entry.federates_with) {
            if !federated.contains_key(trust_domain)
                && let Some(bundle) = snapshot.bundles.get(trust_domain)
            {
                federated.insert(trust_domain.clone(), Arc::clone(bundle));
            }
        }
        let own = snapshot.own_bundle();
        let mut bundles = federated.clone();
        if let Some(own) = own {
            bundles.insert(own.trust_domain().clone(), Arc::clone(own));
        }
        let bundles = Arc::new(bundles);

        let mut signed = Vec::with_capacity(identities.len());
        let mut waiting = false;
        for entry in &identities {
            let slot = snapshot.svids.get(&entry.id);
            // An entry may have got another SPIFFE ID since its SVID was signed.
            let usable = |svid: &&Arc<X509Svid>| svid.is_valid_at(now) && svid.facts.id == entry.spiffe_id;
            match slot.and_then(|slot| slot.held.as_ref()).filter(usable) {
                Some(svid) => signed.push((Arc::clone(entry), Arc::clone(svid))),
                None => waiting |= slot.is_none_or(|slot| slot.failure.is_none()),
            }
        }
        let valid_until =
            signed.iter().fold(None, |earliest, (_, svid)| rotation::earlier(earliest, Some(svid.facts.not_after)));
        let last_x509 = previous.and_then(|previous| previous.x509.clone().or_else(|| previous.last_x509.clone()));
        let x509 = match own {
            Some(own) if !waiting && !signed.is_empty() => {
                let answer = X509Answer { identities: signed, own: Arc::clone(own), federated };
                Some(take_over(answer, last_x509.as_ref(), X509Answer::same_message))
            }
            _ => None,
        };
        Self {
            snapshot: snapshot.number,
            x509_bundles: keep(&bundles, previous.map(|previous| &previous.x509_bundles), same_x509),
            jwt_bundles: keep(&bundles, previous.map(|previous| &previous.jwt_bundles), same_jwt),
            entries,
            identities,
            x509,
            valid_until,
            last_x509,
        }
    }

    /// Whether a stream following `previous` has anything to say because of this view.
    pub(super) fn differs(&self, previous: &Self) -> bool {
        let same_x509 = match (&self.x509, &previous.x509) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        !same_x509
            || self.is_unknown() != previous.is_unknown()
            || !Arc::ptr_eq(&self.x509_bundles, &previous.x509_bundles)
            || !Arc::ptr_eq(&self.jwt_bundles, &previous.jwt_bundles)
    }

    /// Whether the caller has no identity at all.
    pub fn is_unknown(&self) -> bool {
        self.entries.is_empty()
    }
}

fn take_over<T>(new: T, old: Option<&Arc<T>>, same: impl Fn(&T, &T) -> bool) -> Arc<T> {
    match old {
        Some(old) if same(&new, old) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

fn keep(
    new: &Arc<Bundles>,
    old: Option<&Arc<Bundles>>,
    same: impl Fn(&Arc<Bundle>, &Arc<Bundle>) -> bool,
) -> Arc<Bundles> {
    match old {
        Some(old) if same_bundles(new, old, same) => Arc::clone(old),
        _ => Arc::clone(new),
    }
}

/// Of several entries with the same hint only the oldest stays, of equally old ones the first by ID. Entries without a
/// hint all stay.
fn without_repeated_hints(entries: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
    let mut oldest: HashMap<&str, &Arc<Entry>> = HashMap::new();
    for entry in entries.iter().filter(|entry| !entry.hint.is_empty()) {
        let kept = oldest.entry(&entry.hint).or_insert(entry);
        if entry.created_at < kept.created_at {
            *kept = entry;
        }
    }
    let stays = |entry: &&Arc<Entry>| oldest.get(entry.hint.as_str()).is_none_or(|kept| kept.id == entry.id);
    entries.iter().filter(stays).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::tests::entry;

    fn hinted(id: &str, hint: &str, created_at: i64) -> Arc<Entry> {
        let mut entry = entry(id, id, &["unix:uid:0"]);
        entry.hint = hint.into();
        entry.created_at = created_at;
        Arc::new(entry)
    }

    #[test]
    fn hint_filter_keeps_the_oldest_then_the_first() {
        let entries = [
            hinted("a", "main", 5),
            hinted("b", "", 9),
            hinted("c", "main", 3),
            hinted("d", "", 1),
            hinted("e", "main", 3),
            hinted("f", "side", 7),
        ];
        let kept: Vec<String> = without_repeated_hints(&entries).iter().map(|entry| entry.id.clone()).collect();
        assert_eq!(kept, ["b", "c", "d", "f"]);
    }
}
