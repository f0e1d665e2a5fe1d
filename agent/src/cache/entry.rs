//! Registration entries as the agent needs them.

use federation_specs::{
    convert,
    id::{SpiffeId, TrustDomain},
    proto::types,
};

use crate::workload::SelectorSet;

/// Selectors accepted in one entry.
pub const MAX_SELECTORS_PER_ENTRY: usize = 1024;

/// Trust domains one entry may federate with.
pub const MAX_FEDERATES_WITH: usize = 10_000;

/// Why an entry from the issuer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// No ID.
    #[error("the entry has no ID")]
    NoId,
    /// The SPIFFE ID is missing or malformed.
    #[error("entry {id} has no valid SPIFFE ID: {reason}")]
    SpiffeId {
        /// Entry ID.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// The SPIFFE ID is not one of this trust domain.
    #[error("entry {id} is for {spiffe_id}, which is no member of trust domain {trust_domain}")]
    OtherTrustDomain {
        /// Entry ID.
        id: String,
        /// The entry's SPIFFE ID.
        spiffe_id: SpiffeId,
        /// The agent's trust domain.
        trust_domain: TrustDomain,
    },
    /// A selector is malformed.
    #[error("entry {id} has a selector that is not valid: {reason}")]
    Selector {
        /// Entry ID.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Without selectors an entry would match every process.
    #[error("entry {0} has no selectors")]
    NoSelectors(String),
    /// A list is longer than its bound.
    #[error("entry {id} has more than {limit} {what}")]
    TooMany {
        /// Entry ID.
        id: String,
        /// Which list.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
}

/// One registration entry this agent may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Entry ID, unique at the issuer. Identities are ordered by it.
    pub id: String,
    /// Identity the entry gives.
    pub spiffe_id: SpiffeId,
    /// Selectors a workload must have, all of them. Never empty.
    pub selectors: SelectorSet,
    /// Other trust domains whose bundles the workload gets, sorted, without the agent's own.
    pub federates_with: Vec<TrustDomain>,
    /// Grows with every update of the entry.
    pub revision_number: i64,
    /// Creation time in Unix seconds.
    pub created_at: i64,
    /// Hint for workloads with several identities; empty for none.
    pub hint: String,
    /// The entry is for an SVID store and never served to workloads.
    pub store_svid: bool,
    /// The X509-SVID is signed before somebody asks for it.
    pub prefetch: bool,
    /// Every JWT-SVID gets an ID of its own, so none is served from the cache.
    pub jwt_svid_include_jti: bool,
}

impl Entry {
    /// The entry as the issuer sent it, checked.
    ///
    /// A `federates_with` name that is no trust domain is left out with a warning: it costs that bundle, not the
    /// identity.
    ///
    /// # Errors
    /// [`EntryError`] naming the entry and the fault.
    pub fn from_proto(entry: types::Entry, trust_domain: &TrustDomain) -> Result<Self, EntryError> {
        let id = entry.id;
        if id.is_empty() {
            return Err(EntryError::NoId);
        }
        let spiffe_id = convert::spiffe_id_from_proto(entry.spiffe_id.as_ref())
            .map_err(|error| EntryError::SpiffeId { id: id.clone(), reason: error.to_string() })?;
        if !spiffe_id.is_member_of(trust_domain) {
            return Err(EntryError::OtherTrustDomain { id, spiffe_id, trust_domain: trust_domain.clone() });
        }
        if entry.selectors.is_empty() {
            return Err(EntryError::NoSelectors(id));
        }
        if entry.selectors.len() > MAX_SELECTORS_PER_ENTRY {
            return Err(EntryError::TooMany { id, what: "selectors", limit: MAX_SELECTORS_PER_ENTRY });
        }
        if entry.federates_with.len() > MAX_FEDERATES_WITH {
            return Err(EntryError::TooMany { id, what: "federated trust domains", limit: MAX_FEDERATES_WITH });
        }
        let selectors = entry
            .selectors
            .iter()
            .map(convert::selector_from_proto)
            .collect::<Result<SelectorSet, _>>()
            .map_err(|error| EntryError::Selector { id: id.clone(), reason: error.to_string() })?;
        let mut federates_with: Vec<TrustDomain> = entry
            .federates_with
            .iter()
            .filter_map(|name| match TrustDomain::from_name_or_id(name) {
                Ok(other) => (other != *trust_domain).then_some(other),
                Err(error) => {
                    tracing::warn!(entry = %id, name, %error, "entry federates with a name that is no trust domain");
                    None
                }
            })
            .collect();
        federates_with.sort();
        federates_with.dedup();
        let attributes = entry.additional_attributes.unwrap_or_default();
        Ok(Self {
            id,
            spiffe_id,
            selectors,
            federates_with,
            revision_number: entry.revision_number,
            created_at: entry.created_at,
            hint: entry.hint,
            store_svid: entry.store_svid,
            prefetch: !attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        })
    }

    /// Whether the entry is served on the Workload API.
    pub fn is_served(&self) -> bool {
        !self.store_svid
    }
}

/// The fields the agent asks the issuer for (SPIRE 1.15).
pub fn mask() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
        ..Default::default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use federation_specs::selector::Selector;

    use super::*;

    /// An entry for `spiffe://cloud.example/<path>` with selectors given as `type:value`.
    pub(crate) fn entry(id: &str, path: &str, selectors: &[&str]) -> Entry {
        Entry {
            id: id.into(),
            spiffe_id: SpiffeId::parse(&format!("spiffe://cloud.example/{path}")).unwrap(),
            selectors: selectors.iter().map(|text| Selector::parse(text).unwrap()).collect(),
            federates_with: vec![],
            revision_number: 0,
            created_at: 1_000,
            hint: String::new(),
            store_svid: false,
            prefetch: true,
            jwt_svid_include_jti: false,
        }
    }

    fn proto() -> types::Entry {
        types::Entry {
            id: "e1".into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "cloud.example".into(), path: "/web".into() }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            federates_with: vec![
                "b.example".into(),
                "spiffe://a.example".into(),
                "cloud.example".into(),
                "Bad TD".into(),
            ],
            revision_number: 3,
            created_at: 7,
            hint: "main".into(),
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: true,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn converts_every_field() {
        let trust_domain = TrustDomain::parse("cloud.example").unwrap();
        let entry = Entry::from_proto(proto(), &trust_domain).unwrap();
        assert_eq!(entry.spiffe_id.to_string(), "spiffe://cloud.example/web");
        assert_eq!(
            entry.federates_with.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a.example", "b.example"]
        );
        assert_eq!((entry.revision_number, entry.created_at, entry.hint.as_str()), (3, 7, "main"));
        assert!(!entry.prefetch && entry.jwt_svid_include_jti && entry.is_served());
    }

    #[test]
    fn refuses_what_could_not_be_served_safely() {
        let trust_domain = TrustDomain::parse("cloud.example").unwrap();
        let refused = |change: fn(&mut types::Entry)| {
            let mut entry = proto();
            change(&mut entry);
            Entry::from_proto(entry, &trust_domain).unwrap_err()
        };
        assert_eq!(refused(|entry| entry.id.clear()), EntryError::NoId);
        assert_eq!(refused(|entry| entry.selectors.clear()), EntryError::NoSelectors("e1".into()));
        assert!(matches!(refused(|entry| entry.spiffe_id = None), EntryError::SpiffeId { .. }));
        assert!(matches!(refused(|entry| entry.selectors[0].r#type.clear()), EntryError::Selector { .. }));
        let other = refused(|entry| {
            entry.spiffe_id = Some(types::Spiffeid { trust_domain: "other.example".into(), path: "/x".into() });
        });
        assert_eq!(
            other.to_string(),
            "entry e1 is for spiffe://other.example/x, which is no member of trust domain cloud.example"
        );
        let many = refused(|entry| entry.selectors = vec![entry.selectors[0].clone(); MAX_SELECTORS_PER_ENTRY + 1]);
        assert_eq!(many.to_string(), "entry e1 has more than 1024 selectors");
    }
}
