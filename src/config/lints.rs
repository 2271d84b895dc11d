//! What works, and is not how APIs are written here (R2.1): public paths without a version, or with verbs. Warnings, and
//! `lint: false` silences them.

use crate::base::{At, Diagnostics};
use crate::config::routes_file::{RouteConfig, RoutesFile};

/// What a method says already.
const VERBS: [&str; 14] = [
    "get", "fetch", "create", "add", "insert", "update", "edit", "modify", "delete", "remove", "destroy", "save", "do",
    "list",
];

/// Warns of paths below `/api` of routes that forward.
pub(super) fn warn(file: &RoutesFile, diagnostics: &mut Diagnostics) {
    let at = At::ROOT.key("routes");
    for (number, route) in file.routes.iter().enumerate().filter(|(_, it)| it.forwards() && wanted(file, it)) {
        let (of_route, written) = (at.index(number), &route.r#match);
        let of_match = of_route.key("match");
        look_at(&written.path, &route.name, &of_match.key("path"), diagnostics);
        let several = of_match.key("paths");
        for (number, path) in written.paths.iter().enumerate() {
            look_at(path, &route.name, &several.index(number), diagnostics);
        }
    }
}

fn look_at(path: &str, route: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let segments: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    let ["api", rest @ ..] = &segments[..] else { return };
    match rest {
        [first, ..] if first.starts_with("{*") => return, // all versions there are
        [first, ..] if !is_version(first) => {
            diagnostics.warn(at, format!("the path of route `{route}` has no version")).help(
                "write `/api/v1/…`, so that a later one can stand beside it; `lint: false` at the route silences this",
            );
        }
        _ => {}
    }
    for segment in rest.iter().filter(|it| !it.starts_with('{')) {
        if let Some(verb) = verb(segment) {
            diagnostics.warn(at, format!("`{segment}` says `{verb}`, as a method does")).help(
                "name the thing alone, and let the method say what is done: `GET /api/v1/players`; `lint: false` at the \
                 route silences this",
            );
        } else if segment.bytes().any(|it| it.is_ascii_uppercase()) {
            diagnostics.warn(at, format!("`{segment}` has capital letters")).help(
                "paths differ by them, and people do not: write it small; `lint: false` at the route silences this",
            );
        }
    }
}

/// Whether the route's own word, or the last one of its policies, or that of `defaults`, is not against it.
fn wanted(file: &RoutesFile, route: &RouteConfig) -> bool {
    let policies = route.r#use.iter().rev().filter_map(|it| file.policies.get(it));
    let words = [&route.settings].into_iter().chain(policies).chain([&file.defaults]);
    words.into_iter().find_map(|it| it.lint).unwrap_or(true)
}

fn is_version(segment: &str) -> bool {
    let number = segment.strip_prefix('v').unwrap_or_default();
    segment.starts_with('{') || (!number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
}

/// The verb that a segment is, or begins with: `get`, `getPlayers`, `get-players`.
fn verb(segment: &str) -> Option<&'static str> {
    let behind = |verb: &str| segment.strip_prefix(verb);
    VERBS.into_iter().find(|verb| {
        behind(verb).is_some_and(|it| match it.bytes().next() {
            None => *verb != "list",
            Some(next) => next.is_ascii_uppercase() || next == b'-' || next == b'_',
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_words_of_their_own() {
        for (segment, wanted) in [
            ("getPlayers", Some("get")),
            ("delete-player", Some("delete")),
            ("create", Some("create")),
            ("list_all", Some("list")),
            ("list", None),
            ("addresses", None),
            ("settings", None),
            ("updates", None),
            ("documents", None),
        ] {
            assert_eq!(verb(segment), wanted, "{segment}");
        }
        assert!(
            is_version("v1")
                && is_version("v12")
                && is_version("{version}")
                && !is_version("vocabulary")
                && !is_version("v")
        );
    }
}
