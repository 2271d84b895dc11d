//! Values that are filled into header fields and places: a closed list. What a client says of itself is among them, so each
//! place says how it is written there.

use crate::base::{At, Diagnostics};

use super::foreign::{placeholder, unfilled};
use super::pattern::ANYTHING;

/// Something that is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `{client_ip}`: the client's address, as far as trusted proxies report it.
    ClientIp,
    /// `{request_id}`.
    RequestId,
    /// `{principal.sub}`: who the request acts for; nothing if nobody.
    PrincipalSub,
    /// `{host}`: the host that the client named, in small letters and without its port.
    Host,
    /// `{scheme}`: `http` or `https`, as the client came.
    Scheme,
    /// `{path.NAME}`: what the path captured, and which of its captures that is.
    Path(String, usize),
    /// `{host.NAME}`: the label of the host that was captured.
    HostLabel(String),
}

/// Where values are taken from.
pub trait Values {
    /// Appends a value; nothing where there is none.
    fn fill(&self, value: &Value, out: &mut String);
}

/// The list, as people write it.
pub(super) const LIST: &str =
    "`{client_ip}`, `{request_id}`, `{principal.sub}`, `{path.NAME}`, `{host}`, `{host.NAME}` and `{scheme}`";

/// What a route captures, for those who refer to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Captures<'a> {
    /// Of the path.
    pub path: &'a [String],
    /// Of the host.
    pub host: &'a [String],
    /// There is no route yet: whatever one may capture is meant.
    pub any: bool,
}

impl Value {
    /// The value of a word in braces; `None` if it is not on the list.
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "client_ip" => Self::ClientIp,
            "request_id" => Self::RequestId,
            "principal.sub" => Self::PrincipalSub,
            "host" => Self::Host,
            "scheme" => Self::Scheme,
            _ => match word.split_once('.')? {
                ("path", name) if !name.is_empty() => Self::Path(name.to_owned(), 0),
                ("host", name) if !name.is_empty() => Self::HostLabel(name.to_owned()),
                _ => return None,
            },
        })
    }

    /// With the number of the capture.
    fn resolved(self, captures: Captures<'_>) -> Self {
        match self {
            Self::Path(name, _) => {
                let index = captures.path.iter().position(|it| *it == name).unwrap_or_default();
                Self::Path(name, index)
            }
            other => other,
        }
    }

    /// Reports a capture that there is not.
    pub(super) fn check(&self, captures: Captures<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let (kind, name, names, place) = match self {
            Self::Path(name, _) => ("path", name, captures.path, "match.path"),
            Self::HostLabel(name) => ("host", name, captures.host, "match.hosts"),
            _ => return,
        };
        if captures.any || names.iter().any(|it| it == name || it == ANYTHING) {
            return;
        }
        let diagnostic = diagnostics.error(at, format!("the {kind} captures no `{name}`"));
        match names {
            [] => diagnostic.help(format!("write `{{{name}}}` in `{place}`")),
            names => diagnostic.suggest(name, names.iter().map(String::as_str)),
        }
    }
}

/// A text with places for values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueTemplate {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Value),
}

