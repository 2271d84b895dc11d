//! `Cache-Control` of requests and responses (RFC 9111, section 5.2), `stale-*` (RFC 5861), and
//! `CDN-Cache-Control` (RFC 9213).
//!
//! Where a message says two things, the careful one counts: the shorter lifetime, and a value that is
//! no number as 0. What is no directive, but names one that forbids (`private; max-age=60`), counts as `no-store`.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use crate::http as codec;

/// What keeps others from using a response: in a member that is no directive, it counts all the same.
const FORBIDDING: [&str; 3] = ["no-store", "no-cache", "private"];

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The largest time that is reckoned with (RFC 9111, section 1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// What a response says about its own storing. A directive that names fields (`no-cache="a"`) counts
/// as the whole directive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseDirectives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) s_maxage: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    /// They stood in `CDN-Cache-Control`: `Expires` counts for nothing.
    pub(super) targeted: bool,
}

impl ResponseDirectives {
    /// `CDN-Cache-Control` if it is there and well formed, else `Cache-Control` (RFC 9213, section 2.2).
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if let Some(targeted) = Self::targeted(headers) {
            return targeted;
        }
        let mut directives = Self::default();
        each(headers, |name, value| directives.take(name, Some(value)));
        // It says nothing that could be read, but it was not meant to allow this.
        directives.no_store |= headers.get_all(CDN_CACHE_CONTROL).iter().any(|it| forbids(it.as_bytes()));
        directives
    }

    fn targeted(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(CDN_CACHE_CONTROL).iter().map(http::HeaderValue::as_bytes).peekable();
        lines.peek()?;
        let whole = lines.collect::<Vec<_>>().join(&b", "[..]);
        let dictionary: Dictionary = Parser::parse_dictionary(&whole).ok()?;
        if dictionary.is_empty() {
            return None; // says nothing, as if it were not there
        }
        let mut directives = Self { targeted: true, ..Self::default() };
        for (name, entry) in &dictionary {
            let ListEntry::Item(item) = entry else { continue };
            match &item.bare_item {
                BareItem::Boolean(true) => directives.take(name, Some("")),
                BareItem::Integer(seconds) => directives.take(name, Some(&seconds.to_string())),
                _ => {} // of a wrong type: as if it were not there
            }
        }
        Some(directives)
    }

    fn take(&mut self, name: &str, value: Option<&str>) {
        let value = value.unwrap_or_default();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let shorter = |place: &mut Option<Duration>| {
            let length = seconds(value);
            *place = Some(place.map_or(length, |it| it.min(length)));
        };
        match () {
            () if is("no-store") => self.no_store = true,
            () if is("no-cache") => self.no_cache = true,
            () if is("private") => self.private = true,
            () if is("public") => self.public = true,
            () if is("must-revalidate") => self.must_revalidate = true,
            () if is("proxy-revalidate") => self.proxy_revalidate = true,
            () if is("max-age") => shorter(&mut self.max_age),
            () if is("s-maxage") => shorter(&mut self.s_maxage),
            () if is("stale-while-revalidate") => shorter(&mut self.stale_while_revalidate),
            () if is("stale-if-error") => shorter(&mut self.stale_if_error),
            () => {}
        }
    }
}

/// What a client wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestDirectives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
    /// `max-stale` without a value takes any age.
    pub(super) max_stale: Option<Duration>,
}

impl RequestDirectives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        each(headers, |name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            match () {
                () if is("no-store") => directives.no_store = true,
                () if is("no-cache") => directives.no_cache = true,
                () if is("only-if-cached") => directives.only_if_cached = true,
                () if is("max-age") => directives.max_age = Some(seconds(value)),
                () if is("min-fresh") => directives.min_fresh = Some(seconds(value)),
                () if is("max-stale") && value.is_empty() => {
                    directives.max_stale = Some(Duration::from_secs(SECONDS_MAX));
                }
                () if is("max-stale") => directives.max_stale = Some(seconds(value)),
                () => {}
            }
        });
        directives
    }
}

/// Calls back for each directive with its value, without quotes.
fn each(headers: &HeaderMap, mut take: impl FnMut(&str, &str)) {
    for line in headers.get_all(CACHE_CONTROL) {
        // Bytes beyond ASCII belong to no directive that counts; the others of the line still do.
        let text = String::from_utf8_lossy(line.as_bytes());
        for directive in parts(&text) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let (name, value) = (name.trim(), value.trim());
            if is_strange(name, value) && forbids(directive.as_bytes()) {
                take("no-store", "");
            }
            take(name, value.trim_matches('"'));
        }
    }
}

