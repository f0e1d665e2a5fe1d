//! Why managed relationships were not changed.

use federation_specs::id::TrustDomain;
use service_kit::database::{DatabaseError, TransactionError};

use super::definition::MAX_SET_BYTES;
use crate::{
    settings::{MAX_RELATIONSHIPS, SettingsError},
    store::error::StoreError,
};

/// Most problems, or names, told at once.
const MAX_TOLD: usize = 20;

/// Why managed relationships were not changed. Nothing changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagedError {
    /// Values that cannot be used.
    #[error("{}", joined(.0, "; "))]
    Invalid(Vec<SettingsError>),
    /// One partner, two definitions.
    #[error("`{0}` is defined twice; keep one of the definitions")]
    Twice(TrustDomain),
    /// The configuration file defines it.
    #[error(
        "{} defined in the configuration file of the gateway, which comes first; change it there, or remove it there and \
         restart the gateway before managing it here", are(.0)
    )]
    Configured(Vec<TrustDomain>),
    /// An issuer defines it.
    #[error(
        "`{0}` was created at an issuer; delete it there (`entente issuer federation delete`), or create it here as well, \
         which comes first"
    )]
    Elsewhere(TrustDomain),
    /// Nobody defines it.
    #[error("no relationship with trust domain `{0}`; see the list of relationships")]
    Unknown(TrustDomain),
    /// It belongs to another set.
    #[error(
        "`{partner}` belongs to set `{owner}`, not to `{set}`; apply it with that set, remove it from one of the two, or \
         take it over"
    )]
    OtherSet {
        /// The partner.
        partner: TrustDomain,
        /// Whose it is.
        owner: String,
        /// The set applied.
        set: String,
    },
    /// Most of a set would go.
    #[error(
        "this would remove {removed} of the {of} relationships of set `{set}` and take their bundles from the issuers; \
         nothing changed. If that is intended, confirm it (--yes)"
    )]
    ManyRemovals {
        /// How many would be removed.
        removed: usize,
        /// How many there are.
        of: usize,
        /// The set.
        set: String,
    },
    /// Somebody else changed it.
    #[error("`{partner}` was changed meanwhile and has version {version} now; look at it again")]
    Version {
        /// The partner.
        partner: TrustDomain,
        /// Its version.
        version: i64,
    },
    /// It should exist and does not.
    #[error("`{0}` is not managed here any more, or never was; look at it again")]
    Gone(TrustDomain),
    /// It should not exist and does.
    #[error("`{0}` exists already; replace it, or choose another partner")]
    Exists(TrustDomain),
    /// The gateway has as many as it may.
    #[error("there would be more than {MAX_RELATIONSHIPS} relationships; use several gateways")]
    TooMany,
    /// No name of a set.
    #[error("`{0}` is no name of a set; use at most {MAX_SET_BYTES} lower-case letters, digits, `.`, `_` and `-`")]
    Set(String),
    /// The store failed.
    #[error("the change could not be stored: {0}")]
    Store(#[from] StoreError),
    /// The program failed.
    #[error("the change failed, which is a defect: {0}")]
    Defect(String),
}

fn joined<T: ToString>(items: &[T], between: &str) -> String {
    let mut told: Vec<String> = items.iter().take(MAX_TOLD).map(ToString::to_string).collect();
    if items.len() > MAX_TOLD {
        told.push(format!("and {} more", items.len() - MAX_TOLD));
    }
    told.join(between)
}

fn are(partners: &[TrustDomain]) -> String {
    let names: Vec<String> = partners.iter().map(|name| format!("`{name}`")).collect();
    format!("{} {}", joined(&names, ", "), if partners.len() == 1 { "is" } else { "are" })
}

impl From<DatabaseError> for ManagedError {
    fn from(error: DatabaseError) -> Self {
        Self::Store(error.into())
    }
}

impl From<sqlx::Error> for ManagedError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl TransactionError for ManagedError {
    fn database(&self) -> Option<&DatabaseError> {
        match self {
            Self::Store(error) => error.database(),
            _ => None,
        }
    }
}
