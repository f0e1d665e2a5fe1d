//! A relationship as it was written: the keys of the configuration that were given, in one form, so that writing the
//! same again is no change.

use std::collections::BTreeSet;

use federation_specs::id::TrustDomain;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::{
    config,
    served::rendered::digest_hex,
    settings::{ConfiguredRelationship, RelationshipRules, SettingsError, UnknownReceiver},
};

/// The set a relationship belongs to unless another one is named.
pub const DEFAULT_SET: &str = "default";

/// Longest name of a set.
pub const MAX_SET_BYTES: usize = 63;

/// Keys that hold whole documents; records and differences name these by their SHA-256.
const DOCUMENTS: [&str; 2] = ["ca_pem", "bootstrap_bundle"];

/// A relationship as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// The keys of the configuration that were given.
    pub definition: Map<String, Value>,
    /// The set it was applied with.
    pub set: Option<String>,
    /// Number of the audit record of its last change.
    pub version: i64,
    /// When that was.
    pub changed_at: OffsetDateTime,
}

/// A relationship somebody wants, checked.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As it will be kept.
    pub definition: Map<String, Value>,
    /// As it will run.
    pub checked: ConfiguredRelationship,
}

impl Wanted {
    /// Checks what was written.
    ///
    /// # Errors
    /// The first value that cannot be used. Files belong to the configuration: here the documents themselves are given.
    pub fn check(item: &config::Relationship, rules: &RelationshipRules) -> Result<Self, SettingsError> {
        let key = format!("relationship `{}`", item.trust_domain.chars().take(256).collect::<String>());
        let files = [
            ("ca_file", &item.ca_file, "ca_pem"),
            ("bootstrap_bundle_file", &item.bootstrap_bundle_file, "bootstrap_bundle"),
        ];
        for (name, file, instead) in files {
            if file.is_some() {
                let problem =
                    format!("names a file of the sender, which the gateway does not read; give its text in {instead}");
                return Err(SettingsError { key: format!("{key}.{name}"), problem });
            }
        }
        let checked = rules.check(&key, item, UnknownReceiver::Refused)?;
        let mut written = item.clone();
        written.trust_domain = checked.trust_domain.to_string();
        if !written.local_trust_domains.is_empty() {
            written.local_trust_domains = checked.local_trust_domains.iter().map(TrustDomain::to_string).collect();
        }
        for text in [&mut written.ca_pem, &mut written.bootstrap_bundle].into_iter().flatten() {
            *text = format!("{}\n", text.trim());
        }
        Ok(Self { definition: given(&written), checked })
    }
}

/// The keys that were given.
fn given(item: &config::Relationship) -> Map<String, Value> {
    let Ok(Value::Object(mut keys)) = serde_json::to_value(item) else { return Map::new() };
    keys.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
    keys
}

/// A stored definition as it was written.
///
/// # Errors
/// What cannot be read.
pub(crate) fn read(definition: &Map<String, Value>) -> Result<config::Relationship, String> {
    serde_json::from_value(Value::Object(definition.clone())).map_err(|error| error.to_string())
}

/// A definition for the audit log and for differences.
pub fn shown(definition: &Map<String, Value>, set: Option<&str>) -> Map<String, Value> {
    let mut shown = definition.clone();
    for name in DOCUMENTS {
        if let Some(Value::String(text)) = shown.get_mut(name) {
            *text = format!("sha256:{}", digest_hex(text.as_bytes()));
        }
    }
    if let Some(set) = set {
        shown.insert("set".to_owned(), set.into());
    }
    shown
}

/// The keys that differ, with both values.
pub(super) fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<(String, Value, Value)> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |keys: &Map<String, Value>, name: &str| keys.get(name).cloned().unwrap_or_default();
    let both = names.into_iter().map(|name| (name.clone(), value(before, name), value(after, name)));
    both.filter(|(_, before, after)| before != after).collect()
}
