//! Finds keys a schema does not know, and the known key each resembles most.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ConfigError;

/// Deepest nesting followed, in the configuration and through schema references alike.
const MAX_DEPTH: usize = 64;

/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be suggested for the other. A single slip of the
/// fingers is enough for short names, which that measure is hard on.
const MIN_SIMILARITY: f64 = 0.8;

/// Refuses the first key of `value` that `schema` does not know.
///
/// # Errors
/// [`ConfigError::UnknownKey`].
pub(super) fn check(value: &Value, schema: &Value, origin: &str) -> Result<(), ConfigError> {
    Walk { root: schema, origin }.value(value, &[schema], "", 0)
}

/// Whether the setting at `keys` is a text and nothing else, so that `123` or `true` is meant literally.
pub(super) fn is_text(schema: &Value, keys: &[String]) -> bool {
    let walk = Walk { root: schema, origin: "" };
    let mut variants = Vec::new();
    walk.flatten(schema, &mut variants, 0);
    for key in keys {
        let members: Vec<&Value> = variants.iter().filter_map(|object| member(object, key)).collect();
        variants.clear();
        for member in members {
            walk.flatten(member, &mut variants, 0);
        }
    }
    let any = |name| variants.iter().any(|variant| has_type(variant, name));
    any("string") && !["integer", "number", "boolean", "array", "object"].into_iter().any(any)
}

struct Walk<'a> {
    root: &'a Value,
    origin: &'a str,
}

impl<'a> Walk<'a> {
    fn value(&self, value: &Value, schemas: &[&'a Value], path: &str, depth: usize) -> Result<(), ConfigError> {
        if depth > MAX_DEPTH {
            let reason = format!("nested more than {MAX_DEPTH} deep");
            return Err(ConfigError::Value { origin: self.origin.into(), key: path.into(), reason });
        }
        let mut variants = Vec::new();
        for schema in schemas {
            self.flatten(schema, &mut variants, 0);
        }
        match value {
            Value::Object(map) => {
                let objects: Vec<&Value> = variants
                    .iter()
                    .copied()
                    .filter(|v| v.get("properties").is_some() || has_type(v, "object"))
                    .collect();
                if objects.is_empty() {
                    return Ok(()); // a mapping where none belongs: the types say so better
                }
                for (key, inner) in map {
                    let inner_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let known: Vec<&Value> = objects.iter().filter_map(|object| member(object, key)).collect();
                    if known.is_empty() {
                        if objects.iter().any(|object| is_open(object)) {
                            continue;
                        }
                        return Err(self.unknown(key, inner_path, &objects));
                    }
                    self.value(inner, &known, &inner_path, depth + 1)?;
                }
                Ok(())
            }
            Value::Array(items) => {
                let schemas: Vec<&Value> = variants.iter().filter_map(|variant| variant.get("items")).collect();
                for (index, item) in items.iter().enumerate() {
                    self.value(item, &schemas, &format!("{path}[{index}]"), depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Resolves references and opens `anyOf`, `oneOf` and `allOf`; every schema found is one more way to be right.
    fn flatten(&self, schema: &'a Value, into: &mut Vec<&'a Value>, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        into.push(schema);
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str)
            && let Some(target) = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
        {
            self.flatten(target, into, depth + 1);
        }
        for word in ["anyOf", "oneOf", "allOf"] {
            for variant in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
                self.flatten(variant, into, depth + 1);
            }
        }
    }

    fn unknown(&self, key: &str, path: String, objects: &[&Value]) -> ConfigError {
        let known: BTreeSet<&String> = objects
            .iter()
            .filter_map(|object| object.get("properties")?.as_object())
            .flat_map(serde_json::Map::keys)
            .collect();
        let lower = key.to_ascii_lowercase();
        let nearest = known
            .into_iter()
            .map(|name| (strsim::jaro_winkler(&lower, name), name))
            .filter(|(similarity, name)| {
                *similarity >= MIN_SIMILARITY || (name.len() > 2 && strsim::osa_distance(&lower, name) <= 1)
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, name)| name.clone());
        ConfigError::UnknownKey { origin: self.origin.into(), key: path, nearest }
    }
}

fn has_type(schema: &Value, wanted: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == wanted,
        Some(Value::Array(names)) => names.iter().any(|name| name == wanted),
        _ => false,
    }
}

/// The schema of one member: a property, or the schema of a map's values.
fn member<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let property = object.get("properties").and_then(|properties| properties.get(key));
    property.or_else(|| object.get("additionalProperties").filter(|additional| additional.is_object()))
}

/// Whether an object takes any key at all: it names no properties and does not forbid others.
fn is_open(object: &Value) -> bool {
    match object.get("additionalProperties") {
        Some(Value::Bool(open)) => *open,
        Some(_) => true,
        None => object.get("properties").is_none(),
    }
}
