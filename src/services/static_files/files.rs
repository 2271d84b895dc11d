//! A folder whose files are served: what an operator writes, and compiled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};
use crate::http::Coding;

/// A folder whose files are served, inside the process. Names that begin with a dot are not, nor is anything
/// that a link leads to outside of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::services) struct FilesConfig {
    /// The folder; the path of a request, as its route rewrites it, is looked for below.
    pub(super) root: PathBuf,
    /// The file that a folder is answered with. Default `index.html`; empty: folders are not answered.
    #[serde(default = "index")]
    pub(super) index: String,
    /// Names of files that never change, because a change gives them another name: clients keep them for a
    /// year. `*` stands for anything, `[hash]` for 8 characters or more with a digit among them. Default
    /// `*.[hash].*`.
    #[serde(default = "immutable")]
    pub(super) immutable: Vec<String>,
    /// How long clients may keep other files without asking. Without it, they ask each time whether what
    /// they have still holds.
    #[serde(default)]
    pub(super) max_age: Option<Period>,
    /// How long caches in front of the gateway may keep them (`CDN-Cache-Control`, RFC 9213). Without it,
    /// as `max_age`.
    #[serde(default)]
    pub(super) cdn_max_age: Option<Period>,
    /// Files that lie packed beside the others, as `main.js.br` beside `main.js`, in order of preference. Default
    /// `[br, zst, gz]`; empty: none is looked for.
    #[serde(default = "precompressed")]
    pub(super) precompressed: Vec<Packing>,
    /// The file that answers where there is none, for single-page applications: `index.html`. Only for pages that are
    /// navigated to (GET or HEAD of a client that accepts HTML), never for what is missing of a page, such as
    /// `/app.js`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<String>,
}

fn precompressed() -> Vec<Packing> {
    vec![Packing::Br, Packing::Zst, Packing::Gz]
}

fn index() -> String {
    "index.html".to_owned()
}

fn immutable() -> Vec<String> {
    vec!["*.[hash].*".to_owned()]
}

/// A way in which a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::services) enum Packing {
    /// Brotli.
    Br,
    /// Zstandard.
    Zst,
    /// gzip.
    Gz,
}

impl Packing {
    /// What follows the file's name.
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Br => ".br",
            Self::Zst => ".zst",
            Self::Gz => ".gz",
        }
    }

    /// The coding that its bytes are in.
    pub(super) const fn coding(self) -> Coding {
        match self {
            Self::Br => Coding::Br,
            Self::Zst => Coding::Zstd,
            Self::Gz => Coding::Gzip,
        }
    }
}

/// A compiled folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services) struct Files {
    /// The folder, absolute and without links.
    pub(super) root: PathBuf,
    /// The file that a folder is answered with.
    pub(super) index: Option<String>,
    /// Names that never change what they mean.
    pub(super) immutable: Vec<NamePattern>,
    /// How long clients may keep the other files.
    pub(super) max_age: Option<Duration>,
    /// How long caches in front of the gateway may.
    pub(super) cdn_max_age: Option<Duration>,
    /// What may lie packed beside a file, in order of preference.
    pub(super) precompressed: Vec<Packing>,
    /// What answers navigations to where there is no file.
    pub(super) fallback: Option<String>,
}

impl Files {
    /// Reports every fault; `None` if there is no such folder.
    pub(super) fn compile(config: &FilesConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if config.index.contains('/') || config.index.starts_with('.') {
            diagnostics.error(&at.key("index"), "not the name of a file").help("write it as index.html");
        }
        let list = at.key("immutable");
        let patterns = config.immutable.iter().enumerate();
        let immutable = patterns.filter_map(|(number, it)| NamePattern::compile(it, &list.index(number), diagnostics));
        let immutable = immutable.collect();
        let root = std::fs::canonicalize(&config.root).ok().filter(|it| it.is_dir());
        if root.is_none() {
            let diagnostic = diagnostics.error(&at.key("root"), format!("no folder `{}`", config.root.display()));
            diagnostic.help("paths are relative to the folder that the gateway was started in");
        }
        let root = root?;
        if let Some(fallback) = &config.fallback {
            check_fallback(fallback, &root, &at.key("fallback"), diagnostics);
        }
        Some(Self {
            root,
            index: Some(config.index.clone()).filter(|it| !it.is_empty()),
            immutable,
            max_age: config.max_age.map(|it| it.0),
            cdn_max_age: config.cdn_max_age.map(|it| it.0),
            precompressed: config.precompressed.clone(),
            fallback: config.fallback.clone(),
        })
    }
}

