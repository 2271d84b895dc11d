//! Serves the files of a folder (R9.3), with everything that lets clients and caches keep them: validators, ranges,
//! lifetimes, packed variants.
//!
//! Files are opened and read on the blocking pool, a piece at a time and only as fast as the client takes
//! them: neither a slow disk nor a large file holds other requests up.

mod files;
mod place;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, VARY,
};
use http::{Method, Request, Response, StatusCode};

use crate::base::{At, Diagnostics, RequestId};
use crate::cache::{Condition, Part, Validators};
use crate::pipeline::{Configurable, Context, ErrorBody, LocalFuture, LocalService, ServiceScope};
use crate::telemetry::refused;

use files::{Files, FilesConfig};
use place::{Found, Opened, fallback, find};

/// Files are read in pieces of so many bytes; what is not larger is read at once.
const PIECE: usize = 64 * 1024;
/// A year, the longest that clients keep anything.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const FOREVER_CDN: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The local service `files`; `files:` in an upstream is short for it and its settings.
pub(super) struct StaticFiles;

impl Configurable for StaticFiles {
    type Config = FilesConfig;
    type Settings = Files;

    fn compile(
        config: &FilesConfig,
        _: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Files> {
        Files::compile(config, at, diagnostics)
    }

    fn activate(&self, files: Arc<Files>) -> Arc<dyn LocalService> {
        Arc::new(Folder { files })
    }
}

/// The service of one folder.
struct Folder {
    files: Arc<Files>,
}

impl LocalService for Folder {
    fn call(&self, request: Request<Body>, context: Context) -> LocalFuture {
        let files = self.files.clone();
        let (request, _) = request.into_parts();
        let id = context.request_id;
        Box::pin(async move {
            if ![Method::GET, Method::HEAD].contains(&request.method) {
                let mut answer = error(&id, StatusCode::METHOD_NOT_ALLOWED);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                return answer;
            }
            let answering = tokio::task::spawn_blocking(move || answer(&files, &request, &id)).await;
            answering.unwrap_or_else(|_| error(&id, StatusCode::INTERNAL_SERVER_ERROR))
        })
    }
}

/// Blocks: it opens the file, and reads it if it is small.
fn answer(files: &Files, request: &http::request::Parts, id: &RequestId) -> Response<Body> {
    let opened = match find(files, request.uri.path(), &request.headers) {
        Found::File(opened) => opened,
        Found::Folder(name) => return redirect(&name, request.uri.query(), id),
        Found::Nothing => match fallback(files, request.uri.path(), &request.headers) {
            Some(opened) => opened,
            None => return error(id, StatusCode::NOT_FOUND),
        },
    };
    let Some(fields) = Fields::of(files, &opened) else {
        return error(id, StatusCode::INTERNAL_SERVER_ERROR);
    };
    let validators = Validators { etag: Some(&fields.etag), last_modified: Some(opened.modified) };
    match validators.condition(&request.headers) {
        Condition::Failed => return error(id, StatusCode::PRECONDITION_FAILED),
        Condition::NotModified => return fields.head(StatusCode::NOT_MODIFIED),
        Condition::Holds => {}
    }
    let part =
        if request.method == Method::GET { validators.part(&request.headers, opened.length) } else { Part::Whole };
    let (mut answer, range) = match part {
        Part::Beyond => return beyond(&opened),
        Part::Whole => (fields.whole(), 0..opened.length),
        Part::Bytes(range) => (fields.part(&range, opened.length), range),
    };
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if request.method == Method::GET {
        match body(opened.file, range) {
            Ok(body) => *answer.body_mut() = body,
            Err(_) => return error(id, StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
    answer
}

/// The fields that describe a file.
struct Fields {
    etag: HeaderValue,
    modified: HeaderValue,
    media: HeaderValue,
    cache_control: HeaderValue,
    cdn: Option<HeaderValue>,
    coding: Option<&'static str>,
    negotiated: bool,
}

impl Fields {
    fn of(files: &Files, opened: &Opened) -> Option<Self> {
        let since = opened.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        // A packed file has a time and a length of its own, but could share both with the other.
        let coding = opened.packing.map(|it| it.coding().name());
        let etag = format!(
            "\"{:x}-{:x}{}\"",
            since.as_nanos(),
            opened.length,
            coding.map(|it| format!("-{it}")).unwrap_or_default()
        );
        let immutable = files.immutable.iter().any(|it| it.fits(&opened.name));
        let (cache_control, cdn) = lifetimes(files, immutable)?;
        Some(Self {
            etag: HeaderValue::from_str(&etag).ok()?,
            modified: HeaderValue::from_str(&httpdate::fmt_http_date(opened.modified)).ok()?,
            media: media(&opened.name),
            cache_control,
            cdn,
            coding,
            negotiated: opened.negotiated,
        })
    }

    fn head(&self, status: StatusCode) -> Response<Body> {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        headers.insert(LAST_MODIFIED, self.modified.clone());
        headers.insert(CACHE_CONTROL, self.cache_control.clone());
        if let Some(cdn) = &self.cdn {
            headers.insert(CDN_CACHE_CONTROL, cdn.clone());
        }
        if self.negotiated {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        answer
    }

    fn whole(&self) -> Response<Body> {
        let mut answer = self.head(StatusCode::OK);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, self.media.clone());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(coding) = self.coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
        answer
    }

    fn part(&self, range: &Range<u64>, length: u64) -> Response<Body> {
        let mut answer = self.whole();
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        if let Ok(place) = HeaderValue::from_str(&place) {
            answer.headers_mut().insert(CONTENT_RANGE, place);
        }
        answer
    }
}

/// `Cache-Control` and `CDN-Cache-Control`.
fn lifetimes(files: &Files, immutable: bool) -> Option<(HeaderValue, Option<HeaderValue>)> {
    if immutable {
        return Some((FOREVER, Some(FOREVER_CDN)));
    }
    let seconds = |it: Duration| it.as_secs();
    let clients = match files.max_age {
        Some(max_age) => HeaderValue::from_str(&format!("public, max-age={}", seconds(max_age))).ok()?,
        None => HeaderValue::from_static("no-cache"),
    };
    let cdn = files.cdn_max_age.and_then(|it| HeaderValue::from_str(&format!("max-age={}", seconds(it))).ok());
    Some((clients, cdn))
}

fn media(name: &str) -> HeaderValue {
    let media = mime_guess::from_path(name).first_or_octet_stream();
    let text = media.type_() == "text"
        || ["javascript", "json", "xml"].contains(&media.subtype().as_str())
        || media.suffix().is_some_and(|it| it == "xml" || it == "json");
    let media = if text { format!("{}; charset=utf-8", media.essence_str()) } else { media.essence_str().to_owned() };
    HeaderValue::from_str(&media).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// A folder is requested with a slash behind it, so that what its index names is found beside it. The place is
/// relative: the client knows the folder by another path than this service does.
fn redirect(name: &str, query: Option<&str>, id: &RequestId) -> Response<Body> {
    let place = match query {
        Some(query) => format!("./{name}/?{query}"),
        None => format!("./{name}/"),
    };
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    match HeaderValue::from_str(&place) {
        Ok(place) => {
            answer.headers_mut().insert(LOCATION, place);
            answer
        }
        Err(_) => error(id, StatusCode::NOT_FOUND),
    }
}

fn beyond(opened: &Opened) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(place) = HeaderValue::from_str(&format!("bytes */{}", opened.length)) {
        answer.headers_mut().insert(CONTENT_RANGE, place);
    }
    answer
}

/// Blocks if the part is small: then it is read at once.
fn body(file: File, range: Range<u64>) -> io::Result<Body> {
    let file = Arc::new(file);
    if range.end - range.start <= PIECE as u64 {
        return Ok(Body::from(whole(&file, &range)?));
    }
    let pieces = stream::unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return None;
        }
        let end = range.end.min(range.start + PIECE as u64);
        let (this, next) = (range.start..end, end..range.end);
        let reading = file.clone();
        let piece = tokio::task::spawn_blocking(move || whole(&reading, &this)).await;
        let piece = piece.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        // After an error there is nothing more: half a file is never made to look whole.
        let next = if piece.is_ok() { next } else { range.end..range.end };
        Some((piece, (file, next)))
    });
    Ok(Body::from_stream(pieces))
}

/// All bytes of the range; a file that has become shorter is an error.
fn whole(file: &File, range: &Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut piece = vec![0; length];
    file.read_exact_at(&mut piece, range.start)?;
    Ok(piece.into())
}

/// In the one shape of all errors.
fn error(id: &RequestId, status: StatusCode) -> Response<Body> {
    let say = ErrorBody::new;
    let error = match status {
        StatusCode::NOT_FOUND => {
            say(StatusCode::NOT_FOUND, "route_not_found", "there is no such file", "check the path")
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            say(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "files are only read", "use GET or HEAD")
        }
        StatusCode::PRECONDITION_FAILED => say(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "the file is not the one that the request names",
            "send the request without If-Match",
        ),
        _ => say(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the file could not be read", "try again later"),
    };
    refused(error.code);
    let mut answer = Response::new(Body::from(error.json(id.as_str())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
