//! Why a decision about a bundle was not taken.

use federation_specs::{bundle_json::BundleJsonError, id::TrustDomain};

use super::limits::LimitError;
use crate::store::StoreError;

/// Fewest digits of a digest that name a bundle.
pub const MIN_DIGEST_DIGITS: usize = 8;

/// Why a decision was not taken. Nothing changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// The sequence went back.
    #[error(
        "the partner's bundle went back from sequence {held} to {fetched}; refused as a rollback, the bundle held stays \
         in force. If the partner was rebuilt, refresh once with accept_rollback"
    )]
    Rollback {
        /// The highest sequence accepted.
        held: u64,
        /// Sequence of the bundle fetched.
        fetched: u64,
    },
    /// All keys are gone.
    #[error(
        "the partner's bundle has no keys any more, which revokes all trust in it; held back, the bundle held stays in \
         force. If this is intended, approve it, refresh once with accept_emptied or remove the relationship"
    )]
    Emptied,
    /// There never was a key.
    #[error(
        "the partner's bundle has no keys, so nobody could be verified with it; held back. If this is intended, approve \
         it or refresh once with accept_emptied; otherwise the partner has to publish its keys"
    )]
    NoKeys,
    /// The sequence grew beyond what leaves room for later ones.
    #[error(
        "the partner's bundle leaps from sequence {from} to {to}, which leaves no room for later ones; held back. If this \
         is intended, approve it"
    )]
    Leapt {
        /// The highest sequence accepted.
        from: u64,
        /// Sequence of the bundle fetched.
        to: u64,
    },
    /// All keys are gone, and that is never accepted.
    #[error(
        "the partner's bundle has no keys any more, which revokes all trust in it; refused, because the relationship \
         says `emptied: refuse`. If this is intended, refresh once with accept_emptied or remove the relationship"
    )]
    EmptiedRefused,
    /// The relationship is not what it was when the fetch began.
    #[error("the relationship was changed during the refresh; it is refreshed again as it is now")]
    Redefined,
    /// The relationship is not as the operator saw it.
    #[error("what the decision is about has changed since it was looked at; nothing was done, look again")]
    Changed,
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Nothing waits.
    #[error("no change of `{0}` waits for a decision")]
    NothingWaits(TrustDomain),
    /// The waiting bundle is another one.
    #[error(
        "the bundle of `{partner}` that waits now is {waiting}, not the one named; look at the difference again and decide \
         about that one"
    )]
    AnotherWaits {
        /// The partner.
        partner: TrustDomain,
        /// Digest of the one that waits.
        waiting: String,
    },
    /// A pinned relationship changes by name only.
    #[error("`{partner}` is pinned, so a bundle is put in force by its name only: restore {digest}")]
    Pinned {
        /// The partner.
        partner: TrustDomain,
        /// Digest of the one that waits.
        digest: String,
    },
    /// A frozen relationship does not change.
    #[error("`{0}` is frozen; unfreeze it first")]
    IsFrozen(TrustDomain),
    /// It is not frozen.
    #[error("`{0}` is not frozen")]
    NotFrozen(TrustDomain),
    /// It is frozen already.
    #[error("`{partner}` is frozen already, by {by}")]
    FrozenAlready {
        /// The partner.
        partner: TrustDomain,
        /// Who froze it.
        by: String,
    },
    /// No bundle of that name.
    #[error(
        "no bundle of `{partner}` is named `{name}`; give a number or at least {MIN_DIGEST_DIGITS} digits of the SHA-256 \
         from its history"
    )]
    UnknownBundle {
        /// The partner.
        partner: TrustDomain,
        /// What was looked for.
        name: String,
    },
    /// Several bundles begin so.
    #[error("several bundles of `{partner}` have a SHA-256 that begins with `{name}`; give more digits")]
    Ambiguous {
        /// The partner.
        partner: TrustDomain,
        /// What was looked for.
        name: String,
    },
    /// A bundle of the history is damaged.
    #[error("the bundle {name} in the history of `{partner}` cannot be read: {cause}; name another one")]
    Damaged {
        /// The partner.
        partner: TrustDomain,
        /// Its name.
        name: String,
        /// What is wrong.
        cause: BundleJsonError,
    },
    /// The store failed.
    #[error("the decision could not be stored: {0}")]
    Store(#[from] StoreError),
}
