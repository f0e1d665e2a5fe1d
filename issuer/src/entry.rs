//! Registration entries: what workload gets which SPIFFE ID, and which node may serve it.

use std::collections::BTreeSet;

use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::selector::{MatchBehavior, Selector};

/// Longest entry ID a caller may choose.
pub const MAX_ENTRY_ID_BYTES: usize = 255;
/// Longest hint, in characters.
pub const MAX_HINT_CHARS: usize = 1024;

/// What a caller says when it creates an entry.
///
/// The store checks what needs the database (federated bundles, duplicates) and the rules that hold for every entry
/// whoever makes it ([`NewEntry::check`]); that the IDs belong to the trust domain is checked where the request is
/// converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Chosen by the caller, or empty: the store makes a UUIDv4.
    pub id: String,
    /// The workload's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The agent, node alias or workload that may serve this entry; the server's own ID makes a node alias.
    pub parent_id: SpiffeId,
    /// In the order given; at least one, none twice.
    pub selectors: Vec<Selector>,
    /// Seconds; 0 means the issuer's default.
    pub x509_svid_ttl: i32,
    /// Seconds; 0 means the issuer's default.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains whose bundles the workload receives; duplicates collapse.
    pub federates_with: Vec<TrustDomain>,
    /// The SPIFFE ID may call the administration RPCs.
    pub admin: bool,
    /// The SPIFFE ID may ask for a downstream CA certificate.
    pub downstream: bool,
    /// Unix seconds; 0 means never, a past value means the next pruning.
    pub expires_at: i64,
    /// DNS names for the X509-SVID, in order; the first becomes the common name.
    pub dns_names: Vec<String>,
    /// The SVID goes to a store plug-in instead of the Workload API.
    pub store_svid: bool,
    /// Passed to the workload with the SVID.
    pub hint: String,
    /// Set when the caller sent additional attributes, even if all are false.
    pub additional_attributes: Option<AdditionalAttributes>,
}

/// Rarely used switches of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct AdditionalAttributes {
    /// The agent does not sign the X509-SVID ahead of demand.
    pub disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs carry a `jti` claim.
    pub jwt_svid_include_jti: bool,
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique name of the entry.
    pub id: String,
    /// The workload's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Who may serve it.
    pub parent_id: SpiffeId,
    /// In the order given at creation.
    pub selectors: Vec<Selector>,
    /// Seconds; 0 means the issuer's default.
    pub x509_svid_ttl: i32,
    /// Seconds; 0 means the issuer's default.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains, without duplicates.
    pub federates_with: Vec<TrustDomain>,
    /// The SPIFFE ID has administration rights.
    pub admin: bool,
    /// The SPIFFE ID may ask for a downstream CA certificate.
    pub downstream: bool,
    /// Unix seconds; 0 means never.
    pub expires_at: i64,
    /// DNS names, in order.
    pub dns_names: Vec<String>,
    /// For a store plug-in.
    pub store_svid: bool,
    /// Passed to the workload.
    pub hint: String,
    /// Rarely used switches.
    pub additional_attributes: Option<AdditionalAttributes>,
    /// Starts at 0, +1 for each update.
    pub revision_number: i64,
    /// Unix seconds.
    pub created_at: i64,
}

impl Entry {
    /// The `jti` switch, false when no attributes are stored.
    pub fn includes_jti(&self) -> bool {
        self.additional_attributes.is_some_and(|a| a.jwt_svid_include_jti)
    }

    /// The prefetch switch, false when no attributes are stored.
    pub fn disables_prefetch(&self) -> bool {
        self.additional_attributes.is_some_and(|a| a.disable_x509_svid_prefetch)
    }
}

/// A change of an entry: every `Some` field is written, the others stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryUpdate {
    /// Which entry.
    pub id: String,
    /// New SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// New parent.
    pub parent_id: Option<SpiffeId>,
    /// New selectors (replacing all).
    pub selectors: Option<Vec<Selector>>,
    /// New X509-SVID lifetime, seconds.
    pub x509_svid_ttl: Option<i32>,
    /// New JWT-SVID lifetime, seconds.
    pub jwt_svid_ttl: Option<i32>,
    /// New foreign trust domains (replacing all).
    pub federates_with: Option<Vec<TrustDomain>>,
    /// New admin flag.
    pub admin: Option<bool>,
    /// New downstream flag.
    pub downstream: Option<bool>,
    /// New expiry, unix seconds.
    pub expires_at: Option<i64>,
    /// New DNS names (replacing all).
    pub dns_names: Option<Vec<String>>,
    /// New store flag.
    pub store_svid: Option<bool>,
    /// New hint.
    pub hint: Option<String>,
    /// New attributes; the inner `None` removes them.
    pub additional_attributes: Option<Option<AdditionalAttributes>>,
}

/// Which entries to list or count; an empty filter matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Exact parent.
    pub parent_id: Option<SpiffeId>,
    /// Exact SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// Selector set (not empty) and how to compare.
    pub selectors: Option<(BTreeSet<Selector>, MatchBehavior)>,
    /// Set of foreign trust domains (not empty) and how to compare.
    pub federates_with: Option<(BTreeSet<TrustDomain>, MatchBehavior)>,
    /// Exact hint; empty filters nothing.
    pub hint: String,
    /// Only downstream entries when true; false filters nothing.
    pub downstream_only: bool,
}

/// What creating an entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateEntryOutcome {
    /// Stored.
    Created(Entry),
    /// An entry with the same parent, SPIFFE ID and selector set exists; it is left as it was.
    Similar(Entry),
}

