//! What a newly fetched bundle changes (SPIFFE Trust Domain and Bundle
//! section 4.1.1; a rollback is refused).

use crate::bundle::{Bundle, JwtAuthority, X509Authority};

/// How authorities of one kind differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityChanges<T> {
    /// Only in the fetched bundle.
    pub added: Vec<T>,
    /// Only in the held bundle.
    pub removed: Vec<T>,
    /// In both.
    pub kept: Vec<T>,
}

impl<T: Clone> AuthorityChanges<T> {
    fn between(held: &[T], fetched: &[T], same: impl Fn(&T, &T) -> bool) -> Self {
        let within = |item: &T, list: &[T]| list.iter().any(|other| same(item, other));
        let (kept, added) = fetched.iter().cloned().partition(|item| within(item, held));
        let removed = held.iter().filter(|item| !within(item, fetched)).cloned().collect();
        Self { added, removed, kept }
    }

    /// Whether anything was added or removed.
    pub fn is_change(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }
}

/// How a fetched bundle differs from the held one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleChange {
    /// X.509 authorities, the same if their certificates are.
    pub x509: AuthorityChanges<X509Authority>,
    /// JWT authorities, the same if key ID and key are.
    pub jwt: AuthorityChanges<JwtAuthority>,
    /// Whether the refresh hint differs.
    pub refresh_hint_changed: bool,
    /// Whether nothing was held before.
    pub first: bool,
}

impl BundleChange {
    /// Whether authorities were added or removed; otherwise only the sequence
    /// number, the refresh hint or a taint mark differs.
    pub fn changes_authorities(&self) -> bool {
        self.x509.is_change() || self.jwt.is_change()
    }

    /// Whether authorities were held and none of either kind is kept: a full
    /// replacement, which ordinary rotation never does.
    pub fn replaces_everything(&self) -> bool {
        let removed = !self.x509.removed.is_empty() || !self.jwt.removed.is_empty();
        removed && self.x509.kept.is_empty() && self.jwt.kept.is_empty()
    }
}

/// The outcome of [`compare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Same content and same sequence number: nothing to store.
    Unchanged,
    /// Something differs.
    Changed(BundleChange),
    /// The fetched sequence number is lower than the held one.
    Rollback {
        /// Sequence number held.
        held: u64,
        /// Sequence number fetched.
        fetched: u64,
    },
    /// Authorities were held and the fetched bundle has none: the trust domain
    /// withdraws them all.
    Emptied,
}

/// Compares a fetched bundle with the one held for the same trust domain.
/// Sequence numbers are compared only if both bundles have one.
pub fn compare(held: Option<&Bundle>, fetched: &Bundle) -> Comparison {
    let nothing = Bundle::new(fetched.trust_domain().clone());
    let before = held.unwrap_or(&nothing);
    if let (Some(held), Some(fetched)) = (before.sequence(), fetched.sequence())
        && fetched < held
    {
        return Comparison::Rollback { held, fetched };
    }
    if held.is_some() && before.same_content(fetched) && before.sequence() == fetched.sequence() {
        return Comparison::Unchanged;
    }
    if fetched.is_empty() && !before.is_empty() {
        return Comparison::Emptied;
    }
    Comparison::Changed(difference(held, fetched))
}

/// The authorities two bundles of one trust domain differ in, whatever their
/// sequence numbers say.
pub fn difference(held: Option<&Bundle>, fetched: &Bundle) -> BundleChange {
    let nothing = Bundle::new(fetched.trust_domain().clone());
    let before = held.unwrap_or(&nothing);
    BundleChange {
        x509: AuthorityChanges::between(before.x509_authorities(), fetched.x509_authorities(), |a, b| {
            a.der() == b.der()
        }),
        jwt: AuthorityChanges::between(before.jwt_authorities(), fetched.jwt_authorities(), |a, b| {
            a.key_id() == b.key_id() && a.public_key() == b.public_key()
        }),
        refresh_hint_changed: before.refresh_hint() != fetched.refresh_hint(),
        first: held.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::TrustDomain;
    use crate::test_data::{jwt_authority, x509_authority};

    fn bundle(x509: &[&X509Authority], jwt: &[&JwtAuthority], sequence: u64) -> Bundle {
        Bundle::new(TrustDomain::parse("cloud.example").unwrap())
            .with_x509_authorities(x509.iter().copied().cloned())
            .with_jwt_authorities(jwt.iter().copied().cloned())
            .with_sequence(Some(sequence))
    }

    #[test]
    fn rotation_keeps_some_and_adds_some() {
        let (a, b, c) = (x509_authority("a"), x509_authority("b"), x509_authority("c"));
        let (k, l) = (jwt_authority("k"), jwt_authority("l"));
        let held = bundle(&[&a, &b], &[&k], 4);
        let Comparison::Changed(change) = compare(Some(&held), &bundle(&[&b, &c], &[&k, &l], 5)) else {
            panic!("expected a change")
        };
        assert_eq!((change.x509.added, change.x509.removed, change.x509.kept), (vec![c], vec![a.clone()], vec![b]));
        assert_eq!((change.jwt.added, change.jwt.kept), (vec![l], vec![k.clone()]));
        assert!(!change.first && !change.refresh_hint_changed);

        let Comparison::Changed(first) = compare(None, &bundle(&[&a], &[&k], 9)) else { panic!("expected a change") };
        assert!(first.first && first.changes_authorities() && !first.replaces_everything());
    }

    #[test]
    fn order_alone_is_no_change() {
        let (a, b) = (x509_authority("a"), x509_authority("b"));
        assert_eq!(compare(Some(&bundle(&[&a, &b], &[], 4)), &bundle(&[&b, &a], &[], 4)), Comparison::Unchanged);
    }

    #[test]
    fn a_new_sequence_or_hint_is_worth_storing() {
        let a = x509_authority("a");
        let held = bundle(&[&a], &[], 4);
        let Comparison::Changed(change) = compare(Some(&held), &bundle(&[&a], &[], 5)) else {
            panic!("expected a change")
        };
        assert!(!change.changes_authorities());
        let hinted = held.clone().with_refresh_hint(Some(Duration::from_secs(60)));
        let Comparison::Changed(change) = compare(Some(&held), &hinted) else { panic!("expected a change") };
        assert!(change.refresh_hint_changed);
    }

    #[test]
    fn rollback_and_withdrawal_are_told_apart() {
        let (a, b) = (x509_authority("a"), x509_authority("b"));
        let held = bundle(&[&a], &[], 4);
        assert_eq!(compare(Some(&held), &bundle(&[&b], &[], 3)), Comparison::Rollback { held: 4, fetched: 3 });
        assert_eq!(compare(Some(&held), &bundle(&[], &[], 3)), Comparison::Rollback { held: 4, fetched: 3 });
        assert_eq!(compare(Some(&held), &bundle(&[], &[], 5)), Comparison::Emptied);
        assert!(
            matches!(compare(Some(&held), &bundle(&[&b], &[], 0)), Comparison::Changed(change) if change.replaces_everything())
        );
        assert!(matches!(compare(None, &bundle(&[], &[], 1)), Comparison::Changed(_)));
    }
}
