//! What a route's responses depend on, made from what its path captured: `player:{path.rest}`.

use crate::base::{At, Diagnostics};
use crate::routing::Params;

/// A compiled tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// The capture of this number.
    Capture(usize),
}

impl Tag {
    /// Reports a capture that the path does not have.
    pub(super) fn compile(text: &str, captures: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                diagnostics.error(at, "a brace is not closed").help("write captures as `{path.name}`");
                return None;
            };
            pieces.push(Piece::Text(before.to_owned()));
            let name = name.strip_prefix("path.").unwrap_or(name);
            let Some(number) = captures.iter().position(|it| it == name) else {
                diagnostics
                    .error(at, format!("the path captures no `{name}`"))
                    .suggest(name, captures.iter().map(String::as_str));
                return None;
            };
            pieces.push(Piece::Capture(number));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if text.trim().is_empty() {
            diagnostics.error(at, "an empty tag").help("write what the answers depend on, such as players");
            return None;
        }
        Some(Self(pieces))
    }

    /// The tag of a request with this path.
    pub(super) fn of(&self, params: &Params, path: &str) -> String {
        let mut tag = String::new();
        for piece in &self.0 {
            tag.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Capture(number) => params.at(*number, path).unwrap_or_default(),
            });
        }
        tag
    }
}
