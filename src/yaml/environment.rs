//! `${NAME}` and `${NAME:-default}` inside a scalar value, and the type that a plain scalar has.
//!
//! Knows nothing of trees and places: one text in, one text and what was found out.

use serde_yaml::Value;

use super::elsewhere;
use super::structure::Due;

/// Looks a variable up.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A text with its variables filled in.
#[derive(Default)]
pub(super) struct Filled {
    pub(super) text: String,
    /// Name and value of each variable, also where that is what it falls back to: the values may be secrets.
    pub(super) used: Vec<(String, String)>,
    pub(super) problems: Vec<Problem>,
}

/// A variable that cannot be filled in.
pub(super) struct Problem {
    /// As written, to be found again in the file.
    pub(super) written: String,
    pub(super) message: String,
    pub(super) help: String,
}

/// Fills in the variables of `text`; `None` if it has none, nor an escape.
pub(super) fn fill(text: &str, environment: &Environment<'_>) -> Option<Filled> {
    if !text.contains("${") {
        return None;
    }
    let mut filled = Filled::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        // `$${` stands for `${` itself.
        if let Some(before) = rest[..at].strip_suffix('$') {
            filled.text.push_str(before);
            filled.text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.text.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let Some(end) = inside.find('}') else {
            filled.problem("${", "`${` without its `}`", "write `$${` for a plain `${`");
            rest = "";
            break;
        };
        filled.variable(&inside[..end], environment);
        rest = &inside[end + 1..];
    }
    filled.text.push_str(rest);
    Some(filled)
}

impl Filled {
    fn variable(&mut self, inside: &str, environment: &Environment<'_>) {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let written = format!("${{{name}");
        if !is_name(name) {
            let message = "not the name of a variable after `${`";
            return self.problem(&written, message, "write `${NAME}`, or `$${` for a plain `${`");
        }
        if default.is_some_and(|it| it.contains("${")) {
            let message = format!("the default of `{name}` holds a variable of its own");
            return self.problem(&written, message, "write a plain text as the default");
        }
        // As a shell does it: with `:-` an empty variable counts as not set.
        let value = environment(name).filter(|it| default.is_none() || !it.is_empty());
        match (value, default) {
            (Some(value), _) => {
                self.text.push_str(&value);
                self.used.push((name.to_owned(), value));
            }
            (None, Some(default)) => {
                self.text.push_str(default);
                self.used.push((name.to_owned(), default.to_owned()));
            }
            (None, None) => {
                let message = format!("the environment has no `{name}`");
                let help = match elsewhere::variable(name) {
                    Some(help) => help.to_owned(),
                    None => format!("set it, or write a default: `${{{name}:-...}}`"),
                };
                self.problem(&written, message, help);
            }
        }
    }

    fn problem(&mut self, written: &str, message: impl Into<String>, help: impl Into<String>) {
        let (message, help) = (message.into(), help.into());
        self.problems.push(Problem { written: written.to_owned(), message, help });
    }
}

/// A text as people may see it before its variables are filled in: with their names, without what they fall back to.
pub(super) fn without_defaults(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, inside) = (&rest[..at], &rest[at + 2..]);
        shown.push_str(before);
        shown.push_str("${");
        rest = inside;
        if before.ends_with('$') {
            continue;
        }
        let end = inside.find('}').unwrap_or(inside.len());
        let name = inside[..end].split(":-").next().unwrap_or_default();
        shown.push_str(name);
        rest = &inside[end..];
    }
    shown.push_str(rest);
    shown
}

/// What of a text is its own, and not a variable's.
pub(super) fn without_variables(text: &str) -> String {
    let mut pieces = text.split("${");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |own, piece| own + piece.split_once('}').map_or("", |(_, behind)| behind))
}

fn is_name(name: &str) -> bool {
    let plain = |it: char| it.is_ascii_alphanumeric() || it == '_';
    name.chars().all(plain) && name.chars().next().is_some_and(|it| !it.is_ascii_digit())
}

/// The longest text that can be a number or a word such as `true`.
const TYPED_MAX: usize = 64;

/// What YAML takes an unquoted `text` for. Never a list or a mapping: a variable must not be able
/// to change the shape of the file.
pub(super) fn plain_value(text: &str) -> Value {
    let word = |it: char| it.is_ascii_alphanumeric() || "+-._~".contains(it);
    if text.is_empty() {
        return Value::Null;
    }
    // These two begin and end a document.
    let marker = text.starts_with("---") || text.starts_with("...");
    if text.len() <= TYPED_MAX && !marker && text.chars().all(word) {
        let typed = serde_yaml::from_str::<Value>(text);
        if let Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) = typed {
            return value;
        }
    }
    Value::String(text.to_owned())
}

/// What a text with its variables filled in stands for, where these kinds of values are due. `plain`: it is written
/// without quotes, which decides where a text and a number would both do.
pub(super) fn as_due(text: String, plain: bool, due: Due) -> Value {
    let typed = plain_value(&text);
    let fits = match &typed {
        _ if !due.known => plain,
        Value::Number(_) => due.number && (plain || !due.text),
        Value::Bool(_) => due.boolean && (plain || !due.text),
        Value::Null => plain || (due.null && !due.text),
        _ => false,
    };
    if fits { typed } else { Value::String(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let environment = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let filled = fill(text, &environment).unwrap();
        let problems: Vec<&str> = filled.problems.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(format!("{}{}", filled.text, problems.join(";")), expected);
    }

    #[test]
    fn variables_defaults_and_escapes_are_filled_in() {
        check("x${A}y${A}", "xoneyone");
        check("${B:-two}s", "twos");
        check("${B:-}", "");
        check("${EMPTY:-full}", "full");
        check("${EMPTY}", "");
        check("${B:-http://h:1}/x", "http://h:1/x");
        check("$${A} and ${A}", "${A} and one");
        check("$$${A}", "$${A}");
        assert!(fill("/players/{rest} $5", &|_| None).is_none());
    }

    #[test]
    fn what_cannot_be_filled_in_is_told() {
        check("${B}", "the environment has no `B`");
        check("a${", "a`${` without its `}`");
        check("${1x}", "not the name of a variable after `${`");
        check("${}", "not the name of a variable after `${`");
        check("${B:-${A}}", "}the default of `B` holds a variable of its own");
    }

    #[test]
    fn what_variables_fall_back_to_is_not_shown() {
        assert_eq!(without_defaults("a${B:-c}d ${E} $${F:-g} ${H:-i"), "a${B}d ${E} $${F:-g} ${H");
    }

    #[test]
    fn a_plain_text_is_typed_as_yaml_does_but_never_becomes_a_collection() {
        assert_eq!(plain_value("8080"), Value::from(8080));
        assert_eq!(plain_value("true"), Value::from(true));
        assert_eq!(plain_value(""), Value::Null);
        for text in ["-", "---", "...", "[1]", "a: b", "*a", "&a", "10.0.0.1", "8080 "] {
            assert_eq!(plain_value(text), Value::from(text), "{text}");
        }
    }
}
