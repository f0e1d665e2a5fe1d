//! JSON read strictly: duplicate member names are refused at every level and
//! the nesting is bounded. Two readers of the same document must never see
//! different values, which duplicate names allow (RFC 8259 section 4).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one JSON document whose arrays and objects nest at most `max_depth`.
pub(crate) fn from_slice(bytes: &[u8], max_depth: usize) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Level { left: max_depth }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads one JSON object.
pub(crate) fn object_from_slice(bytes: &[u8], max_depth: usize) -> Result<Map<String, Value>, serde_json::Error> {
    match from_slice(bytes, max_depth)? {
        Value::Object(members) => Ok(members),
        _ => Err(serde_json::Error::custom("expected a JSON object")),
    }
}

#[derive(Clone, Copy)]
struct Level {
    left: usize,
}

impl Level {
    fn below<E: Error>(self) -> Result<Self, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Self { left }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("member name {name:?} appears twice")));
            }
            let value = members.next_value_seed(below)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_documents_read_as_usual() {
        let text = br#"{"b":[1,-2,2.5,null,true,"x"],"a":{"c":{}}}"#;
        assert_eq!(from_slice(text, 4).unwrap(), serde_json::from_slice::<Value>(text).unwrap());
    }

    #[test]
    fn duplicate_names_are_refused_at_any_level() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":{"a":1,"b":2,"a":3}}"#, r#"[{"k":[{"a":1,"\u0061":2}]}]"#] {
            let message = from_slice(text.as_bytes(), 8).unwrap_err().to_string();
            assert!(message.contains("member name \"a\" appears twice"), "{message}");
        }
        assert!(from_slice(br#"[{"a":1},{"a":1}]"#, 8).is_ok());
    }

    #[test]
    fn depth_and_trailing_text_are_bounded() {
        assert!(from_slice(b"[[1]]", 2).is_ok());
        assert!(from_slice(b"[[[1]]]", 2).unwrap_err().to_string().contains("nested too deeply"));
        assert!(from_slice(b"{} {}", 2).is_err());
        assert!(object_from_slice(b"[]", 2).is_err());
    }
}
