//! What of a file may be shown: the one judgement, for source lines, messages, hints and paths.
//!
//! A value is shown where the schema has one that is no secret. Where it has a mapping or a list instead, and a secret
//! may stand in that, a text is likely to be one: `tokens: SECRET`, `hs256_secret:SECRET`. A name that the schema does
//! not know is shown if it looks like a name, and not where it could be the rest of a secret without quotes:
//! `{ hs256_secret: be,hind }`.

use std::collections::HashSet;

use serde_json::Value;

use crate::base::{credentials_in, names_credential, nearest};

use super::elsewhere;
use super::environment::plain_value;
use super::secrets::{is_placeholder, is_reference};
use super::spans::{Child, Content, Span, unescape};
use super::structure::{children_of, keys_of, step, takes_scalar, variants_of, words};

/// No longer name is taken for one, in bytes.
const NAME_MAX: usize = 48;
/// How deep schemas are looked into for secrets.
const DEPTH_MAX: usize = 24;
/// What begins the text of a key or certificate (RFC 7468).
const PEM: &str = "-----BEGIN";

/// What the schema says of a place on the way from the root, and whether all there is hidden.
#[derive(Clone)]
pub(super) struct Standing<'s> {
    root: &'s Value,
    schemas: Vec<&'s Value>,
    hidden: bool,
}

/// An unknown name, and what stands around it.
#[derive(Clone, Copy, Default)]
struct Around {
    /// It begins on the line on which a secret without quotes ends.
    behind_secret: bool,
    /// It stands on the line of a name that is not shown.
    behind_hidden: bool,
    /// Nothing stands under it.
    alone: bool,
}

/// A name or a value, with its place.
pub(super) struct Piece<'t> {
    pub(super) text: &'t str,
    pub(super) span: Span,
    pub(super) is_key: bool,
    pub(super) shown: bool,
}

impl<'s> Standing<'s> {
    pub(super) fn root(root: &'s Value) -> Self {
        Self { root, schemas: variants_of(root, root), hidden: false }
    }

    /// The place that a JSON pointer names.
    pub(super) fn at(root: &'s Value, path: &str) -> Self {
        let steps = path.split('/').skip(1).map(unescape);
        steps.fold(Self::root(root), |here, it| if here.is_list() { here.element() } else { here.under(&it) })
    }

    pub(super) fn is_list(&self) -> bool {
        let is = |key: &str| self.schemas.iter().any(|it| it.get(key).is_some());
        is("items") && !is("properties") && !self.schemas.iter().any(|it| it["additionalProperties"].is_object())
    }

    /// Whether the schema knows the place.
    pub(super) fn known(&self) -> bool {
        !self.schemas.is_empty()
    }

    fn secret(&self) -> bool {
        self.schemas.iter().any(|it| is_secret(it))
    }

    fn knows(&self, key: &str) -> bool {
        self.schemas.iter().any(|it| it.get("properties").is_some_and(|it| it.get(key).is_some()))
    }

    /// The value under a name.
    pub(super) fn under(&self, key: &str) -> Self {
        self.under_shown(key, self.shows_key(key, Around::default()))
    }

    fn under_shown(&self, key: &str, shown: bool) -> Self {
        let schemas = step(self.root, &self.schemas, self.meant(key));
        let hidden = self.hidden || !shown || schemas.is_empty();
        Self { root: self.root, schemas, hidden }
    }

    /// An element of a list.
    pub(super) fn element(&self) -> Self {
        let schemas = step(self.root, &self.schemas, "0");
        Self { root: self.root, hidden: self.hidden || schemas.is_empty(), schemas }
    }

    /// The name that a misspelt one was probably meant to be. A name for credentials is never taken for a harmless one.
    fn meant<'k>(&'k self, key: &'k str) -> &'k str {
        if self.knows(key) || names_credential(key.as_bytes()) {
            return key;
        }
        nearest(key, self.keys()).unwrap_or(key)
    }

