//! A parse with spans: which line and column each key and value of a YAML text stands at.
//!
//! Also holds the limits, before anything is expanded: size, depth, aliases. The values themselves
//! come from `serde_yaml`; see `document.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::environment::plain_value;

/// Values that a file may hold, with every alias written out.
const NODES_MAX: u64 = 1_000_000;
/// Text that a file may hold, with every alias written out, in bytes.
const TEXT_MAX: u64 = 32 << 20;
/// Lists and mappings within each other.
const DEPTH_MAX: usize = 64;
/// The longest key, in bytes: keys are part of every path.
const KEY_MAX: usize = 1024;

/// From here to there, counted from 1, columns in characters; the end is just behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) end_line: usize,
    pub(super) end_column: usize,
}

impl Span {
    fn between(start: Marker, end: Marker) -> Self {
        let (line, column) = (start.line().max(1), start.col() + 1);
        Self { line, column, end_line: end.line().max(1), end_column: end.col() + 1 }
    }

    /// One character at a place.
    pub(super) fn point(line: usize, column: usize) -> Self {
        let (line, column) = (line.max(1), column.max(1));
        Self { line, column, end_line: line, end_column: column + 1 }
    }

    fn is_empty(&self) -> bool {
        (self.line, self.column) >= (self.end_line, self.end_column)
    }
}

/// A value and its places; what an alias stands for is shared.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) content: Content,
    nodes: u64,
    bytes: u64,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar { text: String, plain: bool },
    List(Vec<Child>),
    Map(Vec<Child>),
}

/// A value where it is used.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) key: Option<(Arc<str>, Span)>,
    pub(super) span: Span,
    pub(super) node: Arc<Node>,
}

/// Something wrong that the parse found.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// A whole text with its spans.
#[derive(Debug)]
pub(super) struct Spanned {
    pub(super) root: Child,
    /// Faults that do not keep the rest from being read.
    pub(super) notes: Vec<Note>,
}

impl Child {
    /// The child that a JSON pointer names, or the nearest known one on the way to it.
    pub(super) fn nearest(&self, pointer: &str) -> (&Self, bool) {
        let mut here = self;
        for token in pointer.split('/').skip(1) {
            match here.node.child(&unescape(token)) {
                Some(child) => here = child,
                None => return (here, false),
            }
        }
        (here, true)
    }
}

impl Node {
    /// The same value with other places.
    pub(super) fn with(&self, content: Content) -> Arc<Self> {
        Arc::new(Self { content, nodes: self.nodes, bytes: self.bytes, depth: self.depth })
    }

    pub(super) fn child(&self, token: &str) -> Option<&Child> {
        match &self.content {
            Content::Scalar { .. } => None,
            Content::List(list) => list.get(token.parse::<usize>().ok()?),
            Content::Map(map) => map.iter().find(|it| it.key.as_ref().is_some_and(|(key, _)| &**key == token)),
        }
    }
}

/// Puts a child with a key of its own into a mapping, in place of one that has it.
pub(super) fn put(root: &mut Child, child: Child) {
    let Content::Map(children) = &root.node.content else { return };
    let name = child.key.as_ref().map(|it| it.0.clone());
    let other = |it: &&Child| it.key.as_ref().map(|it| &it.0) != name.as_ref();
    let children = children.iter().filter(other).cloned().chain([child.clone()]).collect();
    root.node = root.node.with(Content::Map(children));
}

/// Appends the children of a list to those of the list that the mapping has under this key.
pub(super) fn append(root: &mut Child, key: &str, more: &Child) {
    if let Content::List(more) = &more.node.content {
        append_children(root, key, more.clone());
    }
}

/// Appends children to those that the mapping has under this key.
pub(super) fn append_children(root: &mut Child, key: &str, more: Vec<Child>) {
    let Some(section) = root.node.child(key) else { return };
    let content = match &section.node.content {
        Content::List(list) => Content::List(list.iter().cloned().chain(more).collect()),
        Content::Map(map) => Content::Map(map.iter().cloned().chain(more).collect()),
        Content::Scalar { .. } => return,
    };
    let section = Child { node: section.node.with(content), ..section.clone() };
    let Content::Map(children) = &root.node.content else { return };
    let is_it = |it: &Child| it.key.as_ref().is_some_and(|(name, _)| &**name == key);
    let children = children.iter().map(|it| if is_it(it) { section.clone() } else { it.clone() }).collect();
    root.node = root.node.with(Content::Map(children));
}

