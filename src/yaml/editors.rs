//! The JSON Schema as editors need it: they see a file before its variables are filled in, so wherever something else
//! than a text is due, `"${NAME}"` will do as well.

use serde_json::{Map, Value, json};

/// The definition of what stands for a scalar.
const NAME: &str = "FromEnvironment";
/// What says something about a value without checking it; it stays where it was.
const ANNOTATIONS: [&str; 4] = ["description", "default", "title", "deprecated"];

/// A schema that also lets texts with variables in them stand for numbers, words, durations and sizes. Never for lists
/// and mappings: a variable can't change the shape of a file.
pub fn schema_for_editors(mut schema: Value) -> Value {
    widen(&mut schema);
    schema["$defs"][NAME] = json!({
        "description": "A value that the environment brings in: \"${NAME}\" or \"${NAME:-default}\".",
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    });
    schema
}

fn widen(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if is_narrow_scalar(map) {
        let checks: Map<String, Value> = map
            .iter()
            .filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect();
        map.retain(|name, _| ANNOTATIONS.contains(&name.as_str()));
        map.insert("anyOf".to_owned(), json!([checks, { "$ref": format!("#/$defs/{NAME}") }]));
        return;
    }
    for under in ["properties", "$defs"] {
        map.get_mut(under).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut).for_each(widen);
    }
    for under in ["anyOf", "oneOf", "allOf"] {
        map.get_mut(under).and_then(Value::as_array_mut).into_iter().flatten().for_each(widen);
    }
    ["items", "additionalProperties", "then"].iter().for_each(|it| map.get_mut(*it).into_iter().for_each(widen));
}

/// Whether only some scalars will do, and not every text.
fn is_narrow_scalar(map: &Map<String, Value>) -> bool {
    let branches = map.get("oneOf").and_then(Value::as_array);
    if let Some(branches) = branches {
        // Several words, each with a description: they are one choice, of which exactly one must fit.
        return branches.iter().all(|it| it.as_object().is_some_and(is_narrow_scalar));
    }
    let kinds: Vec<&str> = match map.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let narrow =
        ["enum", "const", "pattern", "minLength", "maxLength", "format"].iter().any(|it| map.contains_key(*it));
    let scalar = |it: &&str| ["string", "integer", "number", "boolean", "null"].contains(it);
    let only_scalars = !kinds.is_empty() && kinds.iter().all(scalar) && kinds != ["null"];
    (only_scalars && (narrow || !kinds.contains(&"string")))
        || (kinds.is_empty() && (map.contains_key("enum") || map.contains_key("const")))
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::base::{ByteSize, Period};
    use crate::yaml::schema_of;

    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct File {
        number: Option<u16>,
        on: bool,
        life: Period,
        size: ByteSize,
        word: Word,
        either: Either,
        text: String,
        list: Vec<u8>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code)]
    enum Word {
        /// The first.
        One,
        /// The second.
        Two,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Either {
        Number(u8),
        Word(Word),
    }

    #[track_caller]
    fn check(name: &str, value: Value, expected: bool) {
        let mut file = json!({
            "number": 1, "on": true, "life": "1s", "size": 1, "word": "one", "either": 1, "text": "a", "list": [1],
        });
        file[name] = value;
        let schema = schema_for_editors(schema_of::<File>());
        assert_eq!(jsonschema::is_valid(&schema, &file), expected, "{name}: {}", file[name]);
    }

    #[test]
    fn a_variable_may_stand_for_every_scalar_and_nothing_else_becomes_sound() {
        for name in ["number", "on", "life", "size", "word", "either"] {
            check(name, json!("${NAME}"), true);
            check(name, json!("${NAME:-2}s"), true);
            check(name, json!("nonsense"), false);
        }
        check("text", json!("${NAME}"), true);
        check("list", json!(["${NAME:-1}"]), true);
        check("list", json!("${NAME}"), false);
        check("word", json!("two"), true);
        check("number", json!(null), true);
        check("number", json!(70_000), false);
    }
}
