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
    missing: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Gathered {
    /// Waits for each of `items`.
    pub(crate) fn new(latch: Latch, items: impl IntoIterator<Item = String>) -> Self {
        let missing = items.into_iter().map(|item| (item, "starting".to_owned())).collect();
        let gathered = Self { latch, missing: Arc::new(Mutex::new(missing)) };
        gathered.report();
        gathered
    }

    /// The item works.
    pub(crate) fn ready(&self, item: &str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(item);
        self.report();
    }

    /// The item does not work, and why.
    pub(crate) fn not_ready(&self, item: &str, reason: &str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(item.to_owned(), reason.to_owned());
        self.report();
    }

    fn report(&self) {
        match self.missing.lock().unwrap_or_else(PoisonError::into_inner).first_key_value() {
            None => self.latch.ready(),
            Some((item, reason)) => self.latch.not_ready(format!("{item}: {reason}")),
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
        Gathered::new(readiness.latch("none"), []);
        assert!(readiness.snapshot()["none"].ready);
    }
}