/// One step of a JSON pointer, as written in it.
pub(super) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// One step of a JSON pointer, as the key that it means.
pub(super) fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn is_status(text: &str) -> bool {
    matches!(text.as_bytes(), [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'])
}

/// Parses the only document of `text`. An error is one that nothing can be read beyond.
pub(super) fn parse(text: &str) -> Result<Spanned, Note> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let place = Span::point(error.marker().line(), error.marker().col() + 1);
            match error.info() {
                // The scanner reads ahead, and gives up by itself.
                "recursion limit exceeded" => builder.too_deep(place),
                info => builder.note(place, &format!("not YAML: {info}"), None),
            }
        })?;
        builder.event(event, Span::between(span.start, span.end))?;
    }
    match builder.root {
        Some(root) => Ok(Spanned { root, notes: builder.notes }),
        None => Err(empty()),
    }
}

/// What is said about a file without content.
pub(super) const EMPTY: &str = "the file is empty";

pub(super) fn empty() -> Note {
    Note { path: String::new(), span: Span::point(1, 1), message: EMPTY.to_owned(), help: None }
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Arc<Node>>,
    root: Option<Child>,
    notes: Vec<Note>,
    documents: usize,
    /// Entries copied by `<<`, of the whole file.
    merged: u64,
}

struct Frame {
    anchor: usize,
    start: Span,
    children: Vec<Child>,
    map: Option<MapState>,
}

#[derive(Default)]
struct MapState {
    /// The key whose value comes next; `None` inside if it cannot be used as one.
    pending: Option<(Option<Arc<str>>, Span)>,
    lines: HashMap<Arc<str>, usize>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Note> {
        match event {
            Event::DocumentStart(_) => self.document(span),
            Event::Alias(id) => self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref(), span);
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let text = if span.is_empty() && plain { String::new() } else { text.into_owned() };
                let bytes = text.len() as u64;
                let content = Content::Scalar { text, plain };
                let node = Arc::new(Node { content, nodes: 1, bytes, depth: 0 });
                self.finished(anchor, span, node)
            }
            Event::SequenceStart(anchor, tag) => self.open(anchor, tag.as_deref(), span, None),
            Event::MappingStart(anchor, tag) => self.open(anchor, tag.as_deref(), span, Some(MapState::default())),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn document(&mut self, span: Span) -> Result<(), Note> {
        self.documents += 1;
        match self.documents {
            1 => Ok(()),
            _ => {
                let help = "keep one file for one document, without `---` inside";
                Err(self.note(span, "a second document begins here", Some(help)))
            }
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Note> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            return Err(self.note(span, "an alias inside of what it stands for", None));
        };
        self.finished(0, span, node)
    }

    /// Only the tags of YAML itself mean something here.
    fn tag(&mut self, tag: Option<&Tag>, span: Span) {
        if tag.is_some_and(|it| !it.is_yaml_core_schema()) {
            let note = self.note(span, "a tag has no meaning here", Some("leave the `!...` out"));
            self.notes.push(note);
        }
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, start: Span, map: Option<MapState>) -> Result<(), Note> {
        self.tag(tag, start);
        self.stack.push(Frame { anchor, start, children: Vec::new(), map });
        match self.stack.len() > DEPTH_MAX {
            true => Err(self.too_deep(start)),
            false => Ok(()),
        }
    }

    fn close(&mut self, end: Span) -> Result<(), Note> {
        let frame = self.stack.pop().expect("the parser closes only what it opened");
        let start = frame.start;
        let span = Span { end_line: end.line, end_column: end.column, ..start };
        let content = match frame.map {
            Some(_) => Content::Map(self.merge(frame.children, span)?),
            None => Content::List(frame.children),
        };
        let (Content::List(children) | Content::Map(children)) = &content else {
            return Ok(());
        };
        let (mut nodes, mut bytes, mut depth) = (1u64, 0u64, 0);
        for child in children {
            nodes = nodes.saturating_add(child.node.nodes);
            bytes = bytes.saturating_add(child.node.bytes);
            bytes = bytes.saturating_add(child.key.as_ref().map_or(0, |it| it.0.len() as u64));
            depth = depth.max(child.node.depth);
        }
        let node = Arc::new(Node { content, nodes, bytes, depth: depth + 1 });
        self.finished(frame.anchor, span, node)
    }

