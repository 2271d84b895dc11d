//! Pages for people in the place of errors: those of the gateway and, where the route says so, of upstreams. Programs go on
//! getting JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{ACCEPT, HeaderMap, HeaderValue, VARY};
use once_cell::sync::Lazy;
use pingora::http::ResponseHeader;
use prometheus::{IntCounterVec, register_int_counter_vec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::http as codec;
use crate::pipeline::{Exchange, Filter, Scope};

/// The largest page, in bytes.
const PAGE_MAX: u64 = 256 * 1024;

static SERVED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Pages that people got in the place of errors, by whose error it was: gateway or upstream.";
    register_int_counter_vec!("moongate_error_pages_total", help, &["of"]).expect("a family is registered once")
});

/// Pages for people in the place of errors, by status: `404: pages/404.html`, or for all of a kind, `5xx: pages/down.html`.
/// They go to clients that prefer HTML to JSON. In them, `{request_id}`, `{status}`, `{reason}` and `{message}` are
/// filled in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ErrorPagesConfig {
    /// Whether errors of upstreams get them, too. Default false: only those of the gateway and its local services.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub upstream: bool,
    /// The pages: files, by status.
    #[serde(flatten)]
    pub pages: BTreeMap<String, PathBuf>,
}

/// Compiled.
pub struct ErrorPages {
    upstream: bool,
    exact: BTreeMap<u16, Arc<Page>>,
    /// 4xx and 5xx.
    classes: [Option<Arc<Page>>; 2],
    files: Vec<PathBuf>,
}

/// A page, cut where something is filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Page(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Bytes),
    Fill(Word),
}

/// What can be filled in. The client chooses none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    RequestId,
    Status,
    Reason,
    Message,
}

impl Word {
    const ALL: [(&str, Self); 4] = [
        ("{request_id}", Self::RequestId),
        ("{status}", Self::Status),
        ("{reason}", Self::Reason),
        ("{message}", Self::Message),
    ];
}

/// What an error says of itself.
pub struct PageFacts<'a> {
    /// Names the request.
    pub request_id: &'a str,
    /// The status of the answer.
    pub status: StatusCode,
    /// For people; `None` for an upstream's error, which says nothing here.
    pub message: Option<&'a str>,
}

impl Filter for ErrorPages {
    const NAME: &'static str = "error_pages";
    const SUMMARY: &'static str = "Puts pages for people in the place of errors.";
    const RESPONSES_ONLY: bool = true;
    type Config = ErrorPagesConfig;

    fn compile(config: &ErrorPagesConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut pages =
            Self { upstream: config.upstream, exact: BTreeMap::new(), classes: [None, None], files: Vec::new() };
        for (status, file) in &config.pages {
            let at = at.key(status);
            let page = Page::read(file, &at, diagnostics).map(Arc::new);
            pages.files.push(file.clone());
            match (status.as_str(), status.parse::<u16>()) {
                ("4xx", _) => pages.classes[0] = page,
                ("5xx", _) => pages.classes[1] = page,
                (_, Ok(exact @ 400..600)) => {
                    page.map(|it| pages.exact.insert(exact, it));
                }
                _ => {
                    let message = format!("`{status}` is not the status of an error");
                    diagnostics.error_at_key(&at, message).help("write 400 to 599, `4xx` or `5xx`");
                }
            }
        }
        (!config.pages.is_empty()).then_some(pages)
    }

    /// Whoever keeps such an answer has to know that others get another one.
    fn on_response(&self, _: &mut Exchange, response: &mut ResponseHeader) {
        if self.page(response.status).is_some() && !codec::has_token(&response.headers, &VARY, "accept") {
            let _ = response.append_header(VARY, HeaderValue::from_static("Accept"));
        }
    }
}

impl BuiltIn for ErrorPages {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a ErrorPagesConfig> {
        layer.settings.error_pages.as_ref()
    }
}

impl ErrorPages {
    /// The files that were read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether errors of upstreams get pages, too.
    pub fn for_upstreams(&self) -> bool {
        self.upstream
    }

    /// The page for a client with these fields; `None` if it rather has the error as it is.
    pub fn page_for(&self, status: StatusCode, request: &HeaderMap) -> Option<&Arc<Page>> {
        self.page(status).filter(|_| prefers_html(request))
    }

    fn page(&self, status: StatusCode) -> Option<&Arc<Page>> {
        let class = match status.as_u16() {
            400..500 => &self.classes[0],
            500..600 => &self.classes[1],
            _ => return None,
        };
        self.exact.get(&status.as_u16()).or(class.as_ref())
    }
}

impl Page {
    /// Counts that somebody gets a page: the gateway's own error, or an upstream's.
    pub fn count(of_upstream: bool) {
        SERVED.with_label_values(&[if of_upstream { "upstream" } else { "gateway" }]).inc();
    }

