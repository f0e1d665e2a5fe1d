//! From a workload's selectors to the entries it may have.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use federation_specs::selector::Selector;

use super::entry::Entry;
use crate::workload::SelectorSet;

/// All entries of the agent, indexed so that matching looks only at entries sharing a telling selector.
///
/// Each entry is filed under the one of its selectors that the fewest entries have. A workload that matches an entry has
/// all of its selectors, so it has that one too and finds the entry there, and nowhere else.
#[derive(Debug, Default)]
pub struct EntryIndex {
    by_id: BTreeMap<String, Arc<Entry>>,
    by_selector: HashMap<Selector, Vec<Arc<Entry>>>,
}

impl EntryIndex {
    /// Indexes the entries. Of several with the same ID the last counts.
    pub fn new(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let by_id: BTreeMap<String, Arc<Entry>> = entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        let mut frequency: HashMap<&Selector, usize> = HashMap::new();
        for selector in by_id.values().flat_map(|entry| &entry.selectors) {
            *frequency.entry(selector).or_default() += 1;
        }
        let mut by_selector: HashMap<Selector, Vec<Arc<Entry>>> = HashMap::new();
        for entry in by_id.values().filter(|entry| entry.is_served()) {
            let rarest = entry.selectors.iter().min_by_key(|selector| frequency.get(selector));
            if let Some(selector) = rarest {
                by_selector.entry(selector.clone()).or_default().push(Arc::clone(entry));
            }
        }
        Self { by_id, by_selector }
    }

    /// Served entries all of whose selectors are among `selectors`, in the order of their IDs.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut found: Vec<Arc<Entry>> = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flatten()
            .filter(|entry| entry.selectors.is_subset(selectors))
            .cloned()
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    /// The entry with that ID.
    pub fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    /// Every entry in the order of their IDs.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_id.values()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::tests::entry;

    fn selectors(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    #[test]
    fn matches_subsets_in_id_order() {
        let mut stored = entry("a0", "stored", &["unix:uid:0"]);
        stored.store_svid = true;
        let index = EntryIndex::new(
            [
                entry("c", "c", &["unix:uid:0"]),
                entry("a", "a", &["unix:uid:0", "unix:gid:0"]),
                entry("b", "b", &["unix:uid:1"]),
                entry("d", "d", &["unix:uid:0", "unix:path:/bin/x"]),
                stored,
            ]
            .map(Arc::new),
        );
        assert_eq!(ids(&index.matching(&selectors(&["unix:uid:0", "unix:gid:0", "unix:user:root"]))), ["a", "c"]);
        assert_eq!(ids(&index.matching(&selectors(&["unix:uid:1"]))), ["b"]);
        assert!(index.matching(&selectors(&["unix:gid:0"])).is_empty());
        assert!(index.matching(&SelectorSet::new()).is_empty());
        assert_eq!(index.len(), 5);
    }

    #[test]
    fn agrees_with_a_plain_search() {
        let names = ["a:1", "a:2", "b:1", "b:2", "c:1"];
        let subset = |bits: usize| -> Vec<&str> {
            names.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, name)| *name).collect()
        };
        let entries: Vec<Arc<Entry>> =
            (1..32).map(|bits| Arc::new(entry(&format!("{bits:02}"), "x", &subset(bits)))).collect();
        let index = EntryIndex::new(entries.clone());
        for bits in 0..32 {
            let workload = selectors(&subset(bits));
            let plain: Vec<Arc<Entry>> =
                entries.iter().filter(|entry| entry.selectors.is_subset(&workload)).cloned().collect();
            assert_eq!(ids(&index.matching(&workload)), ids(&plain));
        }
    }
}
