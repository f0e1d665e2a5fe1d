//! A map that shares all but the touched shards with the version it was made from.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// With a million keys a shard holds about a thousand.
const SHARDS: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct Shards<K, V> {
    hasher: RandomState,
    shards: Vec<Arc<HashMap<K, V>>>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { hasher: RandomState::new(), shards: vec![empty; SHARDS] }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.place(key)].get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        Arc::make_mut(&mut self.shards[place]).insert(key, value)
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        if !self.shards[place].contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[place]).remove(key)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // Equal for a key and its borrowed form. The remainder is below SHARDS.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, Arc<Vec<V>>> {
    /// Adds to the list under a key. What no other version shares is changed in place.
    pub(super) fn push(&mut self, key: &K, value: V) {
        let place = self.place(key);
        let shard = Arc::make_mut(&mut self.shards[place]);
        match shard.get_mut(key) {
            Some(list) => Arc::make_mut(list).push(value),
            None => {
                shard.insert(key.clone(), Arc::new(vec![value]));
            }
        }
    }

    /// Takes the values that match out of the list under a key.
    pub(super) fn take(&mut self, key: &K, matches: impl Fn(&V) -> bool) {
        let place = self.place(key);
        let shard = Arc::make_mut(&mut self.shards[place]);
        if let Some(list) = shard.get_mut(key) {
            Arc::make_mut(list).retain(|value| !matches(value));
            if list.is_empty() {
                shard.remove(key);
            }
        }
    }

    /// The list under a key.
    pub(super) fn list(&self, key: &K) -> &[V] {
        self.get(key).map(|list| list.as_slice()).unwrap_or_default()
    }
}
