//! Sets, adds and removes header fields, of requests on their way in and of answers on their way out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::filling::Filling;
use crate::base::{At, Diagnostics, REDACTED, Secret, names_credential, without_credentials};
use crate::http as codec;
use crate::routing::{Captures, ValueTemplate};

/// Fields to set, add and remove.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderEditsConfig {
    /// Fields that get this value, whatever they had: a text, `"${NAME}"`, `"secret:NAME"`, or `"Bearer secret:NAME"`.
    #[schemars(with = "BTreeMap<String, Secret>")]
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those they have.
    #[schemars(with = "BTreeMap<String, Secret>")]
    pub add: BTreeMap<String, String>,
    /// Fields that go.
    pub remove: Vec<String>,
    /// Fields whose value the environment or the store has brought, in small letters.
    #[serde(skip)]
    pub(super) brought: BTreeSet<String>,
}

impl HeaderEditsConfig {
    /// Notes the values that people do not see as they are sent: `shown` has them as they are written.
    pub fn note_brought(&mut self, shown: &Self) {
        self.brought = brought([(&self.set, &shown.set), (&self.add, &shown.add)]);
    }

    /// What layers come to, the last one first in importance: its word about a field replaces those before.
    pub(super) fn merged(layers: impl Iterator<Item = Self>) -> Self {
        let mut edits = Self::default();
        for Self { set, add, remove, brought } in layers {
            let lower = |fields: BTreeMap<String, String>| -> BTreeMap<String, String> {
                fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
            };
            let (set, add) = (lower(set), lower(add));
            let remove: Vec<String> = remove.iter().map(|it| it.to_ascii_lowercase()).collect();
            let named = |name: &String| set.contains_key(name) || add.contains_key(name) || remove.contains(name);
            edits.set.retain(|name, _| !named(name));
            edits.add.retain(|name, _| !named(name));
            edits.remove.retain(|name| !named(name));
            edits.brought.retain(|name| !named(name));
            edits.brought.extend(brought);
            edits.set.extend(set);
            edits.add.extend(add);
            edits.remove.extend(remove);
        }
        edits
    }

    /// The same for people's eyes: without the values of fields that carry credentials, and without what looks like one.
    pub(super) fn shown(mut self) -> Self {
        for (name, value) in self.set.iter_mut().chain(&mut self.add) {
            *value = match names_credential(name.as_bytes()) {
                true => REDACTED.to_owned(),
                false => without_credentials(value).into_owned(),
            };
        }
        self
    }
}

/// Values of fields by their names.
type Values = BTreeMap<String, String>;

/// The fields of which a value differs from what is shown.
pub(super) fn brought(pairs: [(&Values, &Values); 2]) -> BTreeSet<String> {
    let differ = |(sent, shown): (&BTreeMap<String, String>, &BTreeMap<String, String>)| {
        let other = sent.iter().filter(|(name, value)| shown.get(*name) != Some(*value));
        other.map(|it| it.0.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    pairs.into_iter().flat_map(differ).collect()
}

/// Compiled edits.
#[derive(Clone, Default, PartialEq)]
pub struct HeaderEdits {
    /// All of them.
    names: Arc<[HeaderName]>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, FieldValue)>,
    add: Vec<(HeaderName, FieldValue)>,
}

/// What a field is set to.
#[derive(Clone, PartialEq)]
enum FieldValue {
    Fixed(HeaderValue),
    /// Made for each request; and whether nobody is to be shown it.
    Filled(ValueTemplate, bool),
}

impl FieldValue {
    /// `None` if what is filled in can't stand in a field; or where nothing can be filled in.
    fn value(&self, values: Option<&Filling<'_>>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Filled(template, sensitive) => {
                let mut value = HeaderValue::from_str(&template.expand(values?)).ok()?;
                value.set_sensitive(*sensitive);
                Some(value)
            }
        }
    }
}

/// Fields that frame a message or belong to one connection; the gateway makes them itself.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
];

