//! Bodies are compressed on their way to the client: what is compressed and in which coding (RFC 9110, section 12.5.3).
//!
//! What upstreams send, taps see and caches keep is the body as it is; the last step before the client is this one. The
//! work is done on [threads of its own](pool), a piece of each response at a time, so that no worker is held up by it.

mod encoder;
mod metrics;
mod pool;
mod stage;

use http::header::{CACHE_CONTROL, CONTENT_RANGE, HeaderMap};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Diagnostics};
use crate::http::{self as codec, Coding};
use crate::pipeline::{AnswerCoding, Exchange, MediaTypes};

use encoder::Levels;
pub use pool::ACTIVE_MAX as COMPRESSED_MAX;
pub(super) use stage::Stage;

/// What is compressed unless the route says otherwise: text, and what is as good as text.
const TYPES: [&str; 14] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/x-ndjson",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/yaml",
    "application/graphql-response",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "image/svg+xml",
    "font/ttf",
    "font/otf",
];
/// What is shorter gains nothing, in bytes.
const MIN_SIZE: u64 = 1024;

/// In which codings answers are compressed, in order of preference: `[br, zstd, gzip]`; or this with the details. An empty
/// list: not at all.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CompressConfig {
    /// The codings, of which the client's preference comes first.
    Codings(Vec<Coding>),
    /// The codings, and what else is to be said.
    Details(CompressDetails),
}

impl CompressConfig {
    /// Whether nothing is to be compressed.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Codings(codings) => codings.is_empty(),
            Self::Details(details) => details.codings.is_empty(),
        }
    }
}

/// How answers are compressed, in detail.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressDetails {
    /// The codings in order of preference; that of the client comes first.
    pub codings: Vec<Coding>,
    /// Media types, such as `application/json`, `text/*` or `application/*+json`. Default: text, JSON, JavaScript, XML, YAML,
    /// SVG, WebAssembly and fonts that are not compressed by themselves. Event streams never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Answers that say they are shorter stay as they are. Default 1KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<ByteSize>,
    /// How hard it is tried.
    #[serde(default)]
    pub levels: LevelsConfig,
}

/// How hard it is tried to make an answer short: a higher level takes more time for less size.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LevelsConfig {
    /// 0 to 11. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 11))]
    pub br: Option<u32>,
    /// 1 to 19. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 19))]
    pub zstd: Option<u32>,
    /// 1 to 9. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub gzip: Option<u32>,
}

/// Compiled.
#[derive(Clone, Debug)]
pub struct CompressRules {
    codings: Vec<Coding>,
    types: Vec<MediaTypes>,
    min_size: u64,
    levels: Levels,
}

impl CompressRules {
    /// Reports what makes no sense; `None` if nothing is to be compressed.
    pub fn compile(config: &CompressConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let plain = |codings: &Vec<Coding>| CompressDetails {
            codings: codings.clone(),
            types: None,
            min_size: None,
            levels: LevelsConfig::default(),
        };
        let (details, list) = match config {
            CompressConfig::Codings(codings) => (plain(codings), *at),
            CompressConfig::Details(details) => (details.clone(), at.key("codings")),
        };
        for (number, coding) in details.codings.iter().enumerate() {
            if details.codings[..number].contains(coding) {
                diagnostics.error(&list.index(number), format!("`{}` stands there twice", coding.name()));
            }
        }
        let types = match &details.types {
            Some(types) => {
                let at = at.key("types");
                check_types(types, &at, diagnostics);
                MediaTypes::compile_list(types, &at, diagnostics)
            }
            None => TYPES.into_iter().filter_map(MediaTypes::parse).collect(),
        };
        let min_size = details.min_size.map_or(MIN_SIZE, |it| it.0);
        let levels = Levels::compile(&details.levels, &at.key("levels"), diagnostics);
        (!details.codings.is_empty()).then_some(Self { codings: details.codings, types, min_size, levels })
    }

    /// The coding in which a client would have an answer; `None` for as it is.
    pub fn accepted(&self, headers: &HeaderMap) -> Option<Coding> {
        if forbids_transforms(headers) {
            return None;
        }
        Coding::negotiate(headers, &self.codings)
    }

