//! Registration entries between the wire and the issuer's types.

use std::fmt::Display;

use federation_specs::{
    convert, dns_name,
    id::{SpiffeId, TrustDomain},
    proto::types,
    selector::Selector,
};

use super::ids;
use crate::entry::{AdditionalAttributes, Entry, EntryError, EntryUpdate, MAX_HINT_CHARS, NewEntry};

/// Why an entry in a request cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct EntryConversionError(String);

fn error(context: &str, cause: impl Display) -> EntryConversionError {
    EntryConversionError(format!("{context}: {cause}"))
}

/// Every field of an entry.
pub(super) const EVERY_FIELD: types::EntryMask = types::EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Reads the fields named in `mask` (`None`: all).
pub(super) fn update_from_proto(
    entry: types::Entry,
    mask: Option<&types::EntryMask>,
    domain: &TrustDomain,
) -> Result<EntryUpdate, EntryConversionError> {
    let mask = mask.unwrap_or(&EVERY_FIELD);
    let parent_id = read(mask.parent_id, || {
        ids::member(entry.parent_id.as_ref(), domain).map_err(|cause| error("invalid parent ID", cause))
    })?;
    let spiffe_id = read(mask.spiffe_id, || {
        ids::workload(entry.spiffe_id.as_ref(), domain).map_err(|cause| error("invalid spiffe ID", cause))
    })?;
    let dns_names = read(mask.dns_names, || dns_names(entry.dns_names))?;
    let federates_with = read(mask.federates_with, || trust_domains(&entry.federates_with))?;
    let selectors = read(mask.selectors, || selectors(&entry.selectors))?;
    let hint = read(mask.hint, || hint(entry.hint))?;
    Ok(EntryUpdate {
        id: entry.id,
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl: mask.x509_svid_ttl.then_some(entry.x509_svid_ttl),
        jwt_svid_ttl: mask.jwt_svid_ttl.then_some(entry.jwt_svid_ttl),
        federates_with,
        admin: mask.admin.then_some(entry.admin),
        downstream: mask.downstream.then_some(entry.downstream),
        expires_at: mask.expires_at.then_some(entry.expires_at),
        dns_names,
        store_svid: mask.store_svid.then_some(entry.store_svid),
        hint,
        additional_attributes: mask.additional_attributes.then(|| entry.additional_attributes.map(attributes)),
    })
}

/// Reads an entry to create.
pub(super) fn new_from_proto(entry: types::Entry, domain: &TrustDomain) -> Result<NewEntry, EntryConversionError> {
    let missing = || EntryConversionError("entry is incomplete".into());
    let entry = update_from_proto(entry, None, domain)?;
    let (Some(spiffe_id), Some(parent_id)) = (entry.spiffe_id, entry.parent_id) else { return Err(missing()) };
    Ok(NewEntry {
        id: entry.id,
        spiffe_id,
        parent_id,
        selectors: entry.selectors.unwrap_or_default(),
        x509_svid_ttl: entry.x509_svid_ttl.unwrap_or_default(),
        jwt_svid_ttl: entry.jwt_svid_ttl.unwrap_or_default(),
        federates_with: entry.federates_with.unwrap_or_default(),
        admin: entry.admin.unwrap_or_default(),
        downstream: entry.downstream.unwrap_or_default(),
        expires_at: entry.expires_at.unwrap_or_default(),
        dns_names: entry.dns_names.unwrap_or_default(),
        store_svid: entry.store_svid.unwrap_or_default(),
        hint: entry.hint.unwrap_or_default(),
        additional_attributes: entry.additional_attributes.unwrap_or_default(),
    })
}

/// Writes the fields named in `mask` (`None`: all); the ID is always written.
pub(super) fn to_proto(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let mask = mask.unwrap_or(&EVERY_FIELD);
    let id = |wanted: bool, id: &SpiffeId| wanted.then(|| convert::spiffe_id_to_proto(id));
    types::Entry {
        id: entry.id.clone(),
        spiffe_id: id(mask.spiffe_id, &entry.spiffe_id),
        parent_id: id(mask.parent_id, &entry.parent_id),
        selectors: if mask.selectors { convert::selectors_to_proto(&entry.selectors) } else { Vec::new() },
        x509_svid_ttl: if mask.x509_svid_ttl { entry.x509_svid_ttl } else { 0 },
        federates_with: if mask.federates_with {
            entry.federates_with.iter().map(|domain| domain.as_str().to_owned()).collect()
        } else {
            Vec::new()
        },
        admin: mask.admin && entry.admin,
        downstream: mask.downstream && entry.downstream,
        expires_at: if mask.expires_at { entry.expires_at } else { 0 },
        dns_names: if mask.dns_names { entry.dns_names.clone() } else { Vec::new() },
        revision_number: if mask.revision_number { entry.revision_number } else { 0 },
        store_svid: mask.store_svid && entry.store_svid,
        jwt_svid_ttl: if mask.jwt_svid_ttl { entry.jwt_svid_ttl } else { 0 },
        hint: if mask.hint { entry.hint.clone() } else { String::new() },
        created_at: if mask.created_at { entry.created_at } else { 0 },
        additional_attributes: entry.additional_attributes.filter(|_| mask.additional_attributes).map(|attributes| {
            types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                jwt_svid_include_jti: attributes.jwt_svid_include_jti,
            }
        }),
    }
}

