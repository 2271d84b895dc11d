//! Faults of a file, the way an operator and a program see them: place, message, help.
//!
//! Only shows; what is wrong is found elsewhere.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use crate::base::without_credentials;

/// More faults than this are counted, not kept: they are not read, and a hostile file must not
/// fill the memory.
const KEPT_MAX: usize = 1000;
/// The longest piece of a line that is shown, in characters.
const SOURCE_MAX: usize = 200;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file can't be used.
    Error,
    /// It can, and probably should not.
    Warning,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as the operator named it.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// JSON pointer of the value at fault.
    pub path: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line, as far as it may be shown; of a very long one, the part around the place.
    pub source: String,
    /// How many characters are at fault.
    #[serde(skip)]
    pub length: usize,
    /// How many characters of the line `source` leaves out before it begins.
    #[serde(skip)]
    skipped: usize,
}

impl Fault {
    /// A fault at a place of `line_text`, which is shown as it is; the column is counted from 1.
    pub(super) fn new(file: Arc<str>, line: usize, column: usize, line_text: &str) -> Self {
        let skipped = match line_text.chars().count() {
            short if short <= SOURCE_MAX => 0,
            _ => column.saturating_sub(SOURCE_MAX / 2),
        };
        let source = line_text.chars().skip(skipped).take(SOURCE_MAX).collect();
        let (path, message) = (String::new(), String::new());
        let severity = Severity::Error;
        Self { file, line, column, path, severity, message, help: None, source, length: 1, skipped }
    }

    /// The same as a warning.
    pub(super) fn into_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Says what is wrong and what to do. Keys and words of the file are part of messages, so
    /// nothing that could confuse a terminal or a log line is let through, nor what looks like a credential.
    pub(super) fn saying(mut self, message: &str, help: Option<&str>) -> Self {
        self.message = harmless(&without_credentials(message));
        self.help = help.map(|it| harmless(&without_credentials(it)));
        self
    }

    /// Byte range of the characters at fault inside `source`.
    fn spanned(&self) -> Range<usize> {
        let byte = |chars: usize| self.source.char_indices().nth(chars).map_or(self.source.len(), |(at, _)| at);
        let start = (self.column - 1).saturating_sub(self.skipped);
        byte(start)..byte(start.saturating_add(self.length))
    }

    fn report(&self) -> Group<'_> {
        let Range { start, end } = self.spanned();
        let mark = AnnotationKind::Primary.span(start + self.skipped..end + self.skipped);
        // What was left out of a long line is made up for, else the column would be counted wrong.
        let source = format!("{}{}", " ".repeat(self.skipped), self.source);
        let snippet = Snippet::source(source).line_start(self.line).path(&*self.file);
        let level = if self.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
        let group = level.primary_title(&self.message).element(snippet.annotation(mark));
        match &self.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter) {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
    }
    safe
}

