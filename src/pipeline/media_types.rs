//! Media types as operators list them: `application/json`, `image/*`, `application/*+json`.

use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::base::{At, Diagnostics};
use crate::http::essence;

/// A media type, or a family of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaTypes {
    /// This one.
    Exact(String),
    /// `application/*`, kept as `application/`.
    Family(String),
    /// `application/*+json`, kept as `+json`.
    Suffix(String),
}

impl MediaTypes {
    /// Reports every one that is none.
    pub fn compile_list(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Self> {
        let mut types = Vec::new();
        for (number, text) in written.iter().enumerate() {
            match Self::parse(text) {
                Some(media_type) => types.push(media_type),
                None => diagnostics
                    .error(&at.index(number), "not a media type")
                    .help("write it as application/json, image/* or application/*+json, without parameters"),
            }
        }
        types
    }

    /// `None` if the text is no media type.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (family, kind) = text.split_once('/')?;
        let token =
            |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&it));
        match kind.strip_prefix('*') {
            _ if !token(family) => None,
            Some("") => Some(Self::Family(format!("{family}/"))),
            Some(suffix) if suffix.starts_with('+') && token(suffix) && family == "application" => {
                Some(Self::Suffix(suffix.to_owned()))
            }
            Some(_) => None,
            None => token(kind).then_some(Self::Exact(text)),
        }
    }

    /// Whether it is this type, which is in any case and has no parameters. Allocates nothing.
    pub fn takes(&self, essence: &[u8]) -> bool {
        let starts = |with: &str| essence.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with.as_bytes()));
        let ends = |with: &str| {
            let at = essence.len().checked_sub(with.len());
            at.is_some_and(|at| essence[at..].eq_ignore_ascii_case(with.as_bytes()))
        };
        match self {
            Self::Exact(it) => essence.eq_ignore_ascii_case(it.as_bytes()),
            Self::Family(it) => starts(it),
            Self::Suffix(it) => starts("application/") && ends(it),
        }
    }

    /// Whether one of them is the type of this message.
    pub fn any_takes(types: &[Self], headers: &HeaderMap) -> bool {
        let written = headers.get(CONTENT_TYPE).map(|it| essence(it.as_bytes())).unwrap_or_default();
        types.iter().any(|it| it.takes(written))
    }
}

impl fmt::Display for MediaTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(it) => f.write_str(it),
            Self::Family(it) => write!(f, "{it}*"),
            Self::Suffix(it) => write!(f, "application/*{it}"),
        }
    }
}
