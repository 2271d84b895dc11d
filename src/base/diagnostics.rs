//! What is wrong with a document, and where.
//!
//! Rooms compile their own section and report into one [`Diagnostics`]; the config room, which alone
//! knows files, turns each path into a line and a column.

use std::fmt;

/// A place in a document, written as the way to it from the root. Costs nothing until a diagnostic
/// is made: compile functions pass it down by reference.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The document itself.
    pub const ROOT: At<'static> = At { parent: None, step: Step::Root };

    /// The value under `key`.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b>
    where
        'a: 'b,
    {
        At { parent: Some(self), step: Step::Key(key) }
    }

    /// The element number `index`, from 0.
    pub fn index<'b>(&'b self, index: usize) -> At<'b>
    where
        'a: 'b,
    {
        At { parent: Some(self), step: Step::Index(index) }
    }
}

/// As a JSON pointer (RFC 6901): `/routes/3/match/path`.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => write!(f, "/{}", key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => write!(f, "/{index}"),
        }
    }
}

/// Which part of a mapping's entry a diagnostic points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The name: it is not known, or it is there twice.
    Key,
    /// What stands under the name.
    Value,
}

/// One fault, as a room sees it: without file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// JSON pointer of the value at fault.
    pub path: String,
    /// Whether the name or the value is at fault.
    pub part: Part,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it, if there is more to say.
    pub help: Option<String>,
}

/// All faults of a document; a document with any does not compile. And what it may say, but probably should not.
#[derive(Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Whether anything at `at`, or in it, was found to be wrong: what follows from it alone would be no fault of its own.
    pub fn touch(&self, at: &At<'_>) -> bool {
        let place = at.to_string();
        let inside = |path: &str| path.strip_prefix(&place).is_some_and(|it| it.is_empty() || it.starts_with('/'));
        self.iter().any(|it| inside(&it.path))
    }

    /// Reports that the value at `at` is wrong. Returns the diagnostic, so that help can be added.
    pub fn error(&mut self, at: &At<'_>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(at.to_string(), Part::Value, message.into())
    }

    /// Reports that the name at `at` is wrong.
    pub fn error_at_key(&mut self, at: &At<'_>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(at.to_string(), Part::Key, message.into())
    }

    /// Reports that the name or value at a JSON pointer is wrong.
    pub fn push(&mut self, path: String, part: Part, message: String) -> &mut Diagnostic {
        self.list.push(Diagnostic { path, part, message, help: None });
        self.list.last_mut().expect("it was pushed just now")
    }

    /// Warns of the value at `at`: it works, and is dangerous or of no use. Returns the diagnostic, so that help can
    /// be added.
    pub fn warn(&mut self, at: &At<'_>, message: impl Into<String>) -> &mut Diagnostic {
        let (path, message) = (at.to_string(), message.into());
        self.warnings.push(Diagnostic { path, part: Part::Value, message, help: None });
        self.warnings.last_mut().expect("it was pushed just now")
    }

    /// The warnings, in the order of their report.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.warnings.iter()
    }

    /// Whether no fault was found; warnings are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The faults, in the order of their report.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }
}

impl Diagnostic {
    /// Says what to do about it.
    pub fn help(&mut self, help: impl Into<String>) {
        self.help = Some(help.into());
    }

    /// Suggests the known name that `word` was probably meant to be, else lists those that exist.
    pub fn suggest<'n>(&mut self, word: &str, known: impl IntoIterator<Item = &'n str>) {
        let known: Vec<&str> = known.into_iter().collect();
        match nearest(word, known.iter().copied()) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None if known.is_empty() => {}
            None => self.help(format!("known here: {}", known.join(", "))),
        }
    }
}

/// The name most like `word`, if any is near enough to be worth a suggestion.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let near = |name: &&str| strsim::damerau_levenshtein(word, name);
    let limit = (word.chars().count() / 3).max(1);
    names.into_iter().min_by_key(near).filter(|name| near(name) <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_json_pointer() {
        let routes = At::ROOT.key("routes");
        let third = routes.index(3);
        let key = third.key("a/b~c");
        assert_eq!(key.to_string(), "/routes/3/a~1b~0c");
        assert_eq!(At::ROOT.to_string(), "");
    }

    #[test]
    fn a_typo_gets_a_suggestion_and_a_stranger_gets_the_list() {
        assert_eq!(nearest("upstraem", ["upstream", "routes"]), Some("upstream"));
        assert_eq!(nearest("zebra", ["upstream", "routes"]), None);
        let mut diagnostics = Diagnostics::default();
        diagnostics.error(&At::ROOT.key("x"), "unknown").suggest("zebra", ["a", "b"]);
        assert_eq!(diagnostics.iter().next().unwrap().help.as_deref(), Some("known here: a, b"));
    }
}
