//! Which values are names of secrets, and where secrets may stand.
//!
//! Where that is, the schema says. The same words elsewhere are a fault: they would go out as they are written, and
//! nobody would notice.

use serde_json::Value;

use crate::base::REDACTED;

use super::spans::escape;
use super::structure::schemas_at;

/// Begins a value that is the name of a secret.
pub const MARK: &str = "secret:";

/// Gives the secret at a path, by its name; or says why it can't be had, and what to do.
pub type Secrets<'a> = dyn Fn(&str, &str) -> Result<String, (String, Option<String>)> + 'a;

/// The places of a file.
pub(super) struct Places<'s> {
    schema: &'s Value,
}

/// What the schema says of a place.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Something is known to stand there.
    pub(super) known: bool,
    /// What stands there is, or may be, a secret.
    pub(super) secret: bool,
}

/// A text that names a secret: `secret:NAME`, or `SCHEME secret:NAME` as in `Authorization`.
pub(super) struct Reference<'t> {
    /// The scheme and a blank, or nothing.
    pub(super) scheme: &'t str,
    pub(super) name: &'t str,
}

impl<'s> Places<'s> {
    pub(super) fn of(schema: &'s Value) -> Self {
        Self { schema }
    }

    pub(super) fn place(&self, path: &str) -> Place {
        let schemas = schemas_at(self.schema, path);
        let secret = |it: &&Value| it.get("writeOnly") == Some(&Value::Bool(true));
        Place { known: !schemas.is_empty(), secret: schemas.iter().any(secret) }
    }
}

/// A message about a secret, without the secret. What it says in words of its own stays: only between backticks or
/// quotes is it about what was written. Names that stand on the way to the secret are none.
pub(super) fn hidden_in(message: &str, secret: &str, path: &str) -> String {
    let lower = secret.to_lowercase();
    let names: Vec<String> = path.split('/').map(str::to_lowercase).collect();
    let mut quoted = false;
    let shown = |word: &str| {
        let bare = word.trim_matches(|it: char| !it.is_alphanumeric()).to_lowercase();
        let own = !quoted && !word.contains(QUOTES) && bare.bytes().all(|it| it.is_ascii_lowercase()) && bare != lower;
        quoted ^= word.matches(QUOTES).count() % 2 == 1;
        let harmless = own
            || is_placeholder(word.trim_matches(['`', '"', ',', ':', ';']))
            || bare.len() < WORD_MIN
            || names.contains(&bare)
            || !lower.contains(&bare);
        if harmless { word.to_owned() } else { "...".to_owned() }
    };
    message.split(' ').map(shown).collect::<Vec<_>>().join(" ")
}

/// Whether a text is what the gateway fills in, or is meant to be: `{client_ip}`, `{path.id}`. Such a name is shown, as
/// that of a variable is.
pub(super) fn is_placeholder(text: &str) -> bool {
    const LENGTH_MAX: usize = 26;
    let name = text.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    name.is_some_and(|it| {
        let plain = it.bytes().all(|it| it.is_ascii_lowercase() || b"_.".contains(&it));
        !it.is_empty() && plain && text.len() <= LENGTH_MAX
    })
}

/// Between them stands what was written.
const QUOTES: [char; 2] = ['`', '"'];
/// Shorter words are not looked for: they would be found in any text.
const WORD_MIN: usize = 3;

/// What a text at a place for secrets refers to.
pub(super) fn reference(text: &str) -> Option<Reference<'_>> {
    let (scheme, rest) = match text.split_once(' ') {
        Some((scheme, rest)) if !scheme.is_empty() => (&text[..=scheme.len()], rest),
        _ => ("", text),
    };
    let name = rest.strip_prefix(MARK)?;
    Some(Reference { scheme, name })
}

/// Whether a text can't be meant as anything but the name of a secret, wherever it stands.
pub(super) fn is_reference(text: &str) -> bool {
    text.starts_with(MARK) && names_secret(text)
}

/// Whether a text at a place for secrets says no more than the name of one, perhaps after a scheme.
pub(super) fn names_secret(text: &str) -> bool {
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|it| it.is_ascii_graphic());
    reference(text).is_some_and(|it| plain(it.name))
}

/// Whether the name of a secret stands somewhere in a text, as a word.
pub(super) fn mentions_secret(text: &str) -> bool {
    text.match_indices(MARK).any(|(at, _)| {
        let joined =
            text[..at].bytes().next_back().is_some_and(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it));
        let named = text[at + MARK.len()..].bytes().next().is_some_and(|it| it.is_ascii_alphanumeric());
        named && !joined
    })
}

/// What was written, without the secrets in it: what of a value stands where its schema has a secret.
pub fn without_secrets(value: &Value, schema: &Value) -> Value {
    let mut shown = value.clone();
    redact(&mut shown, &mut String::new(), &Places::of(schema));
    shown
}

fn redact(value: &mut Value, path: &mut String, places: &Places<'_>) {
    let length = path.len();
    match value {
        Value::Array(list) => {
            for (index, element) in list.iter_mut().enumerate() {
                path.push_str(&format!("/{index}"));
                redact(element, path, places);
                path.truncate(length);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                path.push_str(&format!("/{}", escape(key)));
                redact(value, path, places);
                path.truncate(length);
            }
        }
        Value::String(text) if places.place(path).secret && !is_reference(text) => REDACTED.clone_into(text),
        _ => {}
    }
}
