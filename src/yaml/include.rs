//! Further files that one file includes: read, and put into its place as if all of it stood there.
//!
//! Each line of each file has a number of its own among the lines of all of them, so that everything that is found has one
//! place; which file that is in shows when a fault is told.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::document::Document;
use super::environment::Environment;
use super::faults::Faults;
use super::spans::{self, Child, Content, Note, Span, escape};

/// The most files in all.
const FILES_MAX: usize = 256;
/// Files within one another.
const DEPTH_MAX: usize = 8;
/// What may stand in an included file; lists are appended, and mappings joined.
const SHARED: [&str; 3] = ["policies", "upstreams", "routes"];

/// Reads what a document includes, and what that includes.
pub(super) struct Includer<'a> {
    schema: &'a serde_json::Value,
    environment: &'a Environment<'a>,
    /// The files on the way to the one that is being read.
    chain: Vec<PathBuf>,
    /// All that were read.
    seen: Vec<PathBuf>,
    /// What can't be read at all, with its own places.
    faults: Faults,
}

impl<'a> Includer<'a> {
    pub(super) fn new(schema: &'a serde_json::Value, environment: &'a Environment<'a>) -> Self {
        Self { schema, environment, chain: Vec::new(), seen: Vec::new(), faults: Faults::default() }
    }

    /// Puts what the file at `path` includes into it. The files that were read, and what could not be.
    pub(super) fn complete(mut self, path: &Path, document: &mut Document) -> (Vec<PathBuf>, Faults) {
        let own = canonical(path);
        self.seen.push(own.clone());
        self.chain.push(own);
        self.include(path, document);
        self.seen.remove(0);
        (self.seen, self.faults)
    }

    fn include(&mut self, path: &Path, document: &mut Document) {
        let folder = path.parent().unwrap_or(Path::new(""));
        for (number, text) in document.included().into_iter().enumerate() {
            let entry = format!("/include/{number}");
            match files_of(folder, &text) {
                Ok(files) => files.iter().for_each(|file| self.one(file, &entry, document)),
                Err(message) => document.complain(&entry, message, Some("name a file, or `folder/*.yaml`")),
            }
        }
    }

    fn one(&mut self, file: &Path, entry: &str, document: &mut Document) {
        let name = file.display();
        let own = canonical(file);
        if self.chain.contains(&own) {
            let help = "take it out: files include one another in a circle";
            return document.complain(entry, format!("`{name}` includes this file, or is it"), Some(help));
        }
        if self.seen.contains(&own) {
            return document.complain(entry, format!("`{name}` is included twice"), Some("take one of them out"));
        }
        if self.chain.len() > DEPTH_MAX || self.seen.len() > FILES_MAX {
            let message = format!("more than {FILES_MAX} files, or more than {DEPTH_MAX} within one another");
            return document.complain(entry, message, None);
        }
        let mut part = match Document::read_part(file, self.schema, self.environment) {
            Ok(Ok(part)) => part,
            Ok(Err(faults)) => {
                self.seen.push(own);
                return self.faults.extend(faults);
            }
            Err(error) => {
                let help = "the path is relative to the folder of the file that names it";
                return document.complain(entry, format!("`{name}` can't be read: {error}"), Some(help));
            }
        };
        self.seen.push(own.clone());
        self.chain.push(own);
        self.include(file, &mut part);
        self.chain.pop();
        document.adopt(part);
    }
}

