//! What of a line may be shown: the one printer of source lines.
//!
//! A line is shown as far as it is known to be harmless (see `visible.rs`). Everything else is blanked, letter by letter
//! so that columns stay what they are: values of secret fields and of unknown keys (which may be misspelt ones), what
//! variables fall back to, comments, and whatever has the shape of a key. A text that could not be read has no places;
//! those of its lines are guessed from the names above them, and nothing is shown where that fails.

use std::ops::Range;

use serde_json::Value;

use crate::base::credentials_in;

use super::spans::{Child, Span};
use super::visible::{Piece, Standing, walk};

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
            Some(root) => self.mark(root, &mut line),
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

    /// Marks what of the file's names and values stands on the line.
    fn mark(&self, root: &Child, line: &mut Line<'_>) {
        let number = line.number;
        let on = |span: &Span| (span.line..=span.end_line).contains(&number);
        let touches = |child: &Child| on(&child.span) || child.key.as_ref().is_some_and(|(_, span)| on(span));
        let long = line.text.len() > LINE_MAX;
        let mut tell = |piece: Piece<'_>| {
            // What a variable falls back to may go on in the next line.
            let over = piece.span.line < piece.span.end_line && piece.text.contains(":-");
            let shown = piece.shown && (piece.is_key || (!over && !long));
            line.mark(piece.span, if shown { Mark::Harmless } else { Mark::Hidden });
        };
        walk(root, &Standing::root(self.schema), &touches, &mut tell);
    }

    /// Marks what is known of a line in a text that could not be read: names that the schema knows at their places,
    /// and values without a secret behind them. Where a line may go on with what one above began, nothing is known.
    fn guess<'t>(&self, before: impl Iterator<Item = &'t str>, line: &mut Line<'_>) {
        let mut above = Vec::new();
        // A list may stand as deep as its name.
        let listed = line.text.trim_start().starts_with("- ");
        let mut indent = indentation(line.text) + usize::from(listed);
        for text in before {
            if listed && text.trim_start().starts_with("- ") && indentation(text) + 1 == indent {
                continue;
            }
            let blank = text.trim_start().is_empty() || text.trim_start().starts_with('#');
            if !blank && QUOTES.iter().any(|it| text.matches(*it).count() % 2 == 1) {
                return; // it may not have ended
            }
            if blank || indentation(text) >= indent {
                continue;
            }
            indent = indentation(text);
            above.push(text);
            if indent == 0 {
                break;
            }
        }
        let mut scan = Scan { place: Standing::root(self.schema), under: None, around: Vec::new() };
        for text in above.into_iter().rev() {
            let mut unmarked = Line { number: 0, text, letters: Vec::new(), marks: Vec::new() };
            if !scan.read(&mut unmarked) {
                return;
            }
        }
        scan.read(line);
    }
}

/// Reads lines that no parser could, name by name, each deeper than the one before.
struct Scan<'s> {
    /// Where names stand.
    place: Standing<'s>,
    /// Under the last name, if nothing stood there yet.
    under: Option<Standing<'s>>,
    /// What each open bracket stands in.
    around: Vec<Standing<'s>>,
}