/// All faults of one or more files, in the order of their places, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// Sorts the faults of one file by their places and drops those reported twice.
    pub(super) fn new(mut list: Vec<Fault>) -> Self {
        // Those of the file itself first, then those of each file that it includes.
        let mut files: Vec<Arc<str>> = Vec::new();
        for it in &list {
            if !files.contains(&it.file) {
                files.push(Arc::clone(&it.file));
            }
        }
        let place = |it: &Fault| (files.iter().position(|file| *file == it.file), it.line, it.column);
        list.sort_by(|a, b| (place(a), &a.message, &a.path).cmp(&(place(b), &b.message, &b.path)));
        list.dedup_by(|a, b| (place(a), &a.message) == (place(b), &b.message));
        let more = list.len().saturating_sub(KEPT_MAX);
        list.truncate(KEPT_MAX);
        Self { list, more }
    }

    /// A file that cannot be read at all.
    pub fn unreadable(file: &str, error: &io::Error) -> Self {
        let fault = Fault::new(file.into(), 1, 1, "");
        let help = match error.kind() {
            io::ErrorKind::NotFound => Some("name the files with --config (gateway.yaml) and --routes (routes.yaml)"),
            io::ErrorKind::PermissionDenied => Some("let the user read it who runs the gateway"),
            _ => None,
        };
        Self::new(vec![fault.saying(&format!("cannot be read: {error}"), help)])
    }

    /// Those of some sections, named as JSON pointers, and those of the file as a whole.
    pub fn within(mut self, sections: &[&str]) -> Self {
        self.list.retain(|it| it.path.is_empty() || sections.iter().any(|section| it.path.starts_with(section)));
        Self { list: self.list, more: 0 }
    }

    /// Adds the faults of another file.
    pub fn extend(&mut self, other: Self) {
        let room = KEPT_MAX.saturating_sub(self.list.len());
        self.more += other.more + other.list.len().saturating_sub(room);
        self.list.extend(other.list.into_iter().take(room));
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many faults there are, those that are only counted too. Warnings don't count.
    pub fn len(&self) -> usize {
        self.list.len() - self.warnings() + self.more
    }

    /// How many warnings there are.
    fn warnings(&self) -> usize {
        self.list.iter().filter(|it| it.severity == Severity::Warning).count()
    }

    /// The faults, by place.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }

    /// For people: each fault under its line, and the count at the end.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for fault in &self.list {
            text.push_str(&renderer.render(&[fault.report()]));
            text.push_str("\n\n");
        }
        text.push_str(&self.summary());
        text
    }

    /// `3 faults in routes.yaml`.
    pub fn summary(&self) -> String {
        let mut files: Vec<&str> = self.list.iter().map(|it| &*it.file).collect();
        files.dedup();
        files.sort_unstable();
        files.dedup();
        let counted = |count: usize, noun: &str| match count {
            0 => None,
            1 => Some(format!("1 {noun}")),
            _ => Some(format!("{count} {noun}s")),
        };
        let counts: Vec<String> =
            [counted(self.len(), "fault"), counted(self.warnings(), "warning")].into_iter().flatten().collect();
        match files.is_empty() {
            true => "no faults".to_owned(),
            false => format!("{} in {}", counts.join(" and "), files.join(", ")),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}

/// As a list of faults.
impl Serialize for Faults {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, column: usize, length: usize, source: &str) -> Fault {
        let mut fault = Fault::new("routes.yaml".into(), line, column, source);
        fault.length = length;
        fault.saying("unknown key `upstraem`", Some("did you mean `upstream`?"))
    }

    #[test]
    fn a_fault_is_shown_under_its_line_and_counted() {
        let faults = Faults::new(vec![fault(7, 3, 8, "  upstraem: players")]);
        let expected = "\
error: unknown key `upstraem`
 --> routes.yaml:7:3
  |
7 |   upstraem: players
  |   ^^^^^^^^
  |
  = help: did you mean `upstream`?

1 fault in routes.yaml";
        assert_eq!(faults.to_string(), expected);
    }

    #[test]
    fn a_warning_is_shown_as_one_and_is_no_fault() {
        let mut faults = Faults::new(vec![fault(7, 3, 8, "  upstraem: players").into_warning()]);
        assert_eq!(faults.len(), 0);
        let shown = faults.to_string();
        assert!(shown.starts_with("warning: unknown key") && shown.ends_with("\n1 warning in routes.yaml"), "{shown}");
        faults.extend(Faults::new(vec![fault(9, 1, 1, "b")]));
        assert_eq!((faults.len(), &*faults.summary()), (1, "1 fault and 1 warning in routes.yaml"));
    }

    #[test]
    fn faults_are_sorted_by_place_and_told_once() {
        let list = vec![fault(9, 1, 1, "b"), fault(2, 4, 1, "aaaa"), fault(9, 1, 1, "b")];
        let faults = Faults::new(list);
        let lines: Vec<usize> = faults.iter().map(|it| it.line).collect();
        assert_eq!(lines, [2, 9]);
        assert!(faults.to_string().ends_with("2 faults in routes.yaml"));
    }

    #[test]
    fn a_program_gets_the_same_as_json() {
        let json = serde_json::to_value(Faults::new(vec![fault(1, 1, 1, "x")])).unwrap();
        let expected = serde_json::json!([{
            "file": "routes.yaml", "line": 1, "column": 1, "path": "", "severity": "error",
            "message": "unknown key `upstraem`", "help": "did you mean `upstream`?", "source": "x",
        }]);
        assert_eq!(json, expected);
    }

    #[test]
    fn a_very_long_line_is_shown_around_its_fault() {
        let line = format!("{}fault{}", "ä".repeat(5000), "ö".repeat(5000));
        let fault = fault(1, 5001, 5, &line);
        assert_eq!(&fault.source[fault.spanned()], "fault");
        assert!(fault.source.chars().count() <= SOURCE_MAX);
        assert!(Faults::new(vec![fault]).to_string().contains("routes.yaml:1:5001"));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let fault = Fault::new("f".into(), 1, 1, "").saying("unknown key `\u{1b}[2J\n`", None);
        assert_eq!(fault.message, "unknown key `\\u{1b}[2J\\n`");
    }
}
