//! JSON in which no name is there twice. Two readers may take the first or the last of two members
//! (RFC 8259, section 4); a token that means two things means nothing.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::token_error::TokenError;

/// Reads an object, at any depth without a name twice.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, TokenError> {
    let twice = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Unique { twice: &twice }.deserialize(&mut reader);
    match read {
        Ok(Value::Object(members)) if reader.end().is_ok() => Ok(members),
        Err(_) if twice.get() => Err(TokenError::Duplicate),
        _ => Err(TokenError::NotJson),
    }
}

#[derive(Clone, Copy)]
struct Unique<'a> {
    /// Whether that is why reading stopped: the error itself is only text.
    twice: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if members.insert(name, value).is_some() {
                self.twice.set(true);
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_twice_is_seen_at_any_depth_and_in_any_spelling() {
        assert_eq!(object(br#"{"a":1,"b":{"a":[1.5,null,true,-2]}}"#).unwrap()["b"]["a"][0], 1.5);
        for twice in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"a":2}]}"#, r#"{"exp":1,"\u0065xp":2}"#] {
            assert_eq!(object(twice.as_bytes()), Err(TokenError::Duplicate), "{twice}");
        }
        for other in ["", "[]", "1", "{} {}", "{\"a\":}", "{\"a\":1}x", "\u{feff}{}", &"{\"a\":".repeat(500)] {
            assert_eq!(object(other.as_bytes()), Err(TokenError::NotJson), "{other}");
        }
    }
}