impl Scan<'_> {
    /// Reads a line and marks it. False where nothing more is known: behind a secret, or what is none of ours.
    fn read(&mut self, line: &mut Line<'_>) -> bool {
        let text = line.text;
        if let Some(under) = self.under.take() {
            self.place = under;
        }
        let found = keys_of(text);
        let mut at = 0;
        for (number, key) in found.iter().enumerate() {
            let next = found.get(number + 1).map_or(text.len(), |it| it.start);
            let name = text[key.clone()].trim_matches(QUOTES);
            // What begins behind a name without a bracket is its value, whatever it looks like.
            let apart = number == 0 || text[at.min(key.start)..key.start].contains([',', '{', '[']);
            let begins = at <= key.start && apart && self.brackets(&text[at..key.start]) && self.under.is_none();
            let known = begins && self.place.has_name(name);
            if !known {
                line.mark_bytes(at.min(key.start)..text.len(), Mark::Hidden);
                return false;
            }
            line.mark_bytes(key.clone(), Mark::Harmless);
            let under = self.place.under(name);
            // A list of texts is as harmless as one of them.
            let listed = under.is_list() && under.element().takes("a");
            let whole = listed || under.takes_text_alone();
            let end = value_end(text, key.end + 1..next, self.around.is_empty(), whole);
            let value = text[key.end + 1..end.unwrap_or(key.end + 1)].trim();
            let due = if listed { under.element() } else { under.clone() };
            if end.is_none() || (!value.is_empty() && !due.takes(value.trim_matches(QUOTES))) {
                line.mark_bytes(key.end..text.len(), Mark::Hidden);
                return false;
            }
            let end = end.unwrap_or(key.end + 1);
            line.mark_bytes(key.end..end, Mark::Harmless);
            self.under = value.is_empty().then_some(under);
            at = end;
        }
        !found.is_empty() && self.brackets(&text[at..])
    }

    /// Follows what stands between two names; false for what has no place there.
    fn brackets(&mut self, between: &str) -> bool {
        for sign in between.chars() {
            match sign {
                '{' | '[' => {
                    let Some(under) = self.under.clone().or_else(|| self.place.is_list().then(|| self.place.element()))
                    else {
                        return false;
                    };
                    self.around.push(std::mem::replace(&mut self.place, under.clone()));
                    self.under = under.is_list().then_some(under);
                }
                '}' | ']' => match self.around.pop() {
                    Some(place) => (self.place, self.under) = (place, None),
                    None => return false,
                },
                ',' => self.under = None,
                '-' | ' ' | '"' | '\'' => {}
                _ => return false,
            }
        }
        if self.place.is_list() {
            (self.place, self.under) = (self.place.element(), None);
        }
        true
    }
}

/// Where a value ends that begins within these bytes, and stands in no bracket or in one; `None` if its quote does not
/// end. `whole`: what begins with a bracket is one value, too, a list of texts or a text that lacks its quotes.
fn value_end(text: &str, within: Range<usize>, in_block: bool, whole: bool) -> Option<usize> {
    let blank = text[within.start..].len() - text[within.start..].trim_start().len();
    let first = within.start + blank;
    let rest = text.get(first..within.end).unwrap_or_default();
    let end = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote)? + 2,
        Some('[') if whole => rest.find(']').map_or(rest.len(), |it| it + 1),
        None => 0,
        Some('{' | '[') if !whole => 0,
        Some(_) if in_block => rest.find(" #").unwrap_or(rest.len()),
        Some(_) => {
            let mut depth = 0_u32;
            let ends = |it: char| {
                depth += u32::from(it == '{');
                let closes = matches!(it, ',' | ']') || (it == '}' && depth == 0);
                depth -= u32::from(it == '}' && depth > 0);
                closes
            };
            rest.find(ends).unwrap_or(rest.len())
        }
    };
    Some((first + end).min(text.len()))
}

impl Line<'_> {
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
            let Some(close) = rest.find('}') else { break };
            let falls_back = rest[name..].starts_with(":-");
            // Anything else between the braces makes it no variable, and what begins with `${` may be a secret.
            if name == 0 || (close != name && !falls_back) {
                continue;
            }
            let shown = if falls_back { name + 2 } else { name };
            self.mark_bytes(start..at + shown, Mark::Harmless);
            if falls_back {
                self.mark_bytes(at + shown..at + close, Mark::Hidden);
            }
            self.mark_bytes(at + close..at + close + 1, Mark::Harmless);
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
        let word = line[..colon].trim_end_matches([' ', '\t']);
        let key = |it: char| it.is_ascii_alphanumeric() || "_-.".contains(it) || QUOTES.contains(&it);
        let start = word.rfind(|it| !key(it)).map_or(0, |at| at + word[at..].chars().next().map_or(1, char::len_utf8));
        if start < word.len() {
            found.push(start..word.len());
        }
    }
    found
}