/// Trust domains of a request, named bare or as IDs.
pub(super) fn trust_domains(names: &[String]) -> Result<Vec<TrustDomain>, EntryConversionError> {
    let parse = |name: &String| {
        TrustDomain::from_name_or_id(name).map_err(|cause| error("invalid federated trust domain", cause))
    };
    names.iter().map(parse).collect()
}

/// What the wire calls a broken rule.
pub(super) fn rule_text(rule: &EntryError) -> String {
    let text = match rule {
        EntryError::IdTooLong => "entry ID too long",
        EntryError::IdCharacter(_) => "entry ID contains invalid characters",
        EntryError::MixedStoreSelectors => "selector types must be the same when store SVID is enabled",
        EntryError::StoreWithoutPrefetch => {
            return "datastore-validation: specifying cache behaviour is incompatible with storable SVIDs".into();
        }
        other => return other.to_string(),
    };
    format!("datastore-validation: invalid registration entry: {text}")
}

fn read<T, E>(wanted: bool, reader: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
    if wanted { reader().map(Some) } else { Ok(None) }
}

fn dns_names(names: Vec<String>) -> Result<Vec<String>, EntryConversionError> {
    for name in &names {
        dns_name::check(name).map_err(|cause| error("invalid DNS name", cause))?;
    }
    Ok(names)
}

fn selectors(selectors: &[types::Selector]) -> Result<Vec<Selector>, EntryConversionError> {
    if selectors.is_empty() {
        return Err(EntryConversionError("selector list is empty".into()));
    }
    convert::selectors_from_proto(selectors).map_err(|cause| EntryConversionError(cause.to_string()))
}

fn hint(hint: String) -> Result<String, EntryConversionError> {
    if hint.chars().count() > MAX_HINT_CHARS {
        return Err(EntryConversionError(format!("hint is too long, max length is {MAX_HINT_CHARS} characters")));
    }
    Ok(hint)
}

fn attributes(attributes: types::entry::AdditionalAttributes) -> AdditionalAttributes {
    AdditionalAttributes {
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("cloud.example").expect("domain")
    }

    fn id(path: &str) -> Option<types::Spiffeid> {
        Some(types::Spiffeid { trust_domain: "cloud.example".into(), path: path.into() })
    }

    fn entry() -> types::Entry {
        types::Entry {
            id: "e-1".into(),
            spiffe_id: id("/web"),
            parent_id: id("/spire/agent/x"),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
            federates_with: vec!["spiffe://onprem.example".into()],
            hint: "internal".into(),
            additional_attributes: Some(types::entry::AdditionalAttributes {
                jwt_svid_include_jti: true,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn an_update_reads_only_what_the_mask_names() {
        let incomplete = types::Entry { id: "e-1".into(), hint: "new".into(), ..Default::default() };
        let mask = types::EntryMask { hint: true, ..Default::default() };
        let update = update_from_proto(incomplete.clone(), Some(&mask), &domain()).expect("masked");
        assert_eq!(update, EntryUpdate { id: "e-1".into(), hint: Some("new".into()), ..EntryUpdate::default() });
        let error = update_from_proto(incomplete, None, &domain()).expect_err("everything");
        assert_eq!(error.to_string(), "invalid parent ID: request must specify SPIFFE ID");
    }

    #[test]
    fn a_new_entry_keeps_every_field() {
        let new = new_from_proto(entry(), &domain()).expect("entry");
        assert_eq!(new.federates_with, [TrustDomain::parse("onprem.example").expect("domain")]);
        assert_eq!(new.hint, "internal");
        assert!(new.additional_attributes.is_some_and(|attributes| attributes.jwt_svid_include_jti));
    }

    #[test]
    fn an_output_mask_hides_everything_but_the_id() {
        let new = new_from_proto(entry(), &domain()).expect("entry");
        let stored = Entry {
            id: new.id,
            spiffe_id: new.spiffe_id,
            parent_id: new.parent_id,
            selectors: new.selectors,
            x509_svid_ttl: 60,
            jwt_svid_ttl: 30,
            federates_with: new.federates_with,
            admin: true,
            downstream: true,
            expires_at: 5,
            dns_names: vec!["a.example".into()],
            store_svid: false,
            hint: new.hint,
            additional_attributes: new.additional_attributes,
            revision_number: 3,
            created_at: 4,
        };
        let hidden = to_proto(&stored, Some(&types::EntryMask::default()));
        assert_eq!(hidden, types::Entry { id: "e-1".into(), ..Default::default() });
        let shown = to_proto(&stored, None);
        assert_eq!(shown.federates_with, ["onprem.example"]);
        assert_eq!((shown.revision_number, shown.created_at, shown.x509_svid_ttl), (3, 4, 60));
    }

    #[test]
    fn the_hint_is_counted_in_characters() {
        let long = |length: usize| types::Entry { hint: "é".repeat(length), ..entry() };
        new_from_proto(long(MAX_HINT_CHARS), &domain()).expect("at the limit");
        let error = new_from_proto(long(MAX_HINT_CHARS + 1), &domain()).expect_err("over the limit");
        assert_eq!(error.to_string(), "hint is too long, max length is 1024 characters");
    }
}
