//! What of a line may be shown: the one printer of source lines.
//!
//! A line is shown as far as it is known to be harmless: keys, and values at places that the schema knows and that are
//! not for secrets. Everything else is blanked, letter by letter so that columns stay what they are: values of secret
//! fields and of unknown keys (which may be misspelt ones), what variables fall back to, comments, and whatever has the
//! shape of a key. A text that could not be read has no places; of its lines, only what stands under keys that never
//! hold a secret is shown.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use crate::base::{credentials_in, names_credential, nearest};

use super::secrets::{Places, is_reference};
use super::spans::{Child, Content, Span, escape};
use super::structure::{children_of, keys_at, variants_of};

/// Stands for a letter that is not shown.
const BLANK: char = '*';
/// What is shown wherever it stands outside of a value: it gives a line its shape.
const SHAPE: &str = "-:,{}[]?\"'|>&*!#%@";
/// Of longer lines only the keys are shown, in bytes.
const LINE_MAX: usize = 4096;

/// What is known about the lines of a file.
pub(super) struct Lines<'d> {
    pub(super) schema: &'d Value,
    /// Nothing if the text could not be read.
    pub(super) root: Option<&'d Child>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unknown,
    Harmless,
    Hidden,
}

/// One line, and what is known of each of its letters.
struct Line<'t> {
    number: usize,
    text: &'t str,
    letters: Vec<char>,
    marks: Vec<Mark>,
}

impl Lines<'_> {
    /// Line `number` of a file, as it may be shown; `before` are the lines above it, the nearest first. `own` is what
    /// a fault is about, if that is a name.
    pub(super) fn shown<'t>(
        &self,
        number: usize,
        text: &'t str,
        before: impl Iterator<Item = &'t str>,
        own: Option<Span>,
    ) -> String {
        let letters: Vec<char> = text.chars().collect();
        let marks = vec![Mark::Unknown; letters.len()];
        let mut line = Line { number, text, letters, marks };
        match self.root {
            Some(root) => self.visit(root, &mut String::new(), false, &mut line),
            None if text.len() <= LINE_MAX => self.guess(before, &mut line),
            None => {}
        }
        if let Some(own) = own {
            line.mark(own, Mark::Harmless);
        }
        if text.len() <= LINE_MAX {
            line.hide_credentials();
            line.show_variables();
        }
        line.shown()
    }

    /// Marks what of a value stands on the line.
    fn visit(&self, child: &Child, path: &mut String, hidden: bool, line: &mut Line<'_>) {
        let place = Places::of(self.schema).place(path);
        match &child.node.content {
            Content::Scalar { text, .. } => {
                let hidden = (hidden || !place.known || place.secret) && !is_reference(text);
                // What a variable falls back to may go on in the next line.
                let hidden = hidden || (child.span.line < child.span.end_line && text.contains(":-"));
                let shown = line.text.len() <= LINE_MAX && !hidden;
                if !text.is_empty() {
                    line.mark(child.span, if shown { Mark::Harmless } else { Mark::Hidden });
                }
            }
            Content::List(children) | Content::Map(children) => {
                let hidden = hidden || !place.known || (place.secret && !place.open);
                let length = path.len();
                for (index, child) in children.iter().enumerate() {
                    if !line.touches(child) {
                        continue;
                    }
                    match &child.key {
                        Some((key, span)) => {
                            let meant = self.meant(path, key);
                            path.push_str(&format!("/{}", escape(meant)));
                            // Where a secret may stand, a brace may be its first letter.
                            let places = Places::of(self.schema);
                            let parent = &path[..length];
                            let brace = place.secret && !places.place(path).known && !places.is_word(parent, key);
                            let hidden = hidden || brace;
                            line.mark(*span, if hidden { Mark::Hidden } else { Mark::Harmless });
                        }
                        None => path.push_str(&format!("/{index}")),
                    }
                    self.visit(child, path, hidden, line);
                    path.truncate(length);
                }
            }
        }
    }

    /// The key of the schema that a misspelt one was probably meant to be. A name for credentials is never taken for
    /// a harmless one.
    fn meant<'k>(&'k self, path: &str, key: &'k str) -> &'k str {
        let known: Vec<&str> = keys_at(self.schema, path);
        if known.contains(&key) || names_credential(key.as_bytes()) {
            return key;
        }
        nearest(key, known).unwrap_or(key)
    }

    /// Marks what stands under keys that hold no secret wherever they are, up to the first that may. A line that goes
    /// on with what a line above began is not shown.
    fn guess<'t>(&self, before: impl Iterator<Item = &'t str>, line: &mut Line<'_>) {
        let keys = harmless_keys(self.schema);
        let harmless = |text: &str, it: &Range<usize>| keys.get(text[it.clone()].trim_matches(QUOTES)).copied();
        let mut indent = indentation(line.text);
        for above in before {
            let blank = above.trim_start().is_empty() || above.trim_start().starts_with('#');
            if !blank && QUOTES.iter().any(|it| above.matches(*it).count() % 2 == 1) {
                return; // it may not have ended
            }
            if blank || indentation(above) >= indent {
                continue;
            }
            indent = indentation(above);
            let Some(last) = keys_of(above).pop() else { return };
            let harmless = harmless(above, &last).unwrap_or_else(|| opens(&above[last.end..]));
            if !harmless {
                return;
            }
            if indent == 0 {
                break;
            }
        }
        let found = keys_of(line.text);
        for (number, key) in found.iter().enumerate() {
            let value = key.end..found.get(number + 1).map_or(line.text.len(), |it| it.start);
            match harmless(line.text, key) {
                Some(true) => {
                    line.mark_bytes(key.clone(), Mark::Harmless);
                    line.mark_bytes(value, Mark::Harmless);
                }
                Some(false) => {
                    line.mark_bytes(key.clone(), Mark::Harmless);
                    return line.mark_bytes(key.end..line.text.len(), Mark::Hidden);
                }
                // A name that an operator chose: what it names is judged by its own keys.
                None if opens(&line.text[value.clone()]) => {}
                None => return line.mark_bytes(key.start..line.text.len(), Mark::Hidden),
            }
        }
    }
}