    /// Adds what `<<` brings, as `serde_yaml` does: own keys win, then the first mapping named.
    fn merge(&mut self, mut children: Vec<Child>, span: Span) -> Result<Vec<Child>, Note> {
        let is_merge = |it: &Child| it.key.as_ref().is_some_and(|(key, _)| &**key == "<<");
        let Some(at) = children.iter().position(is_merge) else {
            return Ok(children);
        };
        let source = children.remove(at);
        let several = match &source.node.content {
            Content::List(list) => list.iter().map(|it| Arc::clone(&it.node)).collect(),
            _ => vec![Arc::clone(&source.node)],
        };
        let mut known: HashSet<Arc<str>> =
            children.iter().filter_map(|it| Some(Arc::clone(&it.key.as_ref()?.0))).collect();
        for node in several {
            let Content::Map(entries) = &node.content else {
                let help = "write `<<: *name`, where `&name` marks a mapping";
                let message = "only a mapping can be merged into another";
                return Err(self.note(source.span, message, Some(help)));
            };
            self.merged += entries.len() as u64;
            if self.merged > NODES_MAX {
                return Err(self.too_large(span));
            }
            for entry in entries {
                if entry.key.as_ref().is_some_and(|(key, _)| known.insert(Arc::clone(key))) {
                    children.push(entry.clone());
                }
            }
        }
        Ok(children)
    }

    /// Takes in a whole value: as the root, an element, a key, or the value under the last key.
    fn finished(&mut self, anchor: usize, span: Span, node: Arc<Node>) -> Result<(), Note> {
        if node.nodes > NODES_MAX || node.bytes > TEXT_MAX {
            return Err(self.too_large(span));
        }
        if self.stack.len() + node.depth > DEPTH_MAX {
            return Err(self.too_deep(span));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(Child { key: None, span, node });
            return Ok(());
        };
        let Some(map) = &mut frame.map else {
            frame.children.push(Child { key: None, span, node });
            return Ok(());
        };
        match map.pending.take() {
            None => self.key(span, &node),
            Some((None, _)) => Ok(()),
            Some((Some(key), key_span)) => {
                // Nothing was written after the colon: the key is all there is to show.
                let span = if span.is_empty() { key_span } else { span };
                frame.children.push(Child { key: Some((key, key_span)), span, node });
                Ok(())
            }
        }
    }

    fn key(&mut self, span: Span, node: &Node) -> Result<(), Note> {
        let (text, plain) = match &node.content {
            Content::Scalar { text, plain } => (text.as_str(), *plain),
            Content::List(_) | Content::Map(_) => {
                let note = self.note(span, "a key must be a text", None);
                self.notes.push(note);
                self.pend(None, span);
                return Ok(());
            }
        };
        if text.len() > KEY_MAX {
            return Err(self.note(span, "a key of more than 1024 bytes", None));
        }
        let key: Arc<str> = text.into();
        // The status of an answer is a name here, however it is written.
        if plain && !plain_value(text).is_string() && !is_status(text) {
            let help = format!("write it in quotes: `\"{text}\"`");
            let mut note = self.note(span, "a key must be a text", Some(&help));
            note.path = format!("{}/{}", note.path, escape(text));
            self.notes.push(note);
        }
        let map = self.stack.last_mut().and_then(|it| it.map.as_mut());
        let map = map.expect("keys are only read inside a mapping");
        let twice = map.lines.get(&key).copied();
        if let Some(first) = twice {
            let help = format!("the first is on line {first}; remove one of them");
            let mut note = self.note(span, &format!("`{}` is there twice", short(text)), Some(&help));
            note.path = format!("{}/{}", note.path, escape(text));
            self.notes.push(note);
            self.pend(None, span);
        } else {
            map.lines.insert(Arc::clone(&key), span.line);
            self.pend(Some(key), span);
        }
        Ok(())
    }

    fn pend(&mut self, key: Option<Arc<str>>, span: Span) {
        if let Some(map) = self.stack.last_mut().and_then(|it| it.map.as_mut()) {
            map.pending = Some((key, span));
        }
    }

    fn too_large(&self, span: Span) -> Note {
        let message = "with its aliases written out, this is too large";
        self.note(span, message, Some("1,000,000 values and 32 MiB of text are the most"))
    }

    fn too_deep(&self, span: Span) -> Note {
        self.note(span, "lists and mappings nested more than 64 deep", None)
    }

    fn note(&self, span: Span, message: &str, help: Option<&str>) -> Note {
        let mut path = String::new();
        for frame in &self.stack {
            match &frame.map {
                None => path.push_str(&format!("/{}", frame.children.len())),
                Some(map) => {
                    if let Some((Some(key), _)) = &map.pending {
                        path.push_str(&format!("/{}", escape(key)));
                    }
                }
            }
        }
        Note { path, span, message: message.to_owned(), help: help.map(str::to_owned) }
    }
}

/// A word of the file, cut to a length that fits a message.
pub(super) fn short(word: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match word.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}...", &word[..at]),
        None => word.to_owned(),
    }
}
