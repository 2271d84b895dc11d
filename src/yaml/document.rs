//! One YAML file: its values, with variables filled in, and the place of each.
//!
//! `serde_yaml` says what the values are; a parse with spans of the same text says where they stand.
//! Whether they have the right shape is `structure.rs`, what they mean is each room's business.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::{Mapping, Value};

use crate::base::{Diagnostic, Diagnostics, Part, Secret};

use super::environment::{Environment, as_due, fill, plain_value, without_defaults, without_variables};
use super::faults::{Fault, Faults};
use super::include::{self, Includer};
use super::secrets::{Places, Secrets, hidden_in, is_reference, mentions_secret, reference};
use super::shown::Lines;
use super::spans::{self, Child, Content, Note, Span, Spanned};
use super::structure::{self, Loaded};
use super::syntax::Failure;
use super::visible::{Hidden, Standing};

/// The largest file that is read, in bytes.
const SIZE_MAX: usize = 4 << 20;
/// Text that variables may bring in, in bytes.
const FILLED_MAX: usize = 16 << 20;
/// Diagnostics that get a place; looking up millions would take minutes.
const PLACED_MAX: usize = 10_000;
/// Shorter values from the environment are not looked for in messages: they would be found in
/// any text.
const SECRET_MIN: usize = 3;

/// A file that could be read as YAML. [`load`](Self::load) it, compile what comes out of it, and
/// [`place`](Self::place) all that was found.
pub struct Document {
    name: Arc<str>,
    text: String,
    /// The JSON Schema of what should stand in it.
    schema: serde_json::Value,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    value: Value,
    /// Nothing while the text is not read.
    root: Option<Child>,
    /// Faults of the text itself, which do not keep it from being loaded.
    notes: Vec<Note>,
    brought: Vec<Brought>,
    /// Values with a variable or secret that could not be filled in: nothing more is to be said of them.
    unfilled: HashSet<String>,
    loaded: Loaded,
    /// The files that it includes: the number of their first line among all lines, and their names.
    parts: Vec<(usize, Arc<str>)>,
}

/// What the environment or the store brought into a value.
struct Brought {
    path: String,
    /// What is shown in its place.
    shown: String,
    value: String,
}

