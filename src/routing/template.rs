//! Paths and addresses made from what a route captured: `/players/{rest}`.
//!
//! For rewrites and redirects. What is captured comes from the client, so a template says where it
//! may go: into the path as it is (it is normalised already), into the query with its separators
//! encoded, into the authority never.

use crate::base::{At, Diagnostics};

use super::foreign;
use super::pattern::ANYTHING;
use super::target::Target;
use super::trie::Params;
use super::values::{Captures, Value, Values};

/// A compiled template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// The capture of this number.
    Path(usize),
    /// The capture of this number, behind the question mark.
    Query(usize),
    /// A value that is none of the path's.
    Value(Value),
}

impl Template {
    /// Compiles a template over the captures of a route, [`Table::captures`](super::Table::captures).
    /// It starts with a slash, or with `http://` or `https://` and a host.
    pub fn compile(text: &str, names: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        Self::compile_with(text, Captures { path: names, host: &[], any: false }, at, diagnostics)
    }

    /// As [`compile`](Self::compile), over what the host captures, too. Beside captures, the [values](Value) are filled
    /// in; `{host}` can stand for the host, and `{scheme}` for the scheme.
    pub fn compile_with(text: &str, captures: Captures<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let names = captures.path;
        let mut pieces = Vec::new();
        if let Some(theirs) = unfilled(text, names) {
            diagnostics.error(at, format!("nothing fills in `{theirs}`")).help(ours(theirs, names));
            return Self { pieces };
        }
        let mut rest = text;
        let mut in_query = false;
        while let Some((before, after)) = rest.split_once('{') {
            in_query |= before.contains('?');
            push_text(&mut pieces, before, at, diagnostics);
            let Some((name, after)) = after.split_once('}') else {
                diagnostics.error(at, "a brace is not closed").help("write captures as `{name}`");
                return Self { pieces };
            };
            let value = Value::named(name).filter(|it| !matches!(it, Value::Path(..)));
            if let Some(value) = value.filter(|_| !names.iter().any(|it| it == name)) {
                value.check(captures, at, diagnostics);
                pieces.push(Piece::Value(value));
            } else if let Some(index) = capture(name.strip_prefix("path.").unwrap_or(name), names, at, diagnostics) {
                pieces.push(if in_query { Piece::Query(index) } else { Piece::Path(index) });
            }
            rest = after;
        }
        push_text(&mut pieces, rest, at, diagnostics);
        check_form(text, at, diagnostics);
        Self { pieces }
    }

    /// What the capture holds that it ends with, if it ends with one: of the path, and not of a query.
    pub fn tail<'p>(&self, params: &Params, path: &'p str) -> Option<&'p str> {
        match self.pieces.last()? {
            Piece::Path(index) => params.at(*index, path),
            Piece::Text(_) | Piece::Query(_) | Piece::Value(_) => None,
        }
    }

    /// Appends the template with what `path` captured. A slash is never doubled, and where a rest
    /// captured nothing because the path ended before its slash, the result ends so too:
    /// `/api/{*rest}` to `/v1/{rest}` makes `/v1` of `/api`, and `/v1/` of `/api/`.
    pub fn expand(&self, params: &Params, path: &str, out: &mut String) {
        self.expand_with(params, path, &NoValues, out);
    }

    /// As [`expand`](Self::expand), with these values.
    pub fn expand_with(&self, params: &Params, path: &str, values: &impl Values, out: &mut String) {
        let begin = out.len();
        for (place, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) if place > 0 && out[begin..].ends_with('/') => {
                    out.push_str(text.strip_prefix('/').unwrap_or(text));
                }
                Piece::Text(text) => out.push_str(text),
                Piece::Path(index) => {
                    out.push_str(params.at(*index, path).unwrap_or(""));
                    if ends_before_slash(params, *index, path) && out.len() > begin + 1 {
                        let next = self.pieces.get(place + 1);
                        trim_slash(out, next);
                    }
                }
                Piece::Value(value @ Value::Host) => values.fill(value, out),
                Piece::Value(value) => {
                    let mut text = String::new();
                    values.fill(value, &mut text);
                    encode_all(&text, out);
                }
                Piece::Query(index) => encode(params.at(*index, path).unwrap_or(""), out),
            }
        }
    }
}

/// Where there is nothing but a path.
struct NoValues;

impl Values for NoValues {
    fn fill(&self, _: &Value, _: &mut String) {}
}