    fn keys(&self) -> impl Iterator<Item = &'s str> {
        self.schemas.iter().flat_map(|it| keys_of(it))
    }

    /// Whether a name may be shown.
    fn shows_key(&self, key: &str, around: Around) -> bool {
        if self.hidden || !self.known() || holds_credential(key) {
            return false;
        }
        let known: Vec<&str> = self.keys().collect();
        if known.contains(&key) || elsewhere::key(key, &known).is_some() || nearest(key, known).is_some() {
            return true;
        }
        let free = || self.schemas.iter().any(|it| it["additionalProperties"].is_object());
        let below = || self.schemas.iter().any(|it| holds_secret(self.root, it, DEPTH_MAX));
        match (self.secret(), free()) {
            (true, false) => false,
            _ if !below() => true,
            // What is known somewhere else stands under the wrong name.
            _ if around.behind_hidden => false,
            (false, false) => is_name(key, true) && !around.behind_secret && !around.alone,
            (_, true) => is_name(key, false) && !(around.behind_secret && around.alone),
        }
    }

    /// Whether the schema has this name here, or nearly, or lets operators choose it.
    pub(super) fn has_name(&self, key: &str) -> bool {
        let free = || self.schemas.iter().any(|it| it["additionalProperties"].is_object());
        self.shows_key(key, Around::default()) && (self.knows(self.meant(key)) || free())
    }

    /// Whether a scalar is due here, and this one may be shown.
    pub(super) fn takes(&self, text: &str) -> bool {
        self.schemas.iter().any(|it| takes_scalar(it)) && self.shows(text)
    }

    /// Whether a scalar may be shown.
    pub(super) fn shows(&self, text: &str) -> bool {
        if is_reference(text) {
            return true;
        }
        if self.hidden || !self.known() || self.secret() || text.contains(PEM) {
            return false;
        }
        if self.schemas.iter().any(|it| takes_scalar(it)) || !plain_value(text).is_string() {
            return true;
        }
        let inside = |schema: &&&Value| {
            let entries = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|it| it.values());
            entries.chain(children_of(schema)).any(|it| variants_of(self.root, it).iter().any(|it| is_secret(it)))
        };
        let below = || self.schemas.iter().any(|it| holds_secret(self.root, it, DEPTH_MAX));
        let server = is_address(text) || is_host(text);
        server || (!self.schemas.iter().any(|it| inside(&it)) && (is_name(text, false) || !below()))
    }

    /// Whether a text is due, and neither a list nor a mapping.
    pub(super) fn takes_text_alone(&self) -> bool {
        let open = ["properties", "additionalProperties", "items"];
        self.takes("a") && !self.schemas.iter().any(|it| open.iter().any(|key| it.get(key).is_some()))
    }
}

/// Tells every name and value below `child` that `enter` lets in.
pub(super) fn walk<'t>(
    child: &'t Child,
    here: &Standing<'_>,
    enter: &dyn Fn(&Child) -> bool,
    tell: &mut dyn FnMut(Piece<'t>),
) {
    match &child.node.content {
        Content::Scalar { text, .. } if text.is_empty() => {}
        Content::Scalar { text, .. } => {
            tell(Piece { text, span: child.span, is_key: false, shown: here.shows(text) });
        }
        Content::List(children) => {
            let here = here.element();
            children.iter().filter(|it| enter(it)).for_each(|it| walk(it, &here, enter, tell));
        }
        Content::Map(children) => {
            let (mut secret_ends, mut hidden_stands) = (0, 0);
            for child in children.iter().filter(|it| enter(it)) {
                let Some((key, span)) = &child.key else { continue };
                let scalar = match &child.node.content {
                    Content::Scalar { text, plain } => Some((text, *plain)),
                    _ => None,
                };
                let alone = scalar.is_some_and(|(text, plain)| plain && plain_value(text).is_null());
                let (behind_secret, behind_hidden) = (secret_ends == span.line, hidden_stands == span.line);
                let shown = here.shows_key(key, Around { behind_secret, behind_hidden, alone });
                if !shown {
                    hidden_stands = span.end_line;
                }
                tell(Piece { text: key, span: *span, is_key: true, shown });
                let below = here.under_shown(key, shown);
                if scalar.is_some_and(|(text, plain)| plain && !below.shows(text)) {
                    secret_ends = child.span.end_line;
                }
                walk(child, &below, enter, tell);
            }
        }
    }
}

/// What of a file must not be said, wherever a message is about.
#[derive(Default)]
pub(super) struct Hidden {
    /// Names and values that are shown nowhere, as they are, the longest first.
    texts: Vec<String>,
    /// The same, letters and digits alone.
    plain: Vec<String>,
    /// What is shown somewhere, or is a word of the schema.
    seen: HashSet<String>,
    /// Names that are not shown.
    keys: HashSet<String>,
}

/// Shorter texts are not looked for elsewhere: they would be found in any text.
const TEXT_MIN: usize = 6;
/// More texts than these are not compared with every message: then nothing that is quoted is shown but what is known.
const TEXTS_MAX: usize = 5_000;

