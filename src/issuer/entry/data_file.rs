//! The JSON files `entry create -data`, `entry update -data` and `entry delete -file` read.
//!
//! Unlike SPIRE's commands, a key nobody knows is refused: there, a misspelt `entryExpiry` gives an entry that
//! never expires.

use federation_specs::proto::types::{Entry, entry::AdditionalAttributes};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::identifiers;
use crate::input;

const ENTRY_KEYS: &[&str] = &[
    "entry_id",
    "parent_id",
    "spiffe_id",
    "selectors",
    "x509_svid_ttl",
    "jwt_svid_ttl",
    "federates_with",
    "admin",
    "downstream",
    "store_svid",
    "entryExpiry",
    "dns_names",
    "hint",
    "additional_attributes",
];
const SELECTOR_KEYS: &[&str] = &["type", "value"];
const ATTRIBUTE_KEYS: &[&str] = &["disable_x509_svid_prefetch", "jwt_svid_include_jti"];

#[derive(Debug, Deserialize)]
struct EntryData {
    #[serde(default)]
    entry_id: String,
    #[serde(default)]
    parent_id: String,
    #[serde(default)]
    spiffe_id: String,
    #[serde(default)]
    selectors: Vec<SelectorData>,
    #[serde(default)]
    x509_svid_ttl: i32,
    #[serde(default)]
    jwt_svid_ttl: i32,
    #[serde(default)]
    federates_with: Vec<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default)]
    store_svid: bool,
    #[serde(default, rename = "entryExpiry")]
    entry_expiry: i64,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    hint: String,
    additional_attributes: Option<AttributeData>,
}

#[derive(Debug, Deserialize)]
struct SelectorData {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
struct AttributeData {
    #[serde(default)]
    disable_x509_svid_prefetch: bool,
    #[serde(default)]
    jwt_svid_include_jti: bool,
}

/// The entries of a file, or of standard input with `-`.
pub(super) fn entries(path: &str) -> Result<Vec<Entry>, Failure> {
    parse_entries(&input::read(path)?)
}

/// The entry IDs of a file, or of standard input with `-`.
pub(super) fn ids(path: &str) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Ids {
        #[serde(default)]
        ids: Vec<String>,
    }
    let value = input::json(&input::read(path)?)?;
    input::known_keys(&value, "the file", &["ids"])?;
    let ids: Ids = serde_json::from_value(value).map_err(|error| Failure::new(error.to_string()))?;
    Ok(ids.ids)
}

fn parse_entries(text: &str) -> Result<Vec<Entry>, Failure> {
    let value = input::json(text)?;
    input::known_keys(&value, "the file", &["entries"])?;
    let items = match value.get("entries") {
        None | Some(Value::Null) => &Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(Failure::new("\"entries\" must be a list")),
    };
    items.iter().enumerate().map(|(index, item)| entry(index, item)).collect()
}

fn entry(index: usize, item: &Value) -> Result<Entry, Failure> {
    let place = format!("entries[{index}]");
    input::known_keys(item, &place, ENTRY_KEYS)?;
    for (number, selector) in item.get("selectors").and_then(Value::as_array).into_iter().flatten().enumerate() {
        input::known_keys(selector, &format!("{place}.selectors[{number}]"), SELECTOR_KEYS)?;
    }
    if let Some(attributes) = item.get("additional_attributes").filter(|value| !value.is_null()) {
        input::known_keys(attributes, &format!("{place}.additional_attributes"), ATTRIBUTE_KEYS)?;
    }
    let data = EntryData::deserialize(item).map_err(|error| Failure::new(format!("{place}: {error}")))?;
    let id = |name: &str, text: &str| {
        identifiers::spiffe_id(text).map_err(|failure| failure.context(&format!("{place}.{name}")))
    };
    Ok(Entry {
        parent_id: Some(id("parent_id", &data.parent_id)?),
        spiffe_id: Some(id("spiffe_id", &data.spiffe_id)?),
        id: data.entry_id,
        selectors: data
            .selectors
            .into_iter()
            .map(|selector| federation_specs::proto::types::Selector { r#type: selector.r#type, value: selector.value })
            .collect(),
        x509_svid_ttl: data.x509_svid_ttl,
        jwt_svid_ttl: data.jwt_svid_ttl,
        federates_with: data.federates_with,
        admin: data.admin,
        downstream: data.downstream,
        store_svid: data.store_svid,
        expires_at: data.entry_expiry,
        dns_names: data.dns_names,
        hint: data.hint,
        additional_attributes: data.additional_attributes.map(|attributes| AdditionalAttributes {
            disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        }),
        ..Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse_entries(text).unwrap_err().text().to_owned()
    }

    #[test]
    fn every_field_is_read() {
        let text = include_str!("../../testdata/cli/entry-data1.json");
        let entries = parse_entries(text).unwrap();
        assert_eq!(entries.len(), 2);
        let first = &entries[0];
        assert_eq!((first.id.as_str(), first.x509_svid_ttl, first.jwt_svid_ttl), ("data-1", 300, 60));
        assert_eq!(first.expires_at, 1_900_000_000);
        assert!(first.admin && first.additional_attributes.unwrap().disable_x509_svid_prefetch);
        assert_eq!(first.dns_names, ["a.cloud.example"]);
        assert!(entries[1].selectors.is_empty());
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_known_one() {
        let item =
            r#""parent_id":"spiffe://a/p","spiffe_id":"spiffe://a/b","selectors":[{"type":"unix","value":"uid:1"}]"#;
        assert_eq!(
            refusal(&format!(r#"{{"entries":[{{{item},"entry_expiry":1900000000}}]}}"#)),
            r#"unknown key "entry_expiry" in entries[0]; did you mean "entryExpiry"?"#
        );
        assert_eq!(
            refusal(
                r#"{"entries":[{"parent_id":"spiffe://a/p","spiffe_id":"spiffe://a/b","selectors":[{"typ":"unix"}]}]}"#
            ),
            r#"unknown key "typ" in entries[0].selectors[0]; did you mean "type"?"#
        );
        assert!(refusal(r#"{"entires":[]}"#).contains(r#"did you mean "entries"?"#));
        assert!(parse_entries(&format!(r#"{{"entries":[{{{item}}}]}}"#)).is_ok());
    }

    #[test]
    fn wrong_shapes_are_refused_with_their_place() {
        assert!(refusal("not json").starts_with("the data is not JSON"));
        assert_eq!(refusal(r#"{"entries":{}}"#), "\"entries\" must be a list");
        assert!(
            refusal(r#"{"entries":[{"parent_id":"a","spiffe_id":"spiffe://a/b"}]}"#)
                .starts_with("entries[0].parent_id: ")
        );
        assert!(refusal(r#"{"entries":[{"x509_svid_ttl":"1h"}]}"#).starts_with("entries[0]: "));
        assert!(parse_entries("{}").unwrap().is_empty());
    }
}
