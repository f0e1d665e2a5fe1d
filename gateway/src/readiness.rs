//! One health latch for several things of a kind: ready once none of them is missing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use service_kit::health::Latch;

/// A latch that is ready when every item is.
#[derive(Debug, Clone)]
pub(crate) struct Gathered {
    latch: Latch,
    /// Whether the service is not ready while an item is missing.
    needed: bool,
    items: Arc<Mutex<Items>>,
}

#[derive(Debug, Default)]
struct Items {
    missing: BTreeMap<String, String>,
    /// What an operator should know although the item works.
    remarks: BTreeMap<String, String>,
}

impl Gathered {
    /// Waits for each of `items`.
    pub(crate) fn new(latch: Latch, items: impl IntoIterator<Item = String>) -> Self {
        Self::with(latch, true, items)
    }

    /// Only tells what is missing of `items`.
    pub(crate) fn optional(latch: Latch, items: impl IntoIterator<Item = String>) -> Self {
        Self::with(latch, false, items)
    }

    fn with(latch: Latch, needed: bool, items: impl IntoIterator<Item = String>) -> Self {
        let missing = items.into_iter().map(|item| (item, "starting".to_owned())).collect();
        let items = Items { missing, remarks: BTreeMap::new() };
        let gathered = Self { latch, needed, items: Arc::new(Mutex::new(items)) };
        gathered.report();
        gathered
    }

    /// The item works.
    pub(crate) fn ready(&self, item: &str) {
        self.ready_but(item, None);
    }

    /// The item works, but an operator should know something.
    pub(crate) fn ready_but(&self, item: &str, remark: Option<String>) {
        {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            items.missing.remove(item);
            match remark {
                Some(remark) => items.remarks.insert(item.to_owned(), remark),
                None => items.remarks.remove(item),
            };
        }
        self.report();
    }

    /// The item does not work, and why.
    pub(crate) fn not_ready(&self, item: &str, reason: &str) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.missing.insert(item.to_owned(), reason.to_owned());
        drop(items);
        self.report();
    }

    fn report(&self) {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        match (items.missing.first_key_value(), items.remarks.first_key_value()) {
            (Some((item, reason)), _) if !self.needed => self.latch.ready_but(format!("{item}: {reason}")),
            (Some((item, reason)), _) => self.latch.not_ready(format!("{item}: {reason}")),
            (None, Some((item, remark))) => self.latch.ready_but(format!("{item}: {remark}")),
            (None, None) => self.latch.ready(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_kit::health::Readiness;

    #[test]
    fn ready_when_nothing_is_missing() {
        let readiness = Readiness::new();
        let items = ["a.example".to_owned(), "b.example".to_owned()];
        let gathered = Gathered::new(readiness.latch("source"), items);
        assert!(!readiness.is_ready());
        gathered.ready("a.example");
        gathered.not_ready("b.example", "refused");
        assert_eq!(readiness.snapshot()["source"].reason.as_deref(), Some("b.example: refused"));
        gathered.ready("b.example");
        assert!(readiness.is_ready());
        gathered.ready_but("b.example", Some("held".to_owned()));
        assert!(readiness.is_ready());
        assert_eq!(readiness.snapshot()["source"].reason.as_deref(), Some("b.example: held"));
        gathered.ready("b.example");
        assert_eq!(readiness.snapshot()["source"].reason, None);
        let optional = Gathered::optional(readiness.latch("spare"), ["c.example".to_owned()]);
        optional.not_ready("c.example", "refused");
        assert!(readiness.is_ready());
        assert_eq!(readiness.snapshot()["spare"].reason.as_deref(), Some("c.example: refused"));
        Gathered::new(readiness.latch("none"), []);
        assert!(readiness.snapshot()["none"].ready);
    }
}
