//! From a request's path to an open file, and to nothing outside the folder.
//!
//! What is given is decided by what was opened, not by what the path looked like before: between a look and the
//! opening a link could be put there.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::HeaderMap;
use http::header::ACCEPT;

use super::files::{Files, Packing};
use crate::http as codec;

/// `O_NONBLOCK`: opening a pipe that lies in the folder must not wait for its other end.
const NO_WAIT: i32 = 0o4000;

/// What a path leads to.
pub(super) enum Found {
    /// A file, open.
    File(Opened),
    /// A folder of this name, requested without a slash behind it.
    Folder(String),
    /// Nothing that is given.
    Nothing,
}

/// A file, open.
pub(super) struct Opened {
    pub(super) file: File,
    /// In bytes.
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// Whether packed variants lie beside it: others may get one.
    pub(super) negotiated: bool,
    /// Its name, without what packing adds to it.
    pub(super) name: String,
    pub(super) packing: Option<Packing>,
}

/// Looks for a path, and for the packed variant that the client likes best.
pub(super) fn find(files: &Files, path: &str, headers: &HeaderMap) -> Found {
    let Some(segments) = segments(path) else { return Found::Nothing };
    let as_folder = path.ends_with('/') || segments.is_empty();
    let mut place = files.root.clone();
    place.extend(&segments);
    if as_folder {
        let Some(index) = &files.index else { return Found::Nothing };
        return open_best(files, &place.join(index), index, headers).map_or(Found::Nothing, Found::File);
    }
    let name = segments.last().map(String::as_str).unwrap_or_default();
    match open_best(files, &place, name, headers) {
        Some(opened) => Found::File(opened),
        None if files.index.is_some() && is_folder(&files.root, &place) => Found::Folder(last_segment(path)),
        None => Found::Nothing,
    }
}

/// The segments, decoded; `None` if any of them is not simply a name.
fn segments(path: &str) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    for segment in path.strip_prefix('/')?.split('/') {
        let name = decoded(segment)?;
        if name.is_empty() {
            continue; // before, between and behind slashes
        }
        // Dots lead upward, or to what is hidden.
        if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return None;
        }
        segments.push(name);
    }
    Some(segments)
}

fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn last_segment(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn open_best(files: &Files, place: &Path, name: &str, headers: &HeaderMap) -> Option<Opened> {
    let mut plain = open(&files.root, place, name)?;
    let mut best = None;
    for packing in &files.precompressed {
        let mut beside = place.as_os_str().to_owned();
        beside.push(packing.ending());
        if let Some(packed) = open(&files.root, &PathBuf::from(beside), name)
            // One that is older was packed before the file changed.
            && packed.modified >= plain.modified
        {
            plain.negotiated = true;
            if best.is_none() && packing.coding().weight(headers) > 0 {
                best = Some(Opened { packing: Some(*packing), negotiated: true, ..packed });
            }
        }
    }
    best.or(Some(plain))
}

/// The page of a single-page application that answers where there is no file.
pub(super) fn fallback(files: &Files, path: &str, headers: &HeaderMap) -> Option<Opened> {
    let fallback = files.fallback.as_deref()?.trim_start_matches('/');
    if !is_navigation(path, headers) {
        return None;
    }
    segments(path)?; // what is hidden or leads astray is no page
    let name = fallback.rsplit('/').next().unwrap_or(fallback);
    open_best(files, &files.root.join(fallback), name, headers)
}

/// Whether somebody goes to a page, rather than a page fetching what belongs to it: what browsers say themselves counts
/// (Fetch Metadata), and a name with the ending of a known kind of file is a file that is missing.
fn is_navigation(path: &str, headers: &HeaderMap) -> bool {
    if let Some(mode) = headers.get("sec-fetch-mode")
        && mode != "navigate"
    {
        return false;
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let page = |ending: &str| ["html", "htm", "xhtml"].contains(&ending.to_ascii_lowercase().as_str());
    let file = last.rsplit_once('.').is_some_and(|(_, it)| !page(it) && mime_guess::from_ext(it).first_raw().is_some());
    !file && accepts_html(headers)
}

/// Whoever says nothing accepts anything (RFC 9110, section 12.5.1).
fn accepts_html(headers: &HeaderMap) -> bool {
    let mut said = false;
    let (mut html, mut text, mut any) = (None, None, None);
    for line in headers.get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok()) {
        said = true;
        for (range, weight) in codec::weighted(line) {
            match range.to_ascii_lowercase().as_str() {
                "text/html" => html = Some(weight),
                "text/*" => text = Some(weight),
                "*/*" => any = Some(weight),
                _ => {}
            }
        }
    }
    !said || html.or(text).or(any).is_some_and(|it| it > 0)
}

fn open(root: &Path, place: &Path, name: &str) -> Option<Opened> {
    let file = OpenOptions::new().read(true).custom_flags(NO_WAIT).open(place).ok()?;
    let facts = file.metadata().ok()?;
    if !facts.is_file() || !inside(root, &file) {
        return None;
    }
    let modified = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Some(Opened { length: facts.len(), modified, name: name.to_owned(), negotiated: false, packing: None, file })
}

/// Whether what was opened lies in the folder, and not under a hidden name: a link may lead anywhere.
fn inside(root: &Path, file: &File) -> bool {
    let Ok(real) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return false };
    let Ok(below) = real.strip_prefix(root) else { return false };
    below.components().all(|it| !it.as_os_str().as_encoded_bytes().starts_with(b"."))
}

fn is_folder(root: &Path, place: &Path) -> bool {
    let real = fs::canonicalize(place);
    real.is_ok_and(|it| it.starts_with(root) && it.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r9_3_no_path_leads_out_of_the_folder() {
        for wrong in [
            "/../x",
            "/a/../x",
            "/%2e%2e/x",
            "/a/%2E./x",
            "/.env",
            "/a/.git/config",
            "/a%2f..%2fx",
            "/a%5c..%5cx",
            "/a%00",
            "/%",
            "/%2",
            "/%zz",
            "/%ff",
            "/%+1",
            "x",
        ] {
            assert_eq!(segments(wrong), None, "{wrong}");
        }
        let fine = |path| segments(path).map(|it| it.join("|"));
        assert_eq!(fine("/a//b%20c/"), Some("a|b c".to_owned()));
        assert_eq!(fine("/"), Some(String::new()));
        assert_eq!(fine("/caf%C3%A9..html"), Some("café..html".to_owned()));
    }

    #[test]
    fn pages_are_navigated_to_and_files_are_missing() {
        let check = |path: &str, fields: &[(&'static str, &'static str)]| {
            let field = |it: &(&'static str, &'static str)| {
                (http::HeaderName::from_static(it.0), http::HeaderValue::from_static(it.1))
            };
            is_navigation(path, &fields.iter().map(field).collect())
        };
        let browser = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        for path in ["/", "/players/7", "/users/john.doe", "/v1.2/notes", "/old.html"] {
            assert!(check(path, &[browser]), "{path}");
            assert!(check(path, &[("accept", "*/*")]) && check(path, &[]), "{path}");
        }
        for path in ["/app.js", "/img/logo.PNG", "/fonts/a.woff2", "/data.json"] {
            assert!(!check(path, &[browser]), "{path}");
        }
        assert!(!check("/players/7", &[("accept", "application/json")]));
        assert!(!check("/players/7", &[("accept", "text/html;q=0, */*")]));
        assert!(!check("/players/7", &[browser, ("sec-fetch-mode", "cors")]));
        assert!(check("/players/7", &[browser, ("sec-fetch-mode", "navigate")]));
    }
}