    /// The body of an answer.
    pub fn fill(&self, facts: &PageFacts<'_>) -> Bytes {
        let mut body = BytesMut::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => body.extend_from_slice(text),
                Piece::Fill(word) => escape(&word.value(facts), &mut body),
            }
        }
        body.freeze()
    }

    fn read(file: &PathBuf, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let length = std::fs::metadata(file).map(|it| it.len());
        let text = match length {
            Ok(length) if length > PAGE_MAX => {
                diagnostics
                    .error(at, format!("`{}` is larger than 256 KiB", file.display()))
                    .help("let the page load pictures and scripts from elsewhere");
                return None;
            }
            Ok(_) => std::fs::read_to_string(file),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Some(Self::compile(&text, at, diagnostics)),
            Err(error) => {
                diagnostics
                    .error(at, format!("`{}` can't be read: {error}", file.display()))
                    .help("paths are relative to the folder that the gateway was started in; a page is UTF-8");
                None
            }
        }
    }

    fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((place, (word, fill))) = next_word(rest) {
            pieces.push(Piece::Text(Bytes::copy_from_slice(&rest.as_bytes()[..place])));
            pieces.push(Piece::Fill(fill));
            rest = &rest[place + word.len()..];
        }
        pieces.push(Piece::Text(Bytes::copy_from_slice(rest.as_bytes())));
        pieces.retain(|it| *it != Piece::Text(Bytes::new()));
        // Scripts and styles have braces of their own, so it is no fault.
        if let Some(theirs) = similar_word(text) {
            let known = Word::ALL.map(|it| format!("`{}`", it.0)).join(", ");
            diagnostics
                .warn(at, format!("nothing fills in `{theirs}`: it goes out as it stands"))
                .help(format!("pages can have {known}"));
        }
        Self(pieces)
    }
}

impl Word {
    fn value(self, facts: &PageFacts<'_>) -> String {
        let reason = || facts.status.canonical_reason().unwrap_or("Error");
        match self {
            Self::RequestId => facts.request_id.to_owned(),
            Self::Status => facts.status.as_str().to_owned(),
            Self::Reason => reason().to_owned(),
            Self::Message => facts.message.unwrap_or_else(reason).to_owned(),
        }
    }
}

fn next_word(text: &str) -> Option<(usize, (&'static str, Word))> {
    Word::ALL.into_iter().filter_map(|it| Some((text.find(it.0)?, it))).min_by_key(|it| it.0)
}

/// Something in braces that is nearly a word of ours: `{request-id}`, `{requestId}`.
fn similar_word(text: &str) -> Option<&str> {
    text.match_indices('{').find_map(|(at, _)| {
        let inside = &text[at + 1..at + text[at..].find('}')?];
        let plain = inside.to_ascii_lowercase().replace(['-', '_', ' ', '.'], "");
        let theirs = &text[at..=at + inside.len() + 1];
        let ours = Word::ALL.iter().any(|it| it.0 == theirs);
        let like = ["requestid", "status", "statuscode", "reason", "message", "reqid"].contains(&plain.as_str());
        (like && !ours).then_some(theirs)
    })
}

/// What is filled in is text, whatever it says.
fn escape(text: &str, out: &mut BytesMut) {
    for it in text.chars() {
        match it {
            '&' => out.extend_from_slice(b"&amp;"),
            '<' => out.extend_from_slice(b"&lt;"),
            '>' => out.extend_from_slice(b"&gt;"),
            '"' => out.extend_from_slice(b"&quot;"),
            '\'' => out.extend_from_slice(b"&#39;"),
            it => out.extend_from_slice(it.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Whether a client names HTML, and likes it no less than JSON. `*/*` alone is what programs say.
fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut json, mut any) = (None, None, 0);
    for line in headers.get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok()) {
        for (range, weight) in codec::weighted(line) {
            match range.to_ascii_lowercase().as_str() {
                "text/html" => html = Some(weight),
                "application/json" => json = Some(weight),
                "*/*" => any = weight,
                _ => {}
            }
        }
    }
    html.is_some_and(|it| it > 0 && it >= json.unwrap_or(any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_pages_and_programs_json() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html, */*", true),
            ("TEXT/HTML", true),
            ("*/*", false),
            ("", false),
            ("application/json", false),
            ("application/json, text/html;q=0.9", false),
            ("application/json;q=0.5, text/html;q=0.9", true),
            ("text/html;q=0", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(prefers_html(&headers), html, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn words_are_filled_in_as_text_and_braces_alone_are_just_braces() {
        let mut diagnostics = Diagnostics::default();
        let page = Page::compile(
            "<style>p{margin:0}</style>{status} {reason}: {message} ({request_id}) {x}",
            &At::ROOT,
            &mut diagnostics,
        );
        let facts = PageFacts { request_id: "id", status: StatusCode::NOT_FOUND, message: Some("<b> & 'c'") };
        let expected = "<style>p{margin:0}</style>404 Not Found: &lt;b&gt; &amp; &#39;c&#39; (id) {x}";
        assert_eq!(page.fill(&facts), expected);
        assert_eq!(page.fill(&PageFacts { message: None, ..facts }).iter().filter(|it| **it == b'N').count(), 2);
        assert!(diagnostics.iter().next().is_none());
        Page::compile("{requestId}", &At::ROOT, &mut diagnostics);
        assert_eq!(similar_word("a {request-id} b"), Some("{request-id}"));
    }
}