/// Its values are templates for clients (RFC 9652).
const TEMPLATES: &str = "link-template";

/// Shows the names alone: the values may be secrets.
impl fmt::Debug for HeaderEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.names).finish()
    }
}

impl HeaderEdits {
    /// Reports names and values that could not be sent.
    pub fn compile(
        config: &HeaderEditsConfig,
        captures: Captures<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut edits = Self::default();
        for (kind, written, into) in [("set", &config.set, &mut edits.set), ("add", &config.add, &mut edits.add)] {
            let at = at.key(kind);
            for (name, value) in written {
                let at = at.key(name);
                let is_secret = config.brought.contains(&name.to_ascii_lowercase());
                // What the environment or the store brings is sent as it is, whatever it looks like.
                let filled = match name.eq_ignore_ascii_case(TEMPLATES) || is_secret {
                    true => None,
                    false => ValueTemplate::compile(value, captures, &at, diagnostics),
                };
                let name = field_name(name, &at, diagnostics);
                if let Some(template) = filled {
                    let secret = name.as_ref().is_some_and(|it| names_credential(it.as_str().as_bytes()));
                    into.extend(name.map(|name| (name, FieldValue::Filled(template, secret))));
                    continue;
                }
                match HeaderValue::from_str(value) {
                    // Sensitive: HPACK must not index it (RFC 7541, section 7.1.3), and nobody is to be shown it.
                    Ok(mut value) => {
                        let secret = |it: &HeaderName| is_secret || names_credential(it.as_str().as_bytes());
                        value.set_sensitive(name.as_ref().is_some_and(secret));
                        into.extend(name.map(|name| (name, FieldValue::Fixed(value))));
                    }
                    Err(_) => drop(diagnostics.error(&at, "not a header value: it has control characters")),
                }
            }
        }
        let at = at.key("remove");
        for (number, name) in config.remove.iter().enumerate() {
            edits.remove.extend(field_name(name, &at.index(number), diagnostics));
        }
        edits.names = edits.set.iter().chain(&edits.add).map(|it| &it.0).chain(&edits.remove).cloned().collect();
        edits
    }

