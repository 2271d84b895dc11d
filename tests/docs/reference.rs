//! A page's reference part, from the JSON Schema of a configuration file: a section for every kind of
//! mapping, in the order in which a reader meets them, with a row for every key.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The sections for a file.
pub(crate) fn of(file: &str, schema: &Value) -> String {
    let mut book = Book { definitions: &schema["$defs"], waiting: Vec::new(), told: Vec::new() };
    let mut out = String::new();
    book.section(&mut out, &format!("`{file}`"), schema);
    let mut at = 0;
    while let Some(name) = book.waiting.get(at).cloned() {
        book.section(&mut out, &title(&name), &schema["$defs"][&name]);
        at += 1;
    }
    out.truncate(out.trim_end().len() + 1);
    out
}

/// The anchor that GitHub gives a heading.
pub(crate) fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

struct Book<'a> {
    definitions: &'a Value,
    /// Names of definitions, in the order in which they were met.
    waiting: Vec<String>,
    told: Vec<String>,
}

impl Book<'_> {
    fn section(&mut self, out: &mut String, title: &str, schema: &Value) {
        assert!(!self.told.contains(&title.to_owned()), "two sections are called {title}");
        self.told.push(title.to_owned());
        writeln!(out, "### {title}\n").unwrap();
        if let Some(text) = schema["description"].as_str() {
            writeln!(out, "{text}\n").unwrap();
        }
        if let Some(properties) = schema["properties"].as_object() {
            if properties.is_empty() {
                return; // its keys are somebody else's
            }
            self.keys(out, properties, &schema["required"]);
            self.services(out, schema);
        } else {
            self.choices(out, schema);
        }
    }

    fn keys(&mut self, out: &mut String, properties: &Map<String, Value>, required: &Value) {
        out.push_str("| Key | Is | |\n| --- | --- | --- |\n");
        let required = |name: &str| required.as_array().is_some_and(|it| it.iter().any(|it| it == name));
        for (name, property) in properties {
            let mut text = one_line(property["description"].as_str().unwrap_or_default());
            if required(name) {
                text += " **Required.**";
            } else if let Some(default) = shown(&property["default"])
                && !text.contains("Default")
            {
                write!(text, " Default {default}.").unwrap();
            }
            writeln!(out, "| `{name}` | {} | {} |", self.kind(property), text.trim()).unwrap();
        }
        out.push('\n');
    }

    /// What the settings of each local service look like.
    fn services(&mut self, out: &mut String, schema: &Value) {
        for rule in schema["allOf"].as_array().into_iter().flatten() {
            let settings = &rule["then"]["properties"]["settings"];
            if let (Some(name), true) =
                (rule["if"]["properties"]["local"]["const"].as_str(), settings["$ref"].is_string())
            {
                writeln!(out, "- With `local: {name}`, `settings` is {}.", self.kind(settings)).unwrap();
            }
        }
        if schema["allOf"].is_array() {
            out.push('\n');
        }
    }

    /// One of several: words, or mappings with one key each.
    fn choices(&mut self, out: &mut String, schema: &Value) {
        for branch in branches(schema) {
            let text = one_line(branch["description"].as_str().unwrap_or_default());
            let form = match (branch["const"].as_str(), branch["properties"].as_object()) {
                (Some(word), _) => format!("`{word}`"),
                (None, Some(properties)) => {
                    let keys = properties.iter().map(|(key, it)| format!("`{{ {key}: … }}`, {}", self.kind(it)));
                    keys.collect::<Vec<_>>().join(", ")
                }
                (None, None) => self.kind(branch),
            };
            writeln!(out, "- {form}: {text}").unwrap();
        }
        out.push('\n');
    }

    /// What a value is, in a few words.
    fn kind(&mut self, schema: &Value) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.reference(reference.rsplit('/').next().unwrap());
        }
        if let Some(expected) = schema["expected"].as_str() {
            return expected.to_owned();
        }
        let real: Vec<&Value> = branches(schema).filter(|it| it["type"] != "null").collect();
        if !real.is_empty() {
            return real.into_iter().map(|it| self.kind(it)).collect::<Vec<_>>().join(" or ");
        }
        if let Some(word) = schema["const"].as_str() {
            return format!("`{word}`");
        }
        match first_type(&schema["type"]) {
            "array" => format!("list of {}", self.kind(&schema["items"])),
            "object" => format!("mapping from names to {}", self.kind(&schema["additionalProperties"])),
            "string" => "text".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "integer" => match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
                (Some(min), Some(max)) if min == max => format!("`{min}`"),
                (Some(0), Some(max)) if max == u64::from(u16::MAX) => "whole number".to_owned(), // only its type
                (Some(min), Some(max)) => format!("whole number, {min} to {max}"),
                (Some(min), None) if min > 0 => format!("whole number, {min} or more"),
                _ => "whole number".to_owned(),
            },
            other => other.to_owned(),
        }
    }

    fn reference(&mut self, name: &str) -> String {
        let target = &self.definitions[name];
        if let Some(expected) = target["expected"].as_str() {
            return expected.to_owned();
        }
        if target["properties"].is_null() && branches(target).next().is_none() {
            return self.kind(target);
        }
        if !self.waiting.iter().any(|it| it == name) {
            self.waiting.push(name.to_owned());
        }
        format!("[{}](#{})", title(name).to_lowercase(), anchor(&title(name)))
    }
}

fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"].into_iter().filter_map(|it| schema[it].as_array()).flatten()
}

fn first_type(kind: &Value) -> &str {
    kind.as_str()
        .or_else(|| kind.as_array()?.iter().filter_map(Value::as_str).find(|it| *it != "null"))
        .unwrap_or("any")
}

/// `HeaderEditsConfig` is "Header edits".
fn title(name: &str) -> String {
    let name = name.strip_suffix("Config").unwrap_or(name);
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            out.push(' ');
        }
        out.push(if at > 0 { letter.to_ascii_lowercase() } else { letter });
    }
    out
}

/// A default worth telling.
fn shown(default: &Value) -> Option<String> {
    match default {
        Value::Null | Value::Object(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) if list.iter().any(Value::is_object) || list.is_empty() => None,
        value => Some(format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