/// Whether a member is no directive (RFC 9111, section 5.2), or one whose name holds a word that forbids beside others.
fn is_strange(name: &str, value: &str) -> bool {
    let is_token = |it: &str| it.bytes().all(codec::is_token_byte);
    let quoted = value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).is_some_and(|it| !it.contains('"'));
    let known = FORBIDDING.iter().any(|it| name.eq_ignore_ascii_case(it));
    name.is_empty() || !(is_token(name) && (is_token(value) || quoted)) || (!known && forbids(name.as_bytes()))
}

fn forbids(text: &[u8]) -> bool {
    let is_there = |word: &&str| text.windows(word.len()).any(|it| it.eq_ignore_ascii_case(word.as_bytes()));
    FORBIDDING.iter().any(is_there)
}

/// The members of a list; a comma within quotes parts nothing. A quote that nobody closes must not
/// hide the directives behind it.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let balanced = text.bytes().filter(|it| *it == b'"').count().is_multiple_of(2);
    let mut quoted = false;
    text.split(move |it| {
        quoted ^= it == '"';
        it == ',' && !(quoted && balanced)
    })
    .map(str::trim)
    .filter(|it| !it.is_empty())
}

/// What is no number is 0: stale at once (RFC 9111, section 4.2.1).
pub(super) fn seconds(text: &str) -> Duration {
    let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    // Too many digits for a number mean a very large one.
    let seconds = if digits { text.parse().unwrap_or(SECONDS_MAX) } else { 0 };
    Duration::from_secs(seconds.min(SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn answer(value: &str) -> ResponseDirectives {
        ResponseDirectives::of(&headers(&[("cache-control", value)]))
    }

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    #[test]
    fn rfc_9111_directives_are_read_in_any_case_and_form() {
        let read = answer("Max-Age = \"60\" ,, S-MAXAGE=7, no-cache=\"set-cookie, x\" , Must-Revalidate, made-up=1");
        assert_eq!((read.max_age, read.s_maxage), (secs(60), secs(7)));
        assert!(read.no_cache && read.must_revalidate && !read.private && !read.no_store);
        let read = ResponseDirectives::of(&headers(&[("cache-control", "max-age=9"), ("cache-control", "no-store")]));
        assert!(read.no_store && read.max_age == secs(9));
    }

    #[test]
    fn rfc_9111_doubt_means_stale() {
        assert_eq!(answer("max-age=60, max-age=5").max_age, secs(5));
        assert_eq!(answer("max-age=soon").max_age, secs(0));
        assert_eq!(answer("max-age=-1").max_age, secs(0));
        assert_eq!(answer("max-age").max_age, secs(0));
        assert_eq!(answer("max-age=99999999999999999999999").max_age, secs(SECONDS_MAX));
        assert_eq!(answer("x=\"max-age=5, no-store\"").max_age, None);
        assert!(!answer("x=\"a, no-store\"").no_store, "a quoted comma parts nothing");
        assert!(answer("x=\"a, no-store").no_store, "an open quote hides nothing");
    }

    #[test]
    fn what_is_no_directive_but_names_one_that_forbids_is_not_stored() {
        for value in [
            "private; max-age=60",
            "no-store; max-age=0",
            "no-cache; no-store",
            "private;",
            "max-age=60 private",
            "max-age=60; Private",
            "\"no-store\"",
            "no-store.",
            "'no-store'",
            "x-no-store",
            "max-age=60, no-store;",
            "max-age=\"60\" no-store\"\"",
        ] {
            assert!(answer(value).no_store, "{value}");
        }
        for value in ["private", "no-cache", "private=\"set-cookie\"", "made-up=1", "max-age=60;", "x=\"private\""] {
            assert!(!answer(value).no_store, "{value}");
        }
        let targeted = |value| ResponseDirectives::of(&headers(&[("cdn-cache-control", value)])).no_store;
        assert!(targeted("max-age=60 private") && targeted("Private") && !targeted("max-age=60 x"));
    }

    #[test]
    fn rfc_9213_the_targeted_field_wins_if_it_is_well_formed() {
        let both = |targeted: &str| {
            ResponseDirectives::of(&headers(&[
                ("cache-control", "max-age=1, private"),
                ("cdn-cache-control", targeted),
            ]))
        };
        let read = both("max-age=600, must-revalidate");
        assert!(read.targeted && read.must_revalidate && !read.private && read.max_age == secs(600));
        for ignored in ["", "max-age=600,", "=", "max-age=\"600", "Max-Age=600"] {
            assert_eq!(both(ignored).max_age, secs(1), "{ignored}");
        }
        assert_eq!(both("max-age=\"600\", no-store=?0").max_age, None, "of a wrong type");
        assert!(both("no-store").no_store);
    }

    #[test]
    fn rfc_9111_a_client_can_ask_for_something_newer() {
        let read = RequestDirectives::of(&headers(&[("cache-control", "no-cache, max-stale, min-fresh=3")]));
        assert!(read.no_cache && !read.no_store && read.min_fresh == secs(3) && read.max_stale == secs(SECONDS_MAX));
    }
}