impl Document {
    /// Reads and parses a file that should fit a JSON Schema; what cannot be read is a fault like any other.
    pub fn read(path: &Path, schema: &serde_json::Value, environment: &Environment<'_>) -> Result<Self, Faults> {
        use std::io::Read;
        let name = path.display().to_string();
        let unreadable = |error: &std::io::Error| Faults::unreadable(&name, error);
        let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
        let mut bytes = Vec::new();
        let mut bounded = file.take(SIZE_MAX as u64 + 1);
        bounded.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&name, &text, schema, environment),
            Err(error) => Err(not_utf8(&name, &error)),
        }
    }

    /// As [`read`](Self::read), with the files that it includes. Beside it those files, and the faults of those of which
    /// nothing can be made.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_whole(
        path: &Path,
        schema: &serde_json::Value,
        environment: &Environment<'_>,
    ) -> Result<(Self, Vec<PathBuf>, Faults), Faults> {
        let mut document = Self::read(path, schema, environment)?;
        let (files, faults) = Includer::new(schema, environment).complete(path, &mut document);
        Ok((document, files, faults))
    }

    /// Reads a file that another one includes.
    pub(super) fn read_part(
        path: &Path,
        schema: &serde_json::Value,
        environment: &Environment<'_>,
    ) -> std::io::Result<Result<Self, Faults>> {
        std::fs::File::open(path)?;
        Ok(Self::read(path, schema, environment))
    }

    /// The entries of its `include`.
    pub(super) fn included(&self) -> Vec<String> {
        include::entries(&self.value)
    }

    /// Reports something about a value.
    pub(super) fn complain(&mut self, path: &str, message: String, help: Option<&str>) {
        let span = self.tree().nearest(path).0.span;
        self.notes.push(Note { path: path.to_owned(), span, message, help: help.map(str::to_owned) });
    }

    /// Takes over what an included file says. Its lines stand behind those that are here.
    pub(super) fn adopt(&mut self, part: Self) {
        let shift = self.lines.len();
        let Self { name, text, lines, value, root, notes, brought, unfilled, parts, .. } = part;
        let Some(places) = root.map(|it| include::further_down(&it, shift)) else { return };
        let mut tree = self.tree().clone();
        let joined = include::join(&mut self.value, &mut tree, value, &places);
        self.root = Some(tree);
        let moved = |path: &str| include::moved(path, joined.routes);
        let down = |span: Span| Span { line: span.line + shift, end_line: span.end_line + shift, ..span };
        self.notes.extend(joined.notes);
        self.notes.extend(notes.into_iter().map(|it| Note { path: moved(&it.path), span: down(it.span), ..it }));
        self.brought.extend(brought.into_iter().map(|it| Brought { path: moved(&it.path), ..it }));
        self.unfilled.extend(unfilled.iter().map(|it| moved(it)));
        self.parts.push((shift + 1, name));
        self.parts.extend(parts.into_iter().map(|(line, name)| (line + shift, name)));
        self.text.push('\n');
        let begin = self.text.len();
        self.text.push_str(&text);
        self.lines.extend(lines.into_iter().map(|it| it + begin));
    }

    /// The file that a line is in, and its number there.
    fn home_of(&self, line: usize) -> (Arc<str>, usize) {
        match self.parts.iter().rfind(|it| it.0 <= line) {
            Some((first, name)) => (Arc::clone(name), line + 1 - first),
            None => (Arc::clone(&self.name), line),
        }
    }

    /// Parses `text`; `name` is how the file is called in faults. An error is a text that nothing
    /// can be made of; lesser faults are reported by [`load`](Self::load), together with its own.
    pub fn parse(
        name: &str,
        text: &str,
        schema: &serde_json::Value,
        environment: &Environment<'_>,
    ) -> Result<Self, Faults> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut document = Self::unread(name, text, schema);
        if text.len() > SIZE_MAX {
            let fault = Fault::new(Arc::clone(&document.name), 1, 1, "");
            return Err(Faults::new(vec![fault.saying("the file is larger than 4 MiB", None)]));
        }
        let fatal = |document: &Self, note: Note| {
            let help = note.help.clone().or_else(|| document.help_with_text(&note));
            let hidden = Hidden::default();
            Faults::new(vec![document.fault((note.span, None), &note.path, (&note.message, help.as_deref()), &hidden)])
        };
        // The limits are held by the parse with spans, so it comes first.
        let spanned = spans::parse(text).map_err(|note| fatal(&document, note))?;
        document.value = values(text).map_err(|note| fatal(&document, note))?;
        document.take_over(spanned, environment).map_err(|note| fatal(&document, note))?;
        Ok(document)
    }

    fn unread(name: &str, text: &str, schema: &serde_json::Value) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self {
            name: name.into(),
            text: text.to_owned(),
            schema: schema.clone(),
            lines,
            value: Value::Null,
            root: None,
            notes: Vec::new(),
            brought: Vec::new(),
            unfilled: HashSet::new(),
            loaded: Loaded::default(),
            parts: Vec::new(),
        }
    }

    fn take_over(&mut self, spanned: Spanned, environment: &Environment<'_>) -> Result<(), Note> {
        let root = spanned.root;
        self.root = Some(root.clone());
        self.notes = spanned.notes;
        let mut value = std::mem::take(&mut self.value);
        merge(&mut value)?;
        let mut filler = Filler { environment, brought: 0, path: String::new(), document: self };
        filler.fill(&mut value, Some(&root))?;
        self.value = value;
        Ok(())
    }

    /// Fills in the secrets of which a value says no more than the name. One that can't be had is reported
    /// by [`load`](Self::load), with its place; and so is one where no secret may stand.
    pub fn fill_secrets(&mut self, values: &Secrets<'_>) {
        if !self.text.contains("secret:") && !self.brought.iter().any(|it| it.value.contains("secret:")) {
            return;
        }
        let mut value = std::mem::take(&mut self.value);
        self.fill_secret(&mut value, &mut String::new(), values);
        self.value = value;
    }

    fn fill_secret(&mut self, value: &mut Value, path: &mut String, values: &Secrets<'_>) {
        let length = path.len();
        match value {
            Value::String(text) => match self.secret(text, path, values) {
                Some(Ok(found)) => *text = found,
                Some(Err((message, help))) => {
                    let span = self.tree().nearest(path).0.span;
                    self.unfilled.insert(path.clone());
                    self.notes.push(Note { path: path.clone(), span, message, help });
                }
                None => {}
            },
            Value::Sequence(list) => {
                for (index, element) in list.iter_mut().enumerate() {
                    path.push_str(&format!("/{index}"));
                    self.fill_secret(element, path, values);
                    path.truncate(length);
                }
            }
            Value::Mapping(map) => {
                for (key, value) in map.iter_mut() {
                    let Some(key) = key.as_str() else { continue };
                    path.push_str(&format!("/{}", spans::escape(key)));
                    self.fill_secret(value, path, values);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// What a text that names a secret stands for, or why it stands for nothing; `None` for any other text.
    fn secret(
        &mut self,
        text: &str,
        path: &str,
        values: &Secrets<'_>,
    ) -> Option<Result<String, (String, Option<String>)>> {
        if !Places::of(&self.schema).place(path).secret {
            let help = "`secret:NAME` may stand where a credential is due: in fields for secrets, and in the values of \
                        header fields";
            return is_reference(text).then(|| Err(("no secret can stand here".to_owned(), Some(help.to_owned()))));
        }
        let Some(named) = reference(text) else {
            let help = "`secret:NAME` is the whole value, or stands behind one word and one blank, as in \
                        `Bearer secret:NAME`; keep the whole value as the secret";
            let message = "no secret can stand in the middle of a value".to_owned();
            return mentions_secret(text).then(|| Err((message, Some(help.to_owned()))));
        };
        let found = values(path, named.name).map(|found| {
            let (path, shown) = (path.to_owned(), format!("{}{}", super::MARK, named.name));
            let whole = format!("{}{found}", named.scheme);
            self.brought.push(Brought { path, shown, value: found });
            whole
        });
        Some(found)
    }

    /// Checks the structure, reports everything that is wrong with it, and makes as
    /// much of a `T` as is usable: what is at fault is left out, so that the caller's own checks
    /// can report the rest in the same run. `None` if nothing usable is left.
    ///
    /// A document with diagnostics must not take effect, whatever came out of it.
    pub fn load<T: DeserializeOwned>(&mut self, diagnostics: &mut Diagnostics) -> Option<T> {
        for (number, note) in self.notes.iter().enumerate() {
            // Their places are not those of values, so they are named by number; see `place`.
            let diagnostic = diagnostics.push(format!("@{number}"), Part::Key, note.message.clone());
            diagnostic.help.clone_from(&note.help);
        }
        let (tainted, unfilled) = (|path: &str| self.tainted(path), &self.unfilled);
        let (value, loaded) = structure::load(&self.value, &self.schema, diagnostics, &tainted, unfilled);
        self.loaded = loaded;
        value
    }

    /// The same file for the eyes of people: texts that the environment or the store brought in are as they were
    /// written, `${NAME}` and `secret:NAME`. Only for a document without faults; `None` if nothing was brought in.
    ///
    /// # Errors
    /// When it can't be read like this; then it must not be shown at all.
    pub fn as_written<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        if self.brought.is_empty() {
            return Ok(None);
        }
        let mut value = serde_json::to_value(&self.value)?;
        for Brought { path, .. } in &self.brought {
            let place = value.pointer_mut(path).filter(|it| it.is_string());
            if let (Some(place), (child, true)) = (place, self.tree().nearest(path))
                && let Content::Scalar { text, .. } = &child.node.content
                && structure::due_at(&self.schema, path).free_text
            {
                *place = serde_json::Value::String(without_defaults(text));
            }
        }
        T::deserialize(value).map(Some)
    }

    /// Gives each diagnostic its place. Diagnostics about what [`load`](Self::load) had to leave out are
    /// dropped: they follow from faults that are reported already.
    pub fn place(&self, diagnostics: &Diagnostics) -> Faults {
        if diagnostics.is_empty() {
            return Faults::default();
        }
        let (first, hidden) = (diagnostics.iter().take(PLACED_MAX), self.hidden());
        Faults::new(first.filter_map(|it| self.placed(it, &hidden)).collect())
    }

    fn hidden(&self) -> Hidden {
        Hidden::of(self.root.as_ref(), &self.schema, self.brought.iter().map(|it| it.value.as_str()))
    }

    /// Gives each warning its place.
    pub fn place_warnings(&self, diagnostics: &Diagnostics) -> Faults {
        let mut first = diagnostics.warnings().take(PLACED_MAX).peekable();
        if first.peek().is_none() {
            return Faults::default();
        }
        let hidden = self.hidden();
        Faults::new(first.filter_map(|it| self.placed(it, &hidden)).map(Fault::into_warning).collect())
    }

    fn placed(&self, diagnostic: &Diagnostic, hidden: &Hidden) -> Option<Fault> {
        let without_secrets = |path: &str, text: &str| self.without_secrets(path, text, hidden);
        if let Some(number) = diagnostic.path.strip_prefix('@') {
            let note = self.notes.get(number.parse::<usize>().ok()?)?;
            let help = note.help.as_ref().map(|it| without_secrets(&note.path, it));
            let message = without_secrets(&note.path, &note.message);
            return Some(self.fault((note.span, Some(Part::Key)), &note.path, (&message, help.as_deref()), hidden));
        }
        let path = match diagnostic.path.strip_prefix(structure::AS_WRITTEN) {
            Some(path) => path.to_owned(),
            None => self.loaded.as_written(&diagnostic.path)?,
        };
        if self.unfilled.contains(&path) {
            return None; // that nothing could be filled in is reported already
        }
        let (child, found) = self.tree().nearest(&path);
        let span = match (&child.key, diagnostic.part) {
            (Some((_, span)), Part::Key) => *span,
            (Some((_, span)), Part::Value) if !found => *span,
            _ => child.span,
        };
        let message = without_secrets(&path, &diagnostic.message);
        let help = diagnostic.help.as_ref().map(|it| without_secrets(&path, it));
        Some(self.fault((span, Some(diagnostic.part)), &path, (&message, help.as_deref()), hidden))
    }

    /// A fault at a span, of which it is known whether it is a name.
    fn fault(
        &self,
        (span, part): (Span, Option<Part>),
        path: &str,
        (message, help): (&str, Option<&str>),
        hidden: &Hidden,
    ) -> Fault {
        let line = span.line.clamp(1, self.lines.len());
        let text = self.line(line);
        let width = text.chars().count();
        let column = span.column.clamp(1, width + 1);
        let end = match span.end_line == span.line {
            true => span.end_column.min(width + 1),
            // A list or mapping over several lines: what stands on the first is enough.
            false => text.trim_end().chars().count() + 1,
        };
        let (place, shown) = (Places::of(&self.schema).place(path), hidden.path(&self.schema, path));
        let key = spans::unescape(path.rsplit('/').next().unwrap_or_default());
        let begins = text.chars().skip(column - 1).collect::<String>();
        let named = part == Some(Part::Key) && place.known && !place.secret && shown == path;
        let own = (named && begins.trim_start_matches(['"', '\'']).starts_with(&key)).then_some(span);
        let (file, local) = self.home_of(line);
        let mut fault = Fault::new(file, local, column, &self.shown(line, own));
        fault.length = end.saturating_sub(column).max(1);
        shown.clone_into(&mut fault.path);
        fault.saying(message, help)
    }

    /// A line as far as it may be shown.
    fn shown(&self, number: usize, own: Option<Span>) -> String {
        let lines = Lines { schema: &self.schema, root: self.root.as_ref() };
        let before = (1..number).rev().map(|it| self.line(it));
        lines.shown(number, self.line(number), before, own)
    }

    fn tree(&self) -> &Child {
        self.root.as_ref().expect("a document that could not be read is never returned")
    }

    /// A line by its number from 1, without its end.
    fn line(&self, number: usize) -> &str {
        let start = self.lines.get(number - 1).copied().unwrap_or(self.text.len());
        let end = self.lines.get(number).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// What to do about a text of which nothing can be made.
    fn help_with_text(&self, note: &Note) -> Option<String> {
        if note.message == spans::EMPTY {
            return Some(structure::least(&self.schema));
        }
        let shown = |number: usize| self.shown(number, None);
        let lines = self.text.lines().collect();
        let failure = Failure { lines, line: note.span.line, message: &note.message, shown: &shown };
        note.message.starts_with("not YAML").then(|| failure.help()).flatten()
    }

    /// Whether the value at `path` came from the environment.
    fn tainted(&self, path: &str) -> bool {
        self.brought.iter().any(|it| it.path == path)
    }

    /// A message must not show what the environment brought in: neither whole, nor, where it is
    /// about such a value, any word of it. The same is true of a secret that stands in the file.
    fn without_secrets(&self, path: &str, message: &str, hidden: &Hidden) -> String {
        let mut message = message.to_owned();
        for Brought { path: place, shown, value } in self.brought.iter().filter(|it| !it.value.is_empty()) {
            message = message.replace(&format!("`{value}`"), &format!("`{shown}`"));
            // Numbers and `true` are words of messages, and no secrets.
            if value.len() >= SECRET_MIN && plain_value(value).is_string() {
                message = message.replace(value, shown);
            }
            let about = path.strip_prefix(place.as_str());
            if about.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                message = Secret::from(value.clone()).out_of(&message);
            }
        }
        let message = hidden.out_of(&message);
        let standing = Standing::at(&self.schema, path);
        match &self.tree().nearest(path).0.node.content {
            // `true` is a word of messages, and no secret.
            Content::Scalar { text, plain: true } if plain_value(text).is_bool() => message,
            Content::Scalar { text, .. } if standing.known() && !standing.shows(text) => {
                // What says that a secret was meant is none of it.
                hidden_in(&message, &without_variables(text).replace(super::MARK, " "), path)
            }
            _ => message,
        }
    }
}

/// Shows the name alone: the values may be secrets.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("name", &self.name).finish_non_exhaustive()
    }
}

