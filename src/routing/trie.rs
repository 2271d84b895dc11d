//! A tree of path segments: how many patterns are searched at once.
//!
//! The walk tries literal, then `{name}`, then `{*rest}` at every segment and goes back when a
//! later segment or the visitor says no, so candidates are met in the order of their specificity.
//! A node is met at most once on a walk: the tree's size bounds it, whatever the path. Knows
//! nothing of routes beyond their numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::pattern::{Pattern, Segment};

/// The most captures of a pattern.
pub(super) const CAPTURES_MAX: usize = 16;

/// What a path captured, as ranges of its bytes: valid only for the path that was matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    ranges: [(u32, u32); CAPTURES_MAX],
    count: u8,
}

impl Params {
    /// The number of captures.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the path captured nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What the capture number `index` holds, of the path that was matched.
    pub fn at<'p>(&self, index: usize, path: &'p str) -> Option<&'p str> {
        path.get(self.range(index)?)
    }

    /// The same among `count` of them, of which this path captures the first ones; the others are empty.
    pub(super) fn widened(self, count: usize) -> Self {
        Self { count: count.min(CAPTURES_MAX) as u8, ..self }
    }

    /// The same, each at its place among `count` of them; those that this path does not capture are empty.
    pub(super) fn placed(&self, places: &[usize], count: usize) -> Self {
        let mut placed = Self { ranges: [(0, 0); CAPTURES_MAX], count: count.min(CAPTURES_MAX) as u8 };
        for (own, place) in places.iter().enumerate() {
            if let Some(range) = placed.ranges.get_mut(*place) {
                *range = self.ranges[own];
            }
        }
        placed
    }

    pub(super) fn range(&self, index: usize) -> Option<Range<usize>> {
        let (start, end) = *self.ranges[..self.len()].get(index)?;
        Some(start as usize..end as usize)
    }

    /// Patterns have been checked to have no more captures than fit, and a head never has 4 GiB.
    fn push(&mut self, start: usize, end: usize) {
        self.ranges[self.len()] = (start as u32, end as u32);
        self.count += 1;
    }

    fn pop(&mut self) {
        self.count -= 1;
        self.ranges[self.len()] = (0, 0);
    }
}

/// A map whose keys come from the configuration only, so that nobody can send colliding ones.
pub(super) type TextMap<V> = HashMap<Box<str>, V, BuildHasherDefault<FxHasher>>;

/// The patterns of one host.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: TextMap<usize>,
    name: Option<usize>,
    /// Routes whose pattern ends here.
    end: Vec<usize>,
    /// Routes whose pattern takes the rest from here.
    rest: Vec<usize>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Trie {
    pub(super) fn insert(&mut self, pattern: &Pattern, route: usize) {
        let mut at = 0;
        for segment in &pattern.segments {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.as_str().into()).or_insert(new),
                Segment::Name => *node.name.get_or_insert(new),
                Segment::Rest => return node.rest.push(route),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].end.push(route);
    }

    /// The lists of routes that share host and shape.
    pub(super) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Vec<usize>> {
        let lists = self.nodes.iter_mut().flat_map(|it| [&mut it.end, &mut it.rest]);
        lists.filter(|it| !it.is_empty())
    }

    /// Shows the lists of routes whose pattern matches to the visitor, most specific first, until
    /// it chooses one. Returns its choice with the captures. The path must start with a slash.
    pub(super) fn walk(&self, path: &str, visit: Visit<'_>) -> Option<(usize, Params)> {
        let mut walk = Walk { trie: self, path, params: Params::default(), visit };
        walk.step(0, 0).map(|route| (route, walk.params))
    }
}

/// Chooses one of the routes that share host and shape, or none of them.
pub(super) type Visit<'v> = &'v mut dyn FnMut(&[usize]) -> Option<usize>;

struct Walk<'w> {
    trie: &'w Trie,
    path: &'w str,
    /// The captures on the way to where the walk stands; when it is over, those of the choice.
    params: Params,
    visit: Visit<'w>,
}

impl Walk<'_> {
    /// `at` is where the slash before the next segment stands, or the path's end.
    fn step(&mut self, node: usize, at: usize) -> Option<usize> {
        let node = &self.trie.nodes[node];
        let path = self.path;
        let found = if at == path.len() {
            self.show(&node.end)
        } else {
            let start = at + 1;
            let end = slash_from(path, start);
            let literal = node.literals.get(&path[start..end]);
            let found = literal.and_then(|it| self.step(*it, end));
            found.or_else(|| {
                let name = node.name.filter(|_| start < end)?;
                self.captured(start, end, |walk| walk.step(name, end))
            })
        };
        found.or_else(|| {
            let start = path.len().min(at + 1);
            self.captured(start, path.len(), |walk| walk.show(&node.rest))
        })
    }

    /// Keeps the capture only if it leads to a choice.
    fn captured(&mut self, start: usize, end: usize, go: impl FnOnce(&mut Self) -> Option<usize>) -> Option<usize> {
        // Without this, a chain of sixteen names would have no room to try a rest that is not there.
        if self.params.len() == CAPTURES_MAX {
            return None;
        }
        self.params.push(start, end);
        let found = go(self);
        if found.is_none() {
            self.params.pop();
        }
        found
    }

    fn show(&mut self, routes: &[usize]) -> Option<usize> {
        if routes.is_empty() { None } else { (self.visit)(routes) }
    }
}

/// The hash of the Rust compiler: a rotation, an exclusive or and a multiplication for eight bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FxHasher {
    hash: u64,
}

impl FxHasher {
    fn add(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for FxHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|it| self.add(u64::from_le_bytes(*it)));
        let last = tail.iter().rev().fold(0, |word, it| word << 8 | u64::from(*it));
        self.add(last);
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    /// The map takes its bucket from the low bits, which a multiplication mixes least.
    fn finish(&self) -> u64 {
        self.hash.rotate_left(26)
    }
}

/// Where the next slash is, or the end: segments are so short that a loop finds it soonest.
fn slash_from(path: &str, start: usize) -> usize {
    let mut rest = path.as_bytes()[start..].iter();
    rest.position(|it| *it == b'/').map_or(path.len(), |it| start + it)
}
