//! How a value would be written that fits its place: what a hint proposes has to pass the next check.
//!
//! The shortest form of a mapping that says enough is the first of its schema's `examples`.

use serde_json::{Map, Value, json};

use super::structure::schemas_at;

/// The shortest value that says enough for a place; nothing if the schema knows none.
pub(super) fn example(root: &Value, place: &str) -> Option<Value> {
    let first = |it: &Value| it.get("examples")?.as_array()?.first().cloned();
    schemas_at(root, place).into_iter().find_map(first)
}

/// The example of a place with what was written in it: `/health` for `health` becomes `{ http: /health }`, and a word
/// that is a key becomes that key with its own shortest value. The example as it is, if that can't be.
pub(super) fn with(root: &Value, place: &str, written: &Value) -> Option<Value> {
    let word = written.as_str().and_then(|word| {
        let below = format!("{place}/{word}");
        let plain = !word.is_empty() && word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
        let mapping = plain && schemas_at(root, &below).iter().any(|it| it["type"] == "object");
        let known = schemas_at(root, place).iter().any(|it| it.pointer(&format!("/properties/{word}")).is_some());
        (mapping && known).then(|| json!({ word: example(root, &below).unwrap_or_else(|| json!({})) }))
    });
    word.or_else(|| {
        let example = example(root, place)?;
        Some(filled(root, place, &example, written).unwrap_or(example))
    })
}

/// The example with what was written at its only leaf, if it can stand there.
fn filled(root: &Value, place: &str, example: &Value, written: &Value) -> Option<Value> {
    match example {
        Value::Object(map) if map.len() == 1 => {
            let (key, inner) = map.iter().next()?;
            let inner = filled(root, &format!("{place}/{key}"), inner, written)?;
            Some(Value::Object(Map::from_iter([(key.clone(), inner)])))
        }
        Value::Array(list) => Some(json!([filled(root, &format!("{place}/0"), list.first()?, written)?])),
        Value::String(leaf) => {
            let text = match written {
                Value::String(text) => in_form_of(leaf, text)?,
                Value::Number(number) => in_form_of(leaf, &number.to_string())?,
                _ => return None,
            };
            fits(root, place, &json!(text)).then(|| json!(text))
        }
        _ => None,
    }
}

/// A text in the form that an example has: a path, an address with a port, or a word.
fn in_form_of(example: &str, text: &str) -> Option<String> {
    let port = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
    match example.rsplit_once(':').filter(|it| port(it.1)) {
        Some((host, _)) if port(text) => Some(format!("{host}:{text}")),
        Some(_) => {
            let authority = text.split_once("://").map_or(text, |it| it.1).split('/').next()?;
            authority.rsplit_once(':').filter(|it| port(it.1)).map(|_| authority.to_owned())
        }
        None if example.starts_with('/') => text.starts_with('/').then(|| text.to_owned()),
        None => (!text.contains("://") && !text.contains(char::is_whitespace)).then(|| text.to_owned()),
    }
}

/// Whether the schema of a place takes this scalar.
pub(super) fn fits(root: &Value, place: &str, scalar: &Value) -> bool {
    let made_of_others = ["anyOf", "oneOf", "allOf", "$ref", "items", "properties"];
    let own = |it: &&Value| made_of_others.iter().all(|key| it.get(key).is_none());
    let says = |it: &&Value| ["type", "enum", "const"].iter().any(|key| it.get(key).is_some());
    schemas_at(root, place).into_iter().filter(own).filter(says).any(|it| jsonschema::is_valid(it, scalar))
}

/// As it is written on one line.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, it)| format!("{key}: {}", flow(it))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text as YAML would have it inside of brackets.
pub(super) fn scalar(text: &str) -> String {
    let plain = |it: char| it.is_alphanumeric() || "-_./".contains(it);
    let quoted = text.starts_with('-') || text.parse::<f64>().is_ok() || !text.chars().all(plain);
    if quoted { format!("{text:?}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "$defs": {
                "health": {
                    "type": "object", "examples": [{ "http": "/health" }],
                    "properties": { "http": { "type": "string" } },
                },
                "jwt": { "type": "object" },
            },
            "properties": {
                "health": { "anyOf": [{ "$ref": "#/$defs/health" }, { "type": "null" }] },
                "address": { "type": "string", "examples": ["0.0.0.0:8080"] },
                "auth": {
                    "type": "object", "examples": [{ "jwt": {} }],
                    "properties": { "jwt": { "$ref": "#/$defs/jwt" }, "roles": { "type": "array" } },
                },
            },
        })
    }

    #[track_caller]
    fn check(place: &str, written: Value, expected: &str) {
        assert_eq!(with(&schema(), place, &written).map(|it| flow(&it)).as_deref(), Some(expected));
    }

    #[test]
    fn what_was_written_stands_in_the_shortest_form_where_it_can() {
        check("/health", json!("/ready"), "{ http: /ready }");
        check("/health", json!("ready"), "{ http: /health }");
        check("/health", json!(true), "{ http: /health }");
        check("/address", json!(8082), "\"0.0.0.0:8082\"");
        check("/address", json!("http://a.b:80/c"), "\"a.b:80\"");
        check("/auth", json!("jwt"), "{ jwt: {} }");
        check("/auth", json!("roles"), "{ jwt: {} }");
        assert_eq!(with(&schema(), "/nothing", &json!(1)), None);
    }
}
