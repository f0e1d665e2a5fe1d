//! Why the store did not do as asked.

use service_kit::database::{DatabaseError, TransactionError};

/// Why the store did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Another gateway on the same database works on it now.
    #[error("another gateway has taken over the work on `{trust_domain}`; nothing was stored, try again")]
    LeaseLost {
        /// The trust domain.
        trust_domain: String,
    },
    /// Another gateway on the same database decided about it meanwhile.
    #[error("what is known of `{trust_domain}` was changed through another gateway; nothing was stored, look again")]
    Changed {
        /// The trust domain.
        trust_domain: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// A stored value cannot be read.
    #[error("stored {what} of `{trust_domain}` cannot be read: {problem}; restore the database from a backup")]
    Unreadable {
        /// What kind of record.
        what: &'static str,
        /// Whose.
        trust_domain: String,
        /// What is wrong.
        problem: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl TransactionError for StoreError {
    fn database(&self) -> Option<&DatabaseError> {
        match self {
            Self::Database(error) => Some(error),
            Self::Unreadable { .. } | Self::NoRandomness | Self::LeaseLost { .. } | Self::Changed { .. } => None,
        }
    }
}
