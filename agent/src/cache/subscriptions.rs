//! Streams waiting for changes. Callers with the same selectors share one group: one view is made for all of them, and
//! each waits on the group's channel.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::watch;

use super::view::View;
use crate::workload::SelectorSet;

/// Callers with equal selectors.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) selectors: Arc<SelectorSet>,
    pub(super) view: watch::Sender<Arc<View>>,
    registry: Weak<Registry>,
}

impl Group {
    /// Puts a newer view in place, made from the current one, and wakes the subscribers if it differs for them. A view of
    /// an older snapshot than the present one is dropped.
    pub(super) fn refresh(&self, snapshot: u64, make: impl FnOnce(&View) -> View) {
        self.view.send_if_modified(|view| {
            if snapshot < view.snapshot {
                return false;
            }
            let new = make(view);
            let differs = new.differs(view);
            *view = Arc::new(new);
            differs
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.selectors);
        }
    }
}

/// The living groups.
#[derive(Debug, Default)]
pub(super) struct Registry {
    groups: Mutex<HashMap<Arc<SelectorSet>, Weak<Group>>>,
}

impl Registry {
    /// The group of callers with these selectors; a new one starts with the view that `first` makes. The second value
    /// tells whether it is new.
    pub(super) fn group(
        self: &Arc<Self>,
        selectors: &Arc<SelectorSet>,
        first: impl FnOnce() -> View,
    ) -> (Arc<Group>, bool) {
        // Made outside the lock; thrown away if another caller was faster.
        if let Some(group) = self.find(selectors) {
            return (group, false);
        }
        let new = Arc::new(Group {
            selectors: Arc::clone(selectors),
            view: watch::Sender::new(Arc::new(first())),
            registry: Arc::downgrade(self),
        });
        let existing = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            match groups.get(selectors).and_then(Weak::upgrade) {
                Some(group) => Some(group),
                None => {
                    groups.insert(Arc::clone(selectors), Arc::downgrade(&new));
                    None
                }
            }
        };
        // A group must not be dropped under the lock: its drop takes the lock.
        match existing {
            Some(group) => (group, false),
            None => (new, true),
        }
    }

    fn find(&self, selectors: &SelectorSet) -> Option<Arc<Group>> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(selectors).and_then(Weak::upgrade)
    }

    /// Every living group.
    pub(super) fn groups(&self) -> Vec<Arc<Group>> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.values().filter_map(Weak::upgrade).collect()
    }

    fn forget(&self, selectors: &SelectorSet) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        // A successor with the same selectors may have taken the place already.
        if groups.get(selectors).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(selectors);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One stream's hold on its group. The group lives as long as one of its subscriptions.
#[derive(Debug)]
pub struct Subscription {
    views: watch::Receiver<Arc<View>>,
    _group: Arc<Group>,
}

impl Subscription {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { views: group.view.subscribe(), _group: group }
    }

    /// The present view, marked as seen.
    pub fn view(&mut self) -> Arc<View> {
        Arc::clone(&self.views.borrow_and_update())
    }

    /// Waits for a view that has not been seen.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            // The group holds the sender and this subscription holds the group, so the channel cannot close.
            std::future::pending::<()>().await;
        }
    }
}