    /// The fields that they concern.
    pub fn names(&self) -> &Arc<[HeaderName]> {
        &self.names
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether one of them says something of the request's path or host.
    pub fn need_target(&self) -> bool {
        let filled =
            |(_, value): &(HeaderName, FieldValue)| matches!(value, FieldValue::Filled(it, _) if it.needs_target());
        self.set.iter().chain(&self.add).any(filled)
    }

    /// Edits a request's head. What can't be filled in leaves no field of the client's in its place.
    pub fn on_request(&self, request: &mut RequestHeader, values: &Filling<'_>) {
        self.remove_other_spellings(request);
        for name in &self.remove {
            request.remove_header(name);
        }
        for (name, value) in &self.set {
            match value.value(Some(values)) {
                Some(value) => _ = request.insert_header(name.clone(), value),
                None => _ = request.remove_header(name),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.value(Some(values)) {
                let _ = request.append_header(name.clone(), value);
            }
        }
    }

    /// Servers that fold names take `X_Tenant` for the `X-Tenant` that is set here: what a client says so goes, too.
    fn remove_other_spellings(&self, request: &mut RequestHeader) {
        let edited = || self.remove.iter().chain(self.set.iter().map(|(name, _)| name));
        let other = |it: &&HeaderName| edited().any(|name| name != *it && codec::fold_alike(name, it));
        let others: SmallVec<[HeaderName; 4]> = request.headers.keys().filter(other).cloned().collect();
        for name in &others {
            request.remove_header(name);
        }
    }

    /// Edits an answer's head; without values, what needs some is left out.
    pub fn on_response(&self, answer: &mut ResponseHeader, values: Option<&Filling<'_>>) {
        for name in &self.remove {
            answer.remove_header(name);
        }
        for (name, value) in &self.set {
            match value.value(values) {
                Some(value) => _ = answer.insert_header(name.clone(), value),
                None => _ = answer.remove_header(name),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.value(values) {
                let _ = answer.append_header(name.clone(), value);
            }
        }
    }
}

fn field_name(name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        diagnostics.error(at, "not a header name").help("letters, digits and dashes, such as x-api-version");
        return None;
    };
    if name.contains('*') {
        let diagnostic = diagnostics.error(at, "an asterisk stands for no other letters in a header name");
        diagnostic.help("write each field by its whole name");
        return None;
    }
    if OURS.contains(&parsed.as_str()) {
        let diagnostic = diagnostics.error(at, format!("`{parsed}` belongs to the connection or frames the message"));
        diagnostic.help(match parsed.as_str() {
            "host" => "for another host than the client's write `rewrite: { host: api.example.org }`",
            "content-length" | "transfer-encoding" | "trailer" => "leave it out: the gateway says how long the body is",
            _ => "leave it out: the gateway sets it itself on each of its connections",
        });
        return None;
    }
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Exchange, Scheme};
    use crate::routing::Params;

    fn exchange() -> Exchange {
        Exchange::new([192, 0, 2, 1].into(), Scheme::Http)
    }

    #[test]
    fn fields_of_the_framing_are_out_of_reach() {
        let config = HeaderEditsConfig { remove: vec!["Content-Length".into(), "x-a".into()], ..Default::default() };
        let mut diagnostics = Diagnostics::default();
        let edits = HeaderEdits::compile(&config, Captures::default(), &At::ROOT, &mut diagnostics);
        assert_eq!(diagnostics.iter().next().unwrap().path, "/remove/0");
        assert_eq!(edits.remove, [HeaderName::from_static("x-a")]);
    }

    #[test]
    fn a_field_that_is_set_or_removed_has_no_other_spelling() {
        let config: HeaderEditsConfig = serde_yaml::from_str("{ set: { x-tenant: a }, remove: [x-key] }").unwrap();
        let edits = HeaderEdits::compile(&config, Captures::default(), &At::ROOT, &mut Diagnostics::default());
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in ["x_tenant", "X.Tenant", "x-tenant", "x_key", "x-tenants", "x-ten-ant"] {
            request.append_header(name, "client").unwrap();
        }
        edits.on_request(&mut request, &Filling::of(&exchange(), None, "/", &Params::default()));
        let mut names: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-ten-ant", "x-tenant", "x-tenants"]);
        assert_eq!(request.headers["x-tenant"], "a");
    }

    #[test]
    fn what_the_environment_or_the_store_brings_is_sensitive_whatever_its_name() {
        let mut config: HeaderEditsConfig =
            serde_yaml::from_str("{ set: { X-Partner: hunter2, x-plain: a }, add: { x-pw: hunter2 } }").unwrap();
        let shown = serde_yaml::from_str("{ set: { X-Partner: '${P}', x-plain: a }, add: { x-pw: 'secret:p' } }");
        config.note_brought(&shown.unwrap());
        let edits = HeaderEdits::compile(&config, Captures::default(), &At::ROOT, &mut Diagnostics::default());
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        edits.on_request(&mut request, &Filling::of(&exchange(), None, "/", &Params::default()));
        let sensitive = |name: &str| request.headers[name].is_sensitive();
        assert_eq!(["x-partner", "x-pw", "x-plain"].map(sensitive), [true, true, false]);
    }

    #[test]
    fn set_replaces_and_add_keeps() {
        let config: HeaderEditsConfig = serde_yaml::from_str("{ set: { a: new }, add: { b: two } }").unwrap();
        let edits = HeaderEdits::compile(&config, Captures::default(), &At::ROOT, &mut Diagnostics::default());
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("a", "old").unwrap();
        head.insert_header("b", "one").unwrap();
        edits.on_response(&mut head, None);
        assert_eq!(head.headers["a"], "new");
        assert_eq!(head.headers.get_all("b").iter().count(), 2);
    }
}