/// Why an entry cannot be stored, whatever else is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// No selectors.
    #[error("selector list is empty")]
    NoSelectors,
    /// The same selector twice.
    #[error("selector `{0}` is listed twice; list it once")]
    RepeatedSelector(Selector),
    /// The same DNS name twice.
    #[error("DNS name `{0}` is listed twice; list it once")]
    RepeatedDnsName(String),
    /// Negative X509-SVID lifetime.
    #[error("datastore-validation: invalid registration entry: X509SvidTtl is not set")]
    NegativeX509SvidTtl,
    /// Negative JWT-SVID lifetime.
    #[error("datastore-validation: invalid registration entry: JwtSvidTtl is not set")]
    NegativeJwtSvidTtl,
    /// Hint over [`MAX_HINT_CHARS`].
    #[error("hint is longer than {MAX_HINT_CHARS} characters")]
    HintTooLong,
    /// Entry ID over [`MAX_ENTRY_ID_BYTES`].
    #[error("entry ID is longer than {MAX_ENTRY_ID_BYTES} characters")]
    IdTooLong,
    /// Entry ID with other characters than letters, digits, `-`, `.` and `_`.
    #[error("entry ID `{0}` may only contain letters, digits, '-', '.' and '_'")]
    IdCharacter(String),
    /// A stored SVID whose selectors are of several types.
    #[error("selectors of an entry with store_svid must all be of one type")]
    MixedStoreSelectors,
    /// `store_svid` together with `disable_x509_svid_prefetch`.
    #[error("store_svid and disable_x509_svid_prefetch cannot be combined")]
    StoreWithoutPrefetch,
}

impl NewEntry {
    /// Checks the rules that need no database.
    ///
    /// # Errors
    /// The first rule broken, in the order of the enum's use here.
    pub fn check(&self) -> Result<(), EntryError> {
        check_id(&self.id)?;
        check_fields(&Fields {
            selectors: &self.selectors,
            dns_names: &self.dns_names,
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            hint: &self.hint,
            store_svid: self.store_svid,
            additional_attributes: self.additional_attributes,
        })
    }
}

impl Entry {
    /// Checks the rules of [`NewEntry::check`] on an entry about to be written back.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), EntryError> {
        check_fields(&Fields {
            selectors: &self.selectors,
            dns_names: &self.dns_names,
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            hint: &self.hint,
            store_svid: self.store_svid,
            additional_attributes: self.additional_attributes,
        })
    }

    /// The entry after `update`, its revision one higher.
    #[must_use]
    pub fn updated(mut self, update: EntryUpdate) -> Self {
        let EntryUpdate {
            id: _,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl,
            jwt_svid_ttl,
            federates_with,
            admin,
            downstream,
            expires_at,
            dns_names,
            store_svid,
            hint,
            additional_attributes,
        } = update;
        set(&mut self.spiffe_id, spiffe_id);
        set(&mut self.parent_id, parent_id);
        set(&mut self.selectors, selectors);
        set(&mut self.x509_svid_ttl, x509_svid_ttl);
        set(&mut self.jwt_svid_ttl, jwt_svid_ttl);
        set(&mut self.federates_with, federates_with.map(without_repeats));
        set(&mut self.admin, admin);
        set(&mut self.downstream, downstream);
        set(&mut self.expires_at, expires_at);
        set(&mut self.dns_names, dns_names);
        set(&mut self.store_svid, store_svid);
        set(&mut self.hint, hint);
        set(&mut self.additional_attributes, additional_attributes);
        self.revision_number += 1;
        self
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Trust domains in the order given, each once.
pub(crate) fn without_repeats(domains: Vec<TrustDomain>) -> Vec<TrustDomain> {
    let mut seen = BTreeSet::new();
    domains.into_iter().filter(|domain| seen.insert(domain.clone())).collect()
}

struct Fields<'a> {
    selectors: &'a [Selector],
    dns_names: &'a [String],
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    hint: &'a str,
    store_svid: bool,
    additional_attributes: Option<AdditionalAttributes>,
}

fn check_id(id: &str) -> Result<(), EntryError> {
    if id.len() > MAX_ENTRY_ID_BYTES {
        return Err(EntryError::IdTooLong);
    }
    if id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        Ok(())
    } else {
        Err(EntryError::IdCharacter(id.to_owned()))
    }
}

fn check_fields(fields: &Fields<'_>) -> Result<(), EntryError> {
    let first = fields.selectors.first().ok_or(EntryError::NoSelectors)?;
    let mut seen = BTreeSet::new();
    if let Some(repeated) = fields.selectors.iter().find(|s| !seen.insert(*s)) {
        return Err(EntryError::RepeatedSelector(repeated.clone()));
    }
    let mut seen = BTreeSet::new();
    if let Some(repeated) = fields.dns_names.iter().find(|n| !seen.insert(n.as_str())) {
        return Err(EntryError::RepeatedDnsName(repeated.clone()));
    }
    if fields.x509_svid_ttl < 0 {
        return Err(EntryError::NegativeX509SvidTtl);
    }
    if fields.jwt_svid_ttl < 0 {
        return Err(EntryError::NegativeJwtSvidTtl);
    }
    if fields.hint.chars().count() > MAX_HINT_CHARS {
        return Err(EntryError::HintTooLong);
    }
    if fields.store_svid {
        if fields.selectors.iter().any(|s| s.kind != first.kind) {
            return Err(EntryError::MixedStoreSelectors);
        }
        if fields.additional_attributes.is_some_and(|a| a.disable_x509_svid_prefetch) {
            return Err(EntryError::StoreWithoutPrefetch);
        }
    }
    Ok(())
}
