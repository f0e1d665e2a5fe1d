//! Why a store operation did not happen.

use federation_specs::id::TrustDomain;

use crate::entry::EntryError;
use crate::node::JoinTokenError;

/// Why a store operation did not happen. Where [`StoreError::is_internal`] holds, the cause is for the log, never for a
/// caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] service_kit::database::DatabaseError),
    /// A stored row cannot be understood.
    #[error("stored {what} `{id}` is damaged: {reason}")]
    Corrupt {
        /// Kind of row.
        what: &'static str,
        /// Its name.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// The thing asked for does not exist.
    #[error("{what} not found")]
    NotFound {
        /// `entry`, `agent`, `bundle`, `federation relationship`…
        what: &'static str,
    },
    /// The entry breaks a rule.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The ID chosen for an entry is in use.
    #[error("an entry with ID `{0}` already exists")]
    EntryIdExists(String),
    /// Another entry has the same parent, SPIFFE ID and selectors (when updating).
    #[error("similar entry already exists")]
    SimilarEntry,
    /// An entry federates with a domain that has no stored bundle.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    FederatedBundleMissing(TrustDomain),
    /// The join token cannot be created.
    #[error(transparent)]
    JoinToken(#[from] JoinTokenError),
    /// A bundle for the domain is stored already.
    #[error("bundle already exists")]
    BundleExists,
    /// Entries federate with the bundle.
    #[error("cannot delete bundle; federated with {0} registration entries")]
    BundleInUse(u64),
    /// The operation is not for the own trust domain's bundle.
    #[error("operation is not allowed for the server trust domain")]
    OwnTrustDomain,
    /// A relationship with the domain is stored already.
    #[error("federation relationship already exists")]
    RelationshipExists,
    /// The authority is tainted already.
    #[error("{0} is already tainted")]
    AlreadyTainted(&'static str),
    /// Only tainted authorities can be revoked.
    #[error("it is not possible to revoke an untainted {0}")]
    NotTainted(&'static str),
    /// No authority with that ID is in the bundle.
    #[error("no {0} found with provided {1}")]
    AuthorityNotFound(&'static str, &'static str),
    /// A page token that is no row number.
    #[error("could not parse token \"{0}\"")]
    PageToken(String),
    /// More values in a filter than [`crate::store::MAX_FILTER_VALUES`].
    #[error("filter holds more than {0} values")]
    FilterTooLarge(usize),
    /// The database holds another trust domain's data.
    #[error(
        "the database belongs to trust domain `{stored}`, not `{configured}`; use another data_dir or trust_domain"
    )]
    OtherTrustDomain {
        /// In the database.
        stored: String,
        /// In the configuration.
        configured: TrustDomain,
    },
}

impl StoreError {
    /// The cause is the server's, not the caller's: answer a fixed text and log this.
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Database(_) | Self::Corrupt { .. } | Self::OtherTrustDomain { .. })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}