fn not_utf8(name: &str, error: &std::string::FromUtf8Error) -> Faults {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let good = String::from_utf8_lossy(good);
    let line_number = good.matches('\n').count() + 1;
    let line = good.rsplit('\n').next().unwrap_or_default();
    // What stands around it was not read, so it is not shown.
    let fault = Fault::new(name.into(), line_number, line.chars().count() + 1, "");
    Faults::new(vec![fault.saying("the file is not UTF-8 text", Some("save it as UTF-8"))])
}

/// Fills in variables, value and places walked side by side.
struct Filler<'a> {
    environment: &'a Environment<'a>,
    brought: usize,
    path: String,
    document: &'a mut Document,
}

impl Filler<'_> {
    fn fill(&mut self, value: &mut Value, place: Option<&Child>) -> Result<(), Note> {
        let length = self.path.len();
        match value {
            Value::String(text) => {
                if let Some(filled) = self.text(text, place)? {
                    *value = filled;
                }
            }
            Value::Sequence(list) => {
                for (index, element) in list.iter_mut().enumerate() {
                    self.path.push_str(&format!("/{index}"));
                    self.fill(element, place.and_then(|it| it.node.child(&index.to_string())))?;
                    self.path.truncate(length);
                }
            }
            Value::Mapping(map) => self.mapping(map, place)?,
            _ => {}
        }
        Ok(())
    }

    fn mapping(&mut self, map: &mut Mapping, place: Option<&Child>) -> Result<(), Note> {
        let length = self.path.len();
        // In the same order, as a rule: looking each key up would take long in a large mapping.
        let mut spanned = match place.map(|it| &it.node.content) {
            Some(Content::Map(children)) => children.iter().cycle().take(children.len() * 2),
            _ => [].iter().cycle().take(0),
        };
        for (key, value) in map.iter_mut() {
            let Some(key) = key.as_str() else { continue };
            let is_it = |it: &&Child| it.key.as_ref().is_some_and(|(name, _)| &**name == key);
            let child = match spanned.clone().next().filter(is_it) {
                Some(next) => Some(next),
                None => place.and_then(|it| it.node.child(key)),
            };
            spanned.next();
            self.path.push_str(&format!("/{}", spans::escape(key)));
            if key.contains("${") {
                self.key(child);
            }
            self.fill(value, child)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn key(&mut self, child: Option<&Child>) {
        let span = child.and_then(|it| it.key.as_ref()).map_or(Span::point(1, 1), |it| it.1);
        let message = "nothing fills in a variable in a name".to_owned();
        let help = Some("variables stand in values only; write the name itself".to_owned());
        self.document.notes.push(Note { path: self.path.clone(), span, message, help });
    }

    fn text(&mut self, text: &str, place: Option<&Child>) -> Result<Option<Value>, Note> {
        let Some(filled) = fill(text, self.environment) else {
            self.unbraced(text, place);
            return Ok(None);
        };
        let span = place.map_or(Span::point(1, 1), |it| it.span);
        for problem in filled.problems {
            let span = place.map_or(span, |it| self.inside(it, &problem.written));
            let (path, help) = (self.path.clone(), Some(problem.help));
            self.document.unfilled.insert(path.clone());
            self.document.notes.push(Note { path, span, message: problem.message, help });
        }
        self.brought += filled.text.len();
        if self.brought > FILLED_MAX {
            let message = "the environment brings in more than 16 MiB".to_owned();
            return Err(Note { path: self.path.clone(), span, message, help: None });
        }
        for (name, value) in filled.used {
            let shown = format!("${{{name}}}");
            self.document.brought.push(Brought { path: self.path.clone(), shown, value });
        }
        let plain = place.is_some_and(|it| matches!(it.node.content, Content::Scalar { plain: true, .. }));
        let due = structure::due_at(&self.document.schema, &self.path);
        Ok(Some(as_due(filled.text, plain, due)))
    }

    /// A value that is all `$NAME`: other programs would fill it in. It may be a secret, so it is not repeated.
    fn unbraced(&mut self, text: &str, place: Option<&Child>) {
        let is_name = |name: &str| {
            let plain = |it: u8| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_';
            name.len() > 1 && name.bytes().all(plain) && !name.starts_with(|it: char| it.is_ascii_digit())
        };
        if text.strip_prefix('$').is_some_and(is_name) {
            let span = place.map_or(Span::point(1, 1), |it| it.span);
            let message = "nothing fills in a variable without braces".to_owned();
            let help = Some("write `\"${NAME}\"`".to_owned());
            self.document.unfilled.insert(self.path.clone());
            self.document.notes.push(Note { path: self.path.clone(), span, message, help });
        }
    }

    /// The place of `written` inside a value that may span lines.
    fn inside(&self, place: &Child, written: &str) -> Span {
        let span = place.span;
        let last = span.end_line.min(self.document.lines.len());
        for number in span.line..=last {
            let line = self.document.line(number);
            let skip = if number == span.line { span.column - 1 } else { 0 };
            let start = line.char_indices().nth(skip).map_or(line.len(), |(at, _)| at);
            if let Some(at) = line[start..].find(written) {
                let column = line[..start + at].chars().count() + 1;
                let end_column = column + written.chars().count();
                return Span { line: number, column, end_line: number, end_column };
            }
        }
        span
    }
}

/// Resolves `<<`; what is merged may itself hold one.
fn merge(value: &mut Value) -> Result<(), Note> {
    let mut rounds = 0;
    while holds_merge(value) {
        rounds += 1;
        let failed = value.apply_merge().err().map(|it| it.to_string());
        if let Some(message) = failed.or_else(|| (rounds > 64).then(|| "endless `<<`".to_owned())) {
            let span = Span::point(1, 1);
            return Err(Note { path: String::new(), span, message, help: None });
        }
    }
    Ok(())
}

fn holds_merge(value: &Value) -> bool {
    match value {
        Value::Sequence(list) => list.iter().any(holds_merge),
        Value::Mapping(map) => map.contains_key("<<") || map.values().any(holds_merge),
        _ => false,
    }
}

/// The values of the first document in `text`, as `serde_yaml` reads them.
fn values(text: &str) -> Result<Value, Note> {
    let Some(first) = serde_yaml::Deserializer::from_str(text).next() else {
        return Err(spans::empty());
    };
    let Lenient(value) = Lenient::deserialize(first).map_err(|error| {
        let place = error.location().map_or((1, 1), |it| (it.line(), it.column()));
        let span = Span::point(place.0, place.1);
        let said = error.to_string();
        let said = said.split(" at line ").next().unwrap_or_default();
        // About a value that is not what its tag says, it repeats the value.
        let (said, help) = match said.contains("invalid") || said.contains('"') {
            true => ("a value is not what its tag says", Some("leave the `!!...` out".to_owned())),
            false => (said, None),
        };
        Note { path: String::new(), span, message: format!("not YAML: {said}"), help }
    })?;
    match value {
        Value::Null => Err(spans::empty()),
        value => Ok(value),
    }
}

/// A value that puts up with what the parse with spans reports by itself, with a better place:
/// a key that is there twice (the first counts), is no text, or a tag.
struct Lenient(Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Self)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, it: bool) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_i64<E: de::Error>(self, it: i64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_u64<E: de::Error>(self, it: u64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_i128<E: de::Error>(self, it: i128) -> Result<Value, E> {
        Ok((it as f64).into())
    }

    fn visit_u128<E: de::Error>(self, it: u128) -> Result<Value, E> {
        Ok((it as f64).into())
    }

    fn visit_f64<E: de::Error>(self, it: f64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_str<E: de::Error>(self, it: &str) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Lenient(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Mapping::new();
        while let Some((Lenient(key), Lenient(value))) = access.next_entry()? {
            let key = match key {
                Value::String(text) => text,
                Value::Bool(it) => it.to_string(),
                Value::Number(it) => it.to_string(),
                Value::Null => "null".to_owned(),
                _ => continue,
            };
            map.entry(Value::String(key)).or_insert(value);
        }
        Ok(Value::Mapping(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (_, content): (String, _) = access.variant()?;
        content.newtype_variant().map(|Lenient(value)| value)
    }
}