/// Without it, every page of the application would be a 404.
fn check_fallback(fallback: &str, root: &Path, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let plain = |it: &str| !it.is_empty() && !it.starts_with('.') && !it.contains('\\');
    if !fallback.trim_start_matches('/').split('/').all(plain) {
        diagnostics.error(at, "not the name of a file below `root`").help("write it as index.html");
    } else if !root.join(fallback.trim_start_matches('/')).is_file() {
        diagnostics
            .error(at, format!("no file `{fallback}` in `{}`", root.display()))
            .help("build the application before the gateway serves it, or name another file");
    }
}

/// So many characters a hash has at least.
const HASH_MIN: usize = 8;

/// A pattern for names of files, with `*` and `[hash]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services) struct NamePattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Anything,
    Hash,
}

impl NamePattern {
    fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('*') {
                if pieces.last() != Some(&Piece::Anything) {
                    pieces.push(Piece::Anything);
                }
                rest = after;
            } else if let Some(after) = rest.strip_prefix("[hash]") {
                pieces.push(Piece::Hash);
                rest = after;
            } else {
                let end = rest.find(['*', '[']).filter(|it| *it > 0).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                if text.contains(['/', '[']) {
                    diagnostics.error(at, "not a pattern for the name of a file").help("write it as *.[hash].*");
                    return None;
                }
                pieces.push(Piece::Text(text.to_owned()));
                rest = after;
            }
        }
        Some(Self(pieces))
    }

    /// Whether a file has such a name.
    pub(super) fn fits(&self, name: &str) -> bool {
        // Pieces that were tried at a place and did not fit are not tried there again.
        let mut places = vec![0];
        for piece in &self.0 {
            let mut next = Vec::new();
            for at in places {
                ends(piece, name, at, &mut next);
            }
            next.sort_unstable();
            next.dedup();
            places = next;
        }
        places.contains(&name.len())
    }
}

/// Where in the name the piece can end if it begins at `at`.
fn ends(piece: &Piece, name: &str, at: usize, ends: &mut Vec<usize>) {
    let rest = &name.as_bytes()[at..];
    match piece {
        Piece::Text(text) if rest.starts_with(text.as_bytes()) => ends.push(at + text.len()),
        Piece::Text(_) => {}
        Piece::Anything => ends.extend(at..=name.len()),
        Piece::Hash => {
            let mut digit = false;
            for (length, byte) in rest.iter().enumerate() {
                if !(byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
                    return;
                }
                digit |= byte.is_ascii_digit();
                if digit && length + 1 >= HASH_MIN {
                    ends.push(at + length + 1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, fits: bool) {
        let pattern = NamePattern::compile(pattern, &At::ROOT, &mut Diagnostics::default()).unwrap();
        assert_eq!(pattern.fits(name), fits, "{name}");
    }

    #[test]
    fn r9_3_names_with_a_hash_never_change_what_they_mean() {
        check("*.[hash].*", "main.3f2a9c1b.js", true);
        check("*.[hash].*", "a.b.3f2a9c1b.chunk.js", true);
        check("*.[hash].*", "main.3f2a9c1.js", false);
        check("*.[hash].*", "jquery.slimmest.js", false);
        check("*.[hash].*", "index.html", false);
        check("*-[hash].js", "index-BrT3x9Qa.js", true);
        check("*-[hash].js", "index-BrT3x9Qa.css", false);
        check("font*", "font.woff2", true);
        check("*é*", "caféx", true);
    }

    #[test]
    fn faults_are_reported_where_they_stand() {
        let yaml = "{ root: /no/such/folder, index: a/b, immutable: ['[hsh]', 'a/b', '*'] }";
        let mut diagnostics = Diagnostics::default();
        assert!(Files::compile(&serde_yaml::from_str(yaml).unwrap(), &At::ROOT, &mut diagnostics).is_none());
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/index", "/immutable/0", "/immutable/1", "/root"]);
    }
}