impl ValueTemplate {
    /// `None` if nothing is filled in. Reports what is in braces and not on the list, and what other gateways would fill
    /// in; braces around anything but a word are just braces.
    pub fn compile(text: &str, captures: Captures<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(theirs) = placeholder(rest) {
            let word = &theirs[1..theirs.len() - 1];
            let place = rest.find(theirs)?;
            let Some(value) = Value::named(word) else {
                let diagnostic = diagnostics.error(at, format!("nothing fills in `{theirs}`"));
                diagnostic.help(match captures.path.iter().any(|it| it == word) {
                    true => format!("write `{{path.{word}}}`"),
                    false => format!("{LIST} are filled in; braces around anything else are a mistake"),
                });
                return None;
            };
            value.check(captures, at, diagnostics);
            let value = value.resolved(captures);
            pieces.push(Piece::Text(rest[..place].to_owned()));
            pieces.push(Piece::Value(value));
            rest = &rest[place + theirs.len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|it| *it != Piece::Text(String::new()));
        let texts = pieces.iter().filter_map(|it| if let Piece::Text(text) = it { Some(text) } else { None });
        if let Some(theirs) = texts.clone().find_map(|it| unfilled(it)) {
            let diagnostic = diagnostics.error(at, format!("nothing fills in `{theirs}`"));
            diagnostic.help(instead_of(theirs));
            return None;
        }
        pieces.iter().any(|it| matches!(it, Piece::Value(_))).then_some(Self { pieces })
    }

    /// The text with its values.
    pub fn expand(&self, values: &impl Values) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(value) => values.fill(value, &mut out),
            }
        }
        out
    }

    /// Whether it says something of the request that an answer does not know any more: its path or its host.
    pub fn needs_target(&self) -> bool {
        let of_target = |it: &Piece| matches!(it, Piece::Value(Value::Path(..) | Value::Host | Value::HostLabel(_)));
        self.pieces.iter().any(of_target)
    }
}

/// What is written here for what other gateways fill in.
fn instead_of(variable: &str) -> String {
    let ours = match variable.trim_start_matches('$') {
        "remote_addr" | "realip_remote_addr" => "{client_ip}",
        "proxy_add_x_forwarded_for" => {
            return "leave it out: upstreams get the client's address in `X-Forwarded-For`".to_owned();
        }
        "host" | "http_host" | "hostname" | "server_name" => "{host}",
        "scheme" => "{scheme}",
        "request_id" => "{request_id}",
        "remote_user" => "{principal.sub}",
        _ => return format!("{LIST} are filled in"),
    };
    format!("write `{ours}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words;

    impl Values for Words {
        fn fill(&self, value: &Value, out: &mut String) {
            out.push_str(&format!("<{value:?}>"));
        }
    }

    fn compiled(text: &str) -> (Option<ValueTemplate>, Vec<String>) {
        let (path, host) = (["id".to_owned()], ["tenant".to_owned()]);
        let captures = Captures { path: &path, host: &host, any: false };
        let mut diagnostics = Diagnostics::default();
        let template = ValueTemplate::compile(text, captures, &At::ROOT, &mut diagnostics);
        let said = |it: &crate::base::Diagnostic| format!("{}: {}", it.message, it.help.as_deref().unwrap_or_default());
        (template, diagnostics.iter().map(said).collect())
    }

    #[test]
    fn the_list_is_filled_in_and_braces_alone_are_just_braces() {
        let expanded = |text: &str| compiled(text).0.map(|it| it.expand(&Words));
        assert_eq!(expanded("for={client_ip};proto={scheme}").as_deref(), Some("for=<ClientIp>;proto=<Scheme>"));
        assert_eq!(expanded("{path.id}/{host.tenant}").as_deref(), Some("<Path(\"id\", 0)>/<HostLabel(\"tenant\")>"));
        for plain in ["{\"a\": 1}", "{}", "{ x }", "a", "costs $5"] {
            assert_eq!(compiled(plain), (None, Vec::new()), "{plain}");
        }
    }

    #[test]
    fn anything_else_in_braces_is_a_fault() {
        for (text, expected) in [
            ("{id}", "nothing fills in `{id}`: write `{path.id}`"),
            ("{user}", "nothing fills in `{user}`"),
            ("{path.di}", "the path captures no `di`"),
            ("{host.tenat}", "the host captures no `tenat`"),
            ("$remote_addr", "nothing fills in `$remote_addr`: write `{client_ip}`"),
            ("{client_ip} $host", "nothing fills in `$host`: write `{host}`"),
        ] {
            let (template, faults) = compiled(text);
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{text}: {faults:?} {template:?}");
        }
    }
}