    /// Decides how an answer goes out, and says so in the exchange, where the step that changes its head finds it. What
    /// compresses its body, if it has one.
    pub(super) fn begin(
        &self,
        head: &ResponseHeader,
        bodiless: bool,
        method: &Method,
        exchange: &mut Exchange,
    ) -> Option<Box<Stage>> {
        exchange.answer_coding = AnswerCoding::Unchanged;
        if head.status == StatusCode::NOT_MODIFIED {
            exchange.answer_coding = AnswerCoding::Validated;
            return None;
        }
        let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes()));
        if !self.concerns(head, length) {
            return None;
        }
        exchange.answer_coding = AnswerCoding::Negotiable;
        let coding = exchange.accepted_coding?;
        if bodiless {
            // The head says what that of a GET would say.
            if *method == Method::HEAD {
                exchange.answer_coding = AnswerCoding::Coded(coding);
            }
            return None;
        }
        let stage = Stage::begin(coding, self.levels, length)?;
        exchange.answer_coding = AnswerCoding::Coded(coding);
        Some(Box::new(stage))
    }

    /// Whether an answer is compressed for those who like it so.
    fn concerns(&self, head: &ResponseHeader, length: Option<u64>) -> bool {
        let headers = &head.headers;
        let whole = (head.status.is_success() || head.status.is_client_error() || head.status.is_server_error())
            && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT].contains(&head.status)
            && !headers.contains_key(CONTENT_RANGE);
        whole
            && length.is_none_or(|it| it >= self.min_size)
            && MediaTypes::any_takes(&self.types, headers)
            && !codec::is_event_stream(headers)
            && !codec::is_any_grpc(headers)
            && !codec::is_encoded(headers)
            && !forbids_transforms(headers)
    }
}

/// `no-transform` (RFC 9111, sections 5.2.1.6 and 5.2.2.6).
fn forbids_transforms(headers: &HeaderMap) -> bool {
    codec::has_token(headers, &CACHE_CONTROL, "no-transform")
}

/// What would hold each piece back, or is compressed by its own protocol.
fn check_types(types: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) {
    for (number, text) in types.iter().enumerate() {
        let text = text.to_ascii_lowercase();
        if text == "text/event-stream" {
            diagnostics
                .error(&at.index(number), "event streams are never compressed: each event has to arrive at once")
                .help("leave it out");
        } else if text.starts_with("application/grpc") {
            diagnostics
                .error(&at.index(number), "gRPC compresses its messages by itself")
                .help("leave it out, and let the service compress");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn rules(yaml: &str) -> (Option<CompressRules>, Vec<String>) {
        let mut diagnostics = Diagnostics::default();
        let rules = CompressRules::compile(&serde_yaml::from_str(yaml).unwrap(), &At::ROOT, &mut diagnostics);
        (rules, diagnostics.iter().map(|it| it.path.clone()).collect())
    }

    #[test]
    fn faults_are_reported_where_they_stand() {
        let check = |yaml: &str, expected: &[&str]| assert_eq!(rules(yaml).1, expected, "{yaml}");
        check("[br, zstd, gzip]", &[]);
        check("[br, gzip, br]", &["/2"]);
        check("{ codings: [gzip, gzip] }", &["/codings/1"]);
        check(
            "{ codings: [gzip], types: [json, text/event-stream, application/grpc] }",
            &["/types/1", "/types/2", "/types/0"],
        );
        check(
            "{ codings: [gzip], levels: { br: 12, zstd: 0, gzip: 10 } }",
            &["/levels/br", "/levels/zstd", "/levels/gzip"],
        );
        assert!(rules("[]").0.is_none());
    }

    #[test]
    fn whole_texts_are_compressed_and_nothing_else() {
        let rules = rules("[gzip]").0.unwrap();
        let concerns = |status: u16, fields: &[(&'static str, &'static str)], length| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in fields {
                head.insert_header(*name, HeaderValue::from_static(value)).unwrap();
            }
            rules.concerns(&head, length)
        };
        let json = ("content-type", "application/json");
        for (status, fields, length, expected) in [
            (200, &[json][..], None, true),
            (404, &[json], Some(1024), true),
            (200, &[("content-type", "Text/HTML; charset=utf-8")], None, true),
            (200, &[("content-type", "application/problem+json")], None, true),
            (200, &[json], Some(1023), false),
            (204, &[json], None, false),
            (206, &[json], None, false),
            (302, &[json], None, false),
            (200, &[json, ("content-range", "bytes 0-1/2")], None, false),
            (200, &[json, ("content-encoding", "br")], None, false),
            (200, &[json, ("cache-control", "public, no-transform")], None, false),
            (200, &[("content-type", "text/event-stream")], None, false),
            (200, &[("content-type", "application/grpc")], None, false),
            (200, &[("content-type", "application/grpc+json")], None, false),
            (200, &[("content-type", "application/grpc-web+json")], None, false),
            (200, &[("content-type", "image/png")], None, false),
            (200, &[], None, false),
        ] {
            assert_eq!(concerns(status, fields, length), expected, "{status} {fields:?} {length:?}");
        }
    }
}
