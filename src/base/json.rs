//! JSON in which no name is there twice. Two readers may take the first or the last of two members
//! (RFC 8259, section 4); what means two things can't be checked for one of them.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not JSON with one meaning, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// It is JSON so far, but a member is there twice.
    pub twice: bool,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1.
    pub column: usize,
}

/// Reads JSON, at any depth (128 at most) without a name twice.
///
/// # Errors
/// When it is not JSON, or not with one meaning.
pub fn unique_json(text: &[u8]) -> Result<Value, JsonFault> {
    let twice = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Unique { twice: &twice }.deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| JsonFault { twice: twice.get(), line: error.line(), column: error.column() })
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
        let twice = |text: &str| unique_json(text.as_bytes()).map_err(|it| it.twice);
        assert_eq!(twice(r#"{"a":1,"b":{"a":[1.5,null,true,-2]}}"#).unwrap()["b"]["a"][0], 1.5);
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"a":2}]}"#, r#"{"exp":1,"\u0065xp":2}"#] {
            assert_eq!(twice(text), Err(true), "{text}");
        }
        for other in ["", "{} {}", "{\"a\":}", "{\"a\":1}x", "\u{feff}{}", &"{\"a\":".repeat(500)] {
            assert_eq!(twice(other), Err(false), "{other}");
        }
        let fault = unique_json(b"{\n\"a\": 1, \"a\": 2}").unwrap_err();
        assert_eq!((fault.twice, fault.line), (true, 2));
    }
}
