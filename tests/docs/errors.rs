//! The tables of docs/ERRORS.md: of refusals from the one place that words them, of all other errors from a search of the
//! source. So a code that is in neither is in no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use http::StatusCode;

/// Where the shape of all errors is written down; nobody else writes one.
const SHAPE: &str = "pipeline/error_body.rs";
/// The admin listener's way to it.
const ADMIN: &str = "admin/fault.rs";

/// An error's status and code.
type Code = (u16, String);

pub(crate) fn table() -> String {
    let mut out =
        String::from("| Status | Code | Says, for example | Suggests | `details` |\n| --- | --- | --- | --- | --- |\n");
    for code in moongate::proxy::error_codes() {
        let details: Vec<_> = code.details.iter().map(|it| format!("`{it}`")).collect();
        let details = if details.is_empty() { "null".to_owned() } else { details.join(", ") };
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {details} |",
            code.status, code.code, code.message, code.suggested_action
        )
        .unwrap();
    }
    out + "\nLocal services and the admin listener word errors of their own, in the same shape. These are all of them:\n\n"
        + &others()
}

/// What is worded elsewhere than in the list of refusals.
fn others() -> String {
    let mut out = String::from("| Status | Code | Of |\n| --- | --- | --- |\n");
    for ((status, code), rooms) in worded() {
        let rooms: Vec<_> = rooms.iter().filter(|it| *it != "proxy").map(|it| format!("`{it}`")).collect();
        if !rooms.is_empty() {
            writeln!(out, "| {status} | `{code}` | {} |", rooms.join(", ")).unwrap();
        }
    }
    out
}

/// Every error that the source words, with the rooms or services that do. Tests word none that count.
fn worded() -> BTreeMap<Code, BTreeSet<String>> {
    let mut found: BTreeMap<Code, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources() {
        for code in codes_in(&text) {
            found.entry(code).or_default().insert(room_of(&name));
        }
    }
    found
}

/// `proxy` of `proxy/reply.rs`, but `auth` of `services/auth/fault.rs`.
fn room_of(name: &str) -> String {
    let mut parts = name.split('/');
    let room = parts.next().unwrap_or_default();
    let part = if room == "services" { parts.next().unwrap_or_default() } else { room };
    part.trim_end_matches(".rs").to_owned()
}

/// Each source file below `src`, by its name there, up to its tests.
fn sources() -> Vec<(String, String)> {
    let root = super::root().join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 100, "the source was not found");
    let named = |it: PathBuf| {
        let name = it.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&it).unwrap();
        let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
        (name, text[..end].to_owned())
    };
    files.into_iter().map(named).filter(|(name, _)| !name.ends_with("tests.rs")).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|it| it == "rs") {
            files.push(entry);
        }
    }
}

/// A status with a code behind it: `StatusCode::NOT_FOUND, "route_not_found"`, on a line or on two.
fn codes_in(text: &str) -> Vec<Code> {
    let places = text.match_indices("StatusCode::").map(|(at, found)| &text[at + found.len()..]);
    places.filter_map(code_at).collect()
}

fn code_at(text: &str) -> Option<Code> {
    let end = text.find(|it: char| !it.is_ascii_uppercase() && it != '_')?;
    let literal = text[end..].strip_prefix(',')?.trim_start().strip_prefix('"')?;
    let code = literal.split('"').next()?;
    let plain = !code.is_empty() && code.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
    plain.then(|| (number(&text[..end]), code.to_owned()))
}

/// The number of a status by the name of its constant.
fn number(name: &str) -> u16 {
    let is = |status: &StatusCode| {
        let reason = status.canonical_reason().unwrap_or_default();
        reason.to_ascii_uppercase().replace([' ', '-'], "_").replace('\'', "") == name
    };
    let known = (100..600).filter_map(|it| StatusCode::from_u16(it).ok()).find(is);
    known.unwrap_or_else(|| panic!("no status is called {name}")).as_u16()
}

#[test]
fn every_error_is_worded_where_the_search_finds_it() {
    for (name, text) in sources() {
        // The shape is written in one place, which takes status and code as they are searched for.
        let shapes = text.matches("\"suggested_action\"").count();
        assert!(shapes == 0 || name == SHAPE, "{name} writes an error's shape by itself");
        let calls = ["say(", "ErrorBody::new(", "Fault::new("];
        // Elsewhere, a fault is one of a file.
        for call in &calls[..if name.starts_with("admin/") { 3 } else { 2 }] {
            for (at, _) in text.match_indices(*call).filter(|(at, _)| !text[..*at].ends_with(char::is_alphanumeric)) {
                let code =
                    code_at(text[at + call.len()..].trim_start().strip_prefix("StatusCode::").unwrap_or_default());
                let line = text[..at].lines().count();
                assert!(
                    code.is_some() || [SHAPE, ADMIN].contains(&&*name),
                    "src/{name}:{line}: status and code are not literals"
                );
            }
        }
    }
}

#[test]
fn every_refusal_is_found_by_the_search_and_a_code_has_one_status() {
    let found = worded();
    for code in moongate::proxy::error_codes() {
        let rooms = found.get(&(code.status, code.code.to_owned()));
        assert!(rooms.is_some_and(|it| it.contains("proxy")), "{} {}", code.status, code.code);
    }
    let mut statuses: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    found.keys().for_each(|(status, code)| _ = statuses.entry(code).or_default().insert(*status));
    let twice: Vec<_> = statuses.iter().filter(|it| it.1.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn a_code_is_found_on_one_line_and_on_two() {
    let text =
        "say(StatusCode::NOT_FOUND, \"gone_away\", x); say(\n    StatusCode::PAYLOAD_TOO_LARGE,\n    \"large\",\n)";
    assert_eq!(codes_in(text), [(404, "gone_away".to_owned()), (413, "large".to_owned())]);
    assert!(codes_in("StatusCode::OK; (StatusCode::OK, body) f(StatusCode::OK, \"Some text\")").is_empty());
}