/// Of what somebody else has said nothing but plain letters goes into a path or a query as it is (RFC 3986, section 2.3).
fn encode_all(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Whether the capture is empty because the path ended before the slash of its segment.
fn ends_before_slash(params: &Params, index: usize, path: &str) -> bool {
    params.range(index).is_some_and(|it| it.is_empty()) && !path.ends_with('/')
}

/// Only at the end of the path: before more text, the slash is still needed.
fn trim_slash(out: &mut String, next: Option<&Piece>) {
    let at_end = match next {
        None => true,
        Some(Piece::Text(text)) => text.starts_with('?'),
        Some(_) => false,
    };
    if at_end && out.ends_with('/') {
        out.pop();
    }
}

/// A segment may hold `&`, `+`, `=` and `;` as they are (RFC 3986, section 3.3); in a query they
/// would let the client add parameters of its own.
fn encode(captured: &str, out: &mut String) {
    for it in captured.chars() {
        match it {
            '&' => out.push_str("%26"),
            '+' => out.push_str("%2B"),
            ';' => out.push_str("%3B"),
            '=' => out.push_str("%3D"),
            it => out.push(it),
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
    if text.contains('}') {
        diagnostics.error(at, "a brace is not opened").help("write captures as `{name}`");
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn capture(name: &str, names: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<usize> {
    let found = names.iter().position(|it| it == name || it == ANYTHING);
    if found.is_none() {
        let diagnostic = diagnostics.error(at, format!("the path captures no `{name}`"));
        let plain = name.strip_prefix('*').filter(|it| names.iter().any(|name| name == it));
        match plain {
            Some(plain) => diagnostic.help(format!("write `{{{plain}}}`")),
            None if names.is_empty() => diagnostic.help(format!("name a segment of `match.path` `{{{name}}}`")),
            None => diagnostic.suggest(name, names.iter().map(String::as_str)),
        }
    }
    found
}

/// What another router would fill in: a variable, `$id` of a capture, or `:id` as a whole segment.
fn unfilled<'t>(text: &'t str, names: &[String]) -> Option<&'t str> {
    let word = |rest: &'t str| {
        let end = rest[1..].find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
        &rest[..end.map_or(rest.len(), |it| it + 1)]
    };
    let of_capture =
        |(at, _): (usize, &str)| Some(word(&text[at..])).filter(|it| names.iter().any(|name| *name == it[1..]));
    let segment = |(at, _): (usize, &str)| {
        Some(word(&text[at + 1..])).filter(|it| it[1..].starts_with(|it: char| it.is_ascii_alphabetic()))
    };
    let variable = foreign::variable(text).or_else(|| text.match_indices('$').find_map(of_capture));
    variable.or_else(|| text.match_indices("/:").find_map(segment))
}

/// What to write in its place.
fn ours(theirs: &str, names: &[String]) -> String {
    let word = theirs.trim_matches(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let numbered = word.parse::<usize>().ok().and_then(|it| names.get(it.checked_sub(1)?));
    if let Some(name) = numbered.or_else(|| names.iter().find(|it| *it == word)).filter(|it| *it != ANYTHING) {
        return format!("write `{{{name}}}`");
    }
    match word {
        "host" | "http_host" | "hostname" | "server_name" => {
            "write `{host}`; a place on the same host is written as a path alone".to_owned()
        }
        "args" | "is_args" | "query_string" => "leave it out: the query is kept".to_owned(),
        _ if names.is_empty() => {
            "name a segment of `match.path`, such as `{id}` or `{*rest}`, and write `{id}` or `{rest}`".to_owned()
        }
        _ => format!("what the path captures is written `{{{}}}`", names.join("}`, `{")),
    }
}

/// Checks what surrounds the captures: with a word and with nothing in their place.
fn check_form(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let Some(target) = target(text) else {
        diagnostics
            .error(at, "neither a path nor an address")
            .help("start with a slash, or with `https://`, a host without captures, and a slash");
        return;
    };
    let normal = |target: &str| match Target::normalise(target.as_bytes()) {
        Ok(target) if target.is_unchanged() => None,
        Ok(target) => Some(format!("it would become `{target}`")),
        Err(ambiguous) => Some(ambiguous.to_string()),
    };
    // `x` is no hex digit: an escape that a capture would complete is found, too.
    if let Some(why) = normal(&filled(target, "x")) {
        diagnostics.error(at, "the path is not in its normal form").help(why);
    } else if has_dots(&filled(target, "")) {
        diagnostics.error(at, "an empty capture would leave a dot segment").help("put no dots alone beside a capture");
    }
}

/// The part of a template from the path on.
fn target(text: &str) -> Option<&str> {
    if text.starts_with('/') {
        return Some(text);
    }
    let rest = ["https://", "http://", "{scheme}://"].iter().find_map(|it| text.strip_prefix(it))?;
    let authority = rest.split('/').next()?;
    // The client's own host, and nothing else that it says.
    let written =
        authority.strip_prefix("{host}").filter(|it| it.is_empty() || it.starts_with(':')).unwrap_or(authority);
    let plain = !authority.is_empty() && !written.contains(['{', '}', '?', '#', '@', '\\', ' ']);
    let path = &rest[authority.len()..];
    plain.then_some(if path.is_empty() { "/" } else { path })
}

fn filled(text: &str, word: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        out.push_str(word);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    out + rest
}

fn has_dots(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or(target);
    path.split('/').any(|it| it == "." || it == "..")
}