impl Line<'_> {
    fn touches(&self, child: &Child) -> bool {
        let on = |span: &Span| (span.line..=span.end_line).contains(&self.number);
        on(&child.span) || child.key.as_ref().is_some_and(|(_, span)| on(span))
    }

    /// What is hidden stays so.
    fn mark(&mut self, span: Span, mark: Mark) {
        if !(span.line..=span.end_line).contains(&self.number) {
            return;
        }
        let start = if span.line == self.number { span.column - 1 } else { 0 };
        let end = if span.end_line == self.number { span.end_column - 1 } else { usize::MAX };
        let Some(letters) = self.letters.get(start..end.min(self.letters.len())) else { return };
        // The span of a value goes on to the next thing: the blanks between are no part of it.
        let length = letters.iter().rposition(|it| !it.is_whitespace()).map_or(0, |last| last + 1);
        let marks = self.marks[start..start + length].iter_mut();
        marks.filter(|it| **it != Mark::Hidden).for_each(|it| *it = mark);
    }

    /// Marks letters by their bytes, whatever they were.
    fn mark_bytes(&mut self, bytes: Range<usize>, mark: Mark) {
        let letters = self.text.char_indices().map(|(at, _)| at);
        let inside = letters.zip(&mut self.marks).filter(|(at, _)| bytes.contains(at));
        inside.for_each(|(_, it)| *it = mark);
    }

    fn hide_credentials(&mut self) {
        credentials_in(self.text.as_bytes()).into_iter().for_each(|it| self.mark_bytes(it, Mark::Hidden));
    }

    /// The names of variables are no secrets, but what they fall back to may be one.
    fn show_variables(&mut self) {
        let mut at = 0;
        while let Some(found) = self.text[at..].find("${") {
            let start = at + found;
            at = start + 2;
            let rest = &self.text[at..];
            let name = rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(rest.len());
            if self.text[..start].ends_with('$') {
                continue;
            }
            let close = rest.find('}').unwrap_or(rest.len());
            let falls_back = rest[name..].starts_with(":-");
            let shown = if falls_back { name + 2 } else { name };
            self.mark_bytes(start..at + shown, Mark::Harmless);
            if falls_back {
                self.mark_bytes(at + shown..at + close, Mark::Hidden);
            }
            if falls_back || close == name {
                self.mark_bytes(at + close..at + close + 1, Mark::Harmless);
            }
        }
    }

    fn shown(&self) -> String {
        let letter = |(letter, mark): (&char, &Mark)| match mark {
            Mark::Harmless => *letter,
            Mark::Unknown if letter.is_whitespace() || SHAPE.contains(*letter) => *letter,
            Mark::Unknown | Mark::Hidden => BLANK,
        };
        self.letters.iter().zip(&self.marks).map(letter).collect()
    }
}

const QUOTES: [char; 2] = ['"', '\''];

/// Whether nothing stands behind a key but the beginning of a list or mapping.
fn opens(behind: &str) -> bool {
    behind.trim_start_matches([' ', ':', '{', '[', '-', '\t']).is_empty()
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

/// Where what looks like keys stands in a line of a text that is no YAML: a word, perhaps in quotes, and a colon.
fn keys_of(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (colon, _) in line.match_indices(':') {
        let behind = line[colon + 1..].chars().next();
        if !behind.is_none_or(|it| it.is_whitespace() || "{[\"'".contains(it)) {
            continue;
        }
        let word = line[..colon].trim_end();
        let key = |it: char| it.is_ascii_alphanumeric() || "_-.".contains(it) || QUOTES.contains(&it);
        let start = word.rfind(|it| !key(it)).map_or(0, |at| at + word[at..].chars().next().map_or(1, char::len_utf8));
        if start < word.len() {
            found.push(start..word.len());
        }
    }
    found
}

/// Every key that the schema knows, and whether there is never a secret under it.
fn harmless_keys(schema: &Value) -> HashMap<&str, bool> {
    let mut keys = HashMap::new();
    gather(schema, schema, &mut keys);
    keys
}

fn gather<'s>(root: &'s Value, schema: &'s Value, keys: &mut HashMap<&'s str, bool>) {
    match schema {
        Value::Array(list) => list.iter().for_each(|it| gather(root, it, keys)),
        Value::Object(map) => {
            for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let harmless = !may_be_secret(root, property);
                keys.entry(name).and_modify(|it| *it &= harmless).or_insert(harmless);
            }
            map.values().for_each(|it| gather(root, it, keys));
        }
        _ => {}
    }
}

/// Whether a value is a secret, or holds some under names that the schema does not know.
fn may_be_secret(root: &Value, schema: &Value) -> bool {
    let secret = |it: &&Value| it.get("writeOnly") == Some(&Value::Bool(true));
    let variants = variants_of(root, schema);
    variants.iter().any(secret)
        || variants.iter().flat_map(|it| children_of(it)).any(|it| variants_of(root, it).iter().any(secret))
}