/// Links are followed: a file that is reached in two ways is one.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The files that an entry names, in alphabetical order: one, or those of a folder whose names fit a `*`.
fn files_of(folder: &Path, text: &str) -> Result<Vec<PathBuf>, String> {
    let path = folder.join(text);
    let Some(pattern) = path.file_name().and_then(|it| it.to_str()).filter(|it| it.contains('*')) else {
        return if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(vec![path]) };
    };
    let Some((before, after)) = pattern.split_once('*').filter(|it| !it.1.contains('*')) else {
        return Err(format!("`{pattern}` has more than one `*`"));
    };
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let entries = std::fs::read_dir(&folder).map_err(|it| format!("`{}` can't be read: {it}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|it| it.ok()?.file_name().into_string().ok())
        .filter(|it| !it.starts_with('.') && it.len() >= before.len() + after.len())
        .filter(|it| it.starts_with(before) && it.ends_with(after))
        .map(|it| folder.join(it))
        .collect();
    files.sort();
    Ok(files)
}

/// What an included file brings, and what is wrong with how it does.
pub(super) struct Adoption {
    pub(super) notes: Vec<Note>,
    /// How many routes there were before.
    pub(super) routes: usize,
}

/// Joins the values and places of an included file with those of the file that includes it.
pub(super) fn join(value: &mut Value, root: &mut Child, part: Value, places: &Child) -> Adoption {
    let mut adoption = Adoption { notes: Vec::new(), routes: length(value, "routes") };
    let (Value::Mapping(whole), Value::Mapping(part)) = (value, part) else { return adoption };
    for (key, more) in part {
        let Some(key) = key.as_str().map(str::to_owned) else { continue };
        let Some(place) = places.node.child(&key) else { continue };
        match (key.as_str(), more) {
            ("version" | "include", _) => {}
            (key, more) if SHARED.contains(&key) => join_section(key, (whole, root), (more, place), &mut adoption),
            (key, _) => {
                let message = format!("`{key}` can't stand in an included file");
                let help = format!(
                    "move it to the file that is named to the gateway; here there may be `{}`",
                    SHARED.join("`, `")
                );
                adoption.notes.push(note(&format!("/{}", escape(key)), place, message, help));
            }
        }
    }
    adoption
}

fn length(value: &Value, key: &str) -> usize {
    value.get(key).and_then(Value::as_sequence).map_or(0, Vec::len)
}

fn join_section(
    key: &str,
    (whole, root): (&mut Mapping, &mut Child),
    (more, place): (Value, &Child),
    adoption: &mut Adoption,
) {
    match (whole.get_mut(key), more) {
        (None | Some(Value::Null), more) => {
            whole.insert(key.into(), more);
            spans::put(root, place.clone());
        }
        (Some(Value::Sequence(list)), Value::Sequence(more)) => {
            list.extend(more);
            spans::append(root, key, place);
        }
        (Some(Value::Mapping(map)), Value::Mapping(more)) => {
            let mut fresh = Vec::new();
            for (name, value) in more {
                let child = name.as_str().and_then(|it| place.node.child(it));
                match (map.contains_key(&name), child) {
                    (true, Some(child)) => adoption.notes.push(twice(key, &name, child)),
                    (_, child) => {
                        fresh.extend(child.cloned());
                        map.insert(name, value);
                    }
                }
            }
            spans::append_children(root, key, fresh);
        }
        _ => {
            let message = format!("`{key}` is no list or mapping as in the other file");
            adoption.notes.push(note(&format!("/{key}"), place, message, "write it as there".to_owned()));
        }
    }
}

fn twice(section: &str, name: &Value, child: &Child) -> Note {
    let name = name.as_str().unwrap_or_default();
    let kind = if section == "upstreams" { "upstreams" } else { "policies" };
    let message = format!("two {kind} are called `{name}`");
    note(
        &format!("/{section}/{}", escape(name)),
        child,
        message,
        "another file has the first one: rename one of them".to_owned(),
    )
}

fn note(path: &str, child: &Child, message: String, help: String) -> Note {
    let span: Span = child.key.as_ref().map_or(child.span, |it| it.1);
    Note { path: path.to_owned(), span, message, help: Some(help) }
}

/// Where a path of an included file is in the whole.
pub(super) fn moved(path: &str, routes: usize) -> String {
    let Some(rest) = path.strip_prefix("/routes/") else { return path.to_owned() };
    let (number, rest) = rest.split_once('/').map_or((rest, None), |(number, rest)| (number, Some(rest)));
    match (number.parse::<usize>(), rest) {
        (Ok(number), Some(rest)) => format!("/routes/{}/{rest}", number + routes),
        (Ok(number), None) => format!("/routes/{}", number + routes),
        _ => path.to_owned(),
    }
}

/// Whether a place is a list of names: what an include is to be.
pub(super) fn entries(value: &Value) -> Vec<String> {
    let list = value.get("include").and_then(Value::as_sequence);
    list.map(|it| it.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect()).unwrap_or_default()
}

/// All places of a file, so many lines further down.
pub(super) fn further_down(child: &Child, lines: usize) -> Child {
    let span = |it: Span| Span { line: it.line + lines, end_line: it.end_line + lines, ..it };
    let content = match &child.node.content {
        Content::Scalar { text, plain } => Content::Scalar { text: text.clone(), plain: *plain },
        Content::List(list) => Content::List(list.iter().map(|it| further_down(it, lines)).collect()),
        Content::Map(map) => Content::Map(map.iter().map(|it| further_down(it, lines)).collect()),
    };
    let key = child.key.as_ref().map(|(name, at)| (name.clone(), span(*at)));
    Child { key, span: span(child.span), node: child.node.with(content) }
}