impl Hidden {
    /// Of a whole file; `brought` is what the environment and the store brought in.
    pub(super) fn of<'t>(root: Option<&Child>, schema: &Value, brought: impl Iterator<Item = &'t str>) -> Self {
        let (mut texts, mut seen, mut keys) = (HashSet::new(), HashSet::new(), HashSet::new());
        vocabulary(schema, &mut seen);
        let mut tell = |piece: Piece<'_>| {
            if piece.shown {
                seen.insert(plain(piece.text));
            } else {
                texts.insert(piece.text.to_owned());
                if piece.is_key {
                    keys.insert(piece.text.to_owned());
                }
            }
        };
        if let Some(root) = root {
            walk(root, &Standing::root(schema), &|_| true, &mut tell);
        }
        texts.extend(brought.filter(|it| plain_value(it).is_string()).map(str::to_owned));
        let hidden = |it: &String| it.len() >= TEXT_MIN && !is_placeholder(it) && !seen.contains(&plain(it));
        let mut texts: Vec<String> = texts.into_iter().filter(hidden).collect();
        texts.sort_by_key(|it| std::cmp::Reverse(it.len()));
        let plain = texts.iter().map(|it| plain(it)).collect();
        Self { texts, plain, seen, keys }
    }

    /// As much of a path as may be shown.
    pub(super) fn path<'p>(&self, schema: &Value, path: &'p str) -> &'p str {
        let mut here = Standing::root(schema);
        for (at, token) in
            path.match_indices('/').map(|(at, _)| (at, path[at + 1..].split('/').next().unwrap_or_default()))
        {
            let key = unescape(token);
            let list = here.is_list();
            if !list && (self.keys.contains(&key) || !here.shows_key(&key, Around::default())) {
                return &path[..at];
            }
            here = if list { here.element() } else { here.under(&key) };
        }
        path
    }

    /// A message, without what it must not say.
    pub(super) fn out_of(&self, message: &str) -> String {
        let mut safe = message.to_owned();
        for text in self.texts.iter().take(TEXTS_MAX) {
            if safe.contains(text.as_str()) {
                safe = safe.replace(text.as_str(), GONE);
            }
        }
        let mut out = String::with_capacity(safe.len());
        let mut rest = safe.as_str();
        while let Some(at) = rest.find(['`', '"']) {
            let quote = if rest[at..].starts_with('`') { '`' } else { '"' };
            let Some(length) = rest[at + 1..].find(quote) else { break };
            let inside = &rest[at + 1..at + 1 + length];
            out.push_str(&rest[..=at]);
            out.push_str(if self.betrays(inside) { GONE } else { inside });
            out.push(quote);
            rest = &rest[at + length + 2..];
        }
        out.push_str(rest);
        out
    }

    fn betrays(&self, quoted: &str) -> bool {
        if is_reference(quoted) || is_placeholder(quoted) {
            return false;
        }
        let quoted = plain(quoted.strip_suffix("...").unwrap_or(quoted));
        if quoted.len() < TEXT_MIN || self.seen.contains(&quoted) {
            return false;
        }
        let same = |it: &String| quoted.contains(it.as_str()) || it.contains(&quoted);
        self.texts.len() > TEXTS_MAX || self.plain.iter().filter(|it| it.len() >= TEXT_MIN).any(same)
    }
}

/// Stands in a message for what must not be said.
const GONE: &str = "…";

/// The letters and digits of a text, without case.
fn plain(text: &str) -> String {
    text.chars().filter(|it| it.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// All names and words of a schema.
fn vocabulary(schema: &Value, found: &mut HashSet<String>) {
    match schema {
        Value::Array(list) => list.iter().for_each(|it| vocabulary(it, found)),
        Value::Object(map) => {
            found.extend(keys_of(schema).into_iter().chain(words(schema)).map(plain));
            map.values().for_each(|it| vocabulary(it, found));
        }
        _ => {}
    }
}

fn is_secret(schema: &Value) -> bool {
    schema.get("writeOnly") == Some(&Value::Bool(true))
}

/// Whether a secret may stand in a value, however deep.
fn holds_secret(root: &Value, schema: &Value, depth: usize) -> bool {
    depth > 0
        && variants_of(root, schema).into_iter().any(|it| {
            let entries = it.get("properties").and_then(Value::as_object).into_iter().flat_map(|it| it.values());
            is_secret(it) || entries.chain(children_of(it)).any(|it| holds_secret(root, it, depth - 1))
        })
}

fn holds_credential(text: &str) -> bool {
    text.contains(PEM) || !credentials_in(text.as_bytes()).is_empty()
}

/// Whether a text looks like a name that somebody has given, and not like a key or a password. `strictly`: like one
/// that a program knows.
fn is_name(text: &str, strictly: bool) -> bool {
    let letter = |it: u8| it.is_ascii_lowercase() || b"_-".contains(&it) || (!strictly && is_name_letter(it));
    let begins = text.bytes().next().is_some_and(|it| it.is_ascii_alphanumeric() || it == b'_');
    begins && text.len() <= NAME_MAX && text.bytes().all(letter) && !holds_credential(text)
}

/// Whether a text is the address of a server, with at most one plain word as its path: longer ones may hold a key, as those
/// of webhooks do.
fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let (authority, path) = rest.unwrap_or(text).split_once('/').unwrap_or((rest.unwrap_or(text), ""));
    let port = authority.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.bytes().all(|it| it.is_ascii_alphanumeric() || b".-[]:".contains(&it));
        host && !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit())
    });
    port && (path.is_empty() || is_name(path, true)) && !holds_credential(text)
}

/// Whether a text is the name of a server: words of small letters with dots between, the last of letters alone.
fn is_host(text: &str) -> bool {
    let label = |it: &str| {
        let plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
        !it.is_empty() && it.len() <= 24 && it.bytes().all(plain)
    };
    let last = text.rsplit_once('.').is_some_and(|(_, it)| it.bytes().all(|it| it.is_ascii_lowercase()));
    last && text.split('.').all(label) && !holds_credential(text)
}

fn is_name_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.'
}
