//! One state of entries and nodes, and what follows from it for an agent.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::selector::Selector;

use super::shards::Shards;
use crate::entry::Entry;
use crate::node::Node;
use crate::store::ChangedRows;

/// An immutable state of entries and nodes. Clones and successors share what did not change.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {
    trust_domain: TrustDomain,
    /// Change counter of the store; below 0 when nothing was loaded.
    at: i64,
    by_id: Shards<String, Arc<Entry>>,
    by_parent: Shards<SpiffeId, Arc<Vec<Arc<Entry>>>>,
    by_spiffe_id: Shards<SpiffeId, Arc<Vec<Arc<Entry>>>>,
    /// Node aliases under the smallest of their selectors: an agent that lacks it cannot match.
    aliases: Shards<Selector, Arc<Vec<Arc<Entry>>>>,
    /// Selectors of the agents that have any.
    node_selectors: Shards<SpiffeId, Arc<BTreeSet<Selector>>>,
}

impl EntrySnapshot {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            at: -1,
            by_id: Shards::default(),
            by_parent: Shards::default(),
            by_spiffe_id: Shards::default(),
            aliases: Shards::default(),
            node_selectors: Shards::default(),
        }
    }

    pub(super) fn at(&self) -> i64 {
        self.at
    }

    /// The state after a change.
    pub(super) fn with(&self, changed: ChangedRows) -> Self {
        let mut next = if changed.everything { Self::new(self.trust_domain.clone()) } else { self.clone() };
        next.at = changed.latest;
        for id in &changed.removed_entries {
            next.remove_entry(id);
        }
        for agent_id in &changed.removed_nodes {
            if let Ok(agent_id) = SpiffeId::parse(agent_id) {
                next.node_selectors.remove(&agent_id);
            }
        }
        for entry in changed.entries {
            next.remove_entry(&entry.id);
            next.add_entry(Arc::new(entry));
        }
        for node in changed.nodes {
            next.set_node(node);
        }
        next
    }

    fn add_entry(&mut self, entry: Arc<Entry>) {
        self.by_id.insert(entry.id.clone(), entry.clone());
        self.by_spiffe_id.push(&entry.spiffe_id, entry.clone());
        if let Some(first) = self.alias_key(&entry) {
            self.aliases.push(first, entry.clone());
        }
        self.by_parent.push(&entry.parent_id, entry.clone());
    }

    fn remove_entry(&mut self, id: &str) {
        let Some(entry) = self.by_id.remove(id) else { return };
        let same = |other: &Arc<Entry>| other.id == entry.id;
        self.by_spiffe_id.take(&entry.spiffe_id, same);
        self.by_parent.take(&entry.parent_id, same);
        if let Some(first) = self.alias_key(&entry) {
            self.aliases.take(first, same);
        }
    }

    fn set_node(&mut self, node: Node) {
        if node.selectors.is_empty() {
            self.node_selectors.remove(&node.agent_id);
        } else {
            self.node_selectors.insert(node.agent_id, Arc::new(node.selectors));
        }
    }

    /// The selector a node alias is found by.
    fn alias_key<'e>(&self, entry: &'e Entry) -> Option<&'e Selector> {
        if self.is_alias(entry) { entry.selectors.iter().min() } else { None }
    }

    fn is_alias(&self, entry: &Entry) -> bool {
        entry.parent_id.is_server() && entry.parent_id.trust_domain() == &self.trust_domain
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// There is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of one SPIFFE ID: the rights of a caller.
    pub fn entries_of(&self, spiffe_id: &SpiffeId) -> &[Arc<Entry>] {
        self.by_spiffe_id.list(spiffe_id)
    }

    /// Every entry the agent may serve, each once.
    pub fn authorized_entries(&self, agent_id: &SpiffeId) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        let mut waiting = self.identities_of(agent_id);
        let mut seen: HashSet<&SpiffeId> = waiting.iter().copied().collect();
        while let Some(parent) = waiting.pop() {
            for entry in self.by_parent.list(parent).iter().filter(|entry| self.is_servable(entry)) {
                found.push(entry.clone());
                if seen.insert(&entry.spiffe_id) {
                    waiting.push(&entry.spiffe_id);
                }
            }
        }
        found
    }

    /// The agent's own ID and those its aliases give it, each once.
    fn identities_of<'s>(&'s self, agent_id: &'s SpiffeId) -> Vec<&'s SpiffeId> {
        let mut identities = vec![agent_id];
        for alias in self.aliases_of(agent_id) {
            if !identities.contains(&&alias.spiffe_id) {
                identities.push(&alias.spiffe_id);
            }
        }
        identities
    }

    /// Neither a node alias nor of another trust domain.
    fn is_servable(&self, entry: &Entry) -> bool {
        entry.spiffe_id.trust_domain() == &self.trust_domain && !self.is_alias(entry)
    }

    /// Aliases whose selectors the node has all of.
    fn aliases_of<'s>(&'s self, agent_id: &SpiffeId) -> impl Iterator<Item = &'s Arc<Entry>> + use<'s> {
        let selectors = self.node_selectors.get(agent_id);
        selectors.into_iter().flat_map(move |held| {
            held.iter().flat_map(move |selector| {
                let candidates = self.aliases.list(selector).iter();
                candidates.filter(move |alias| alias.selectors.iter().all(|wanted| held.contains(wanted)))
            })
        })
    }

    /// One entry, if the agent may serve it. Looks from the entry up to the agent, so it costs the depth and not the
    /// number of the agent's entries.
    pub fn authorized_entry(&self, agent_id: &SpiffeId, entry_id: &str) -> Option<Arc<Entry>> {
        let entry = self.by_id.get(entry_id).filter(|entry| self.is_servable(entry))?;
        let identities: HashSet<&SpiffeId> = self.identities_of(agent_id).into_iter().collect();
        let mut waiting = vec![&entry.parent_id];
        let mut seen: HashSet<&SpiffeId> = waiting.iter().copied().collect();
        while let Some(parent) = waiting.pop() {
            if identities.contains(parent) {
                return Some(entry.clone());
            }
            for above in self.by_spiffe_id.list(parent).iter().filter(|above| self.is_servable(above)) {
                if seen.insert(&above.parent_id) {
                    waiting.push(&above.parent_id);
                }
            }
        }
        None
    }
}

impl ChangedRows {
    pub(super) fn changes_nothing(&self) -> bool {
        !self.everything
            && self.entries.is_empty()
            && self.nodes.is_empty()
            && self.removed_entries.is_empty()
            && self.removed_nodes.is_empty()
    }
}
