//! What a route can produce, held against what the client accepts (RFC 9110, section 12.5.1).
//!
//! Parameters of media ranges other than `q` do not count: routes name plain types, and clients
//! that write `application/json;charset=utf-8` mean JSON.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::base::{At, Diagnostics};
use crate::http as codec;

/// A media type, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Media {
    kind: String,
    /// `None` for `*`.
    sub: Option<String>,
}

/// How well a route's types fit: the client's quality in thousandths, then whether the type that
/// earned it is named in full.
pub(super) type Quality = (u16, bool);

impl Media {
    pub(super) fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        match lower.split_once('/') {
            Some(("*", "*")) => {
                diagnostics.error(at, "`*/*` says nothing").help("leave `accept` out");
                None
            }
            Some((kind, "*")) if is_token(kind) => Some(Self { kind: kind.into(), sub: None }),
            Some((kind, sub)) if is_token(kind) && is_token(sub) && kind != "*" => {
                Some(Self { kind: kind.into(), sub: Some(sub.into()) })
            }
            _ => {
                diagnostics
                    .error(at, format!("`{text}` is not a media type"))
                    .help("write `application/json` or `text/*`, without parameters");
                None
            }
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.kind, self.sub.as_deref().unwrap_or("*"))
    }

    /// The client's quality for this type in thousandths; `None` if it stated nothing readable.
    fn quality(&self, headers: &HeaderMap) -> Option<u16> {
        let mut stated = false;
        // The most specific range counts (RFC 9110, section 12.5.1), so one best for each depth.
        let mut best: [Option<u16>; 3] = [None; 3];
        let lines = headers.get_all(ACCEPT).into_iter().filter_map(|it| it.to_str().ok());
        for range in lines.flat_map(codec::weighted).filter_map(Range::parse) {
            stated = true;
            if let Some(depth) = self.depth(&range) {
                best[depth] = best[depth].max(Some(range.quality));
            }
        }
        let quality = match (&self.sub, best) {
            (Some(_), [all, kind, full]) => full.or(kind).or(all),
            // Below `text/*` the route may also produce what one range names in full.
            (None, [all, kind, full]) => full.max(kind.or(all)),
        };
        stated.then_some(quality.unwrap_or(0))
    }

    /// 2 if the range names the type in full, 1 for `type/*`, 0 for `*/*`.
    fn depth(&self, range: &Range<'_>) -> Option<usize> {
        if range.kind == "*" {
            return (range.sub == "*").then_some(0);
        }
        if !range.kind.eq_ignore_ascii_case(&self.kind) {
            return None;
        }
        if range.sub == "*" {
            return Some(1);
        }
        let same = |sub: &String| range.sub.eq_ignore_ascii_case(sub);
        self.sub.as_ref().is_none_or(same).then_some(2)
    }
}

/// The best quality among the types, if the client accepts any of them. No `Accept` accepts all.
pub(super) fn best(types: &[Media], headers: &HeaderMap) -> Option<Quality> {
    let fit = |it: &Media| (it.quality(headers).unwrap_or(1000), it.sub.is_some());
    types.iter().map(fit).filter(|(quality, _)| *quality > 0).max()
}

struct Range<'a> {
    kind: &'a str,
    sub: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` for what is no media range; the rest of the field still counts.
    fn parse((text, quality): (&'a str, u16)) -> Option<Self> {
        let (kind, sub) = text.split_once('/')?;
        (is_token(kind) && is_token(sub)).then_some(Self { kind, sub, quality })
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let byte = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    !text.is_empty() && text.bytes().all(byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(types: &[&str], accept: &[&str], expected: Option<u16>) {
        let mut diagnostics = Diagnostics::default();
        let media = |it: &&str| Media::compile(it, &At::ROOT, &mut diagnostics);
        let types: Vec<Media> = types.iter().filter_map(media).collect();
        assert!(diagnostics.is_empty());
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(best(&types, &headers).map(|it| it.0), expected, "{accept:?}");
    }

    #[test]
    fn nothing_stated_accepts_anything() {
        check(&["text/html"], &[], Some(1000));
        check(&["text/html"], &[""], Some(1000));
        check(&["text/html"], &["nonsense"], Some(1000));
    }

    #[test]
    fn the_most_specific_range_counts() {
        let accept = ["text/*;q=0.3, text/html;q=0.7, */*;q=0.5"];
        check(&["text/html"], &accept, Some(700));
        check(&["text/plain"], &accept, Some(300));
        check(&["image/png"], &accept, Some(500));
        check(&["image/png", "Text/HTML"], &accept, Some(700));
        check(&["text/*"], &accept, Some(700));
        check(&["text/html"], &["text/html;q=0, */*"], None);
        check(&["text/*"], &["text/*;q=0, */*"], None);
        check(&["text/*"], &["text/html, text/*;q=0"], Some(1000));
    }

    #[test]
    fn lines_and_quotes_and_case_are_read() {
        check(&["text/html"], &["image/png", "TEXT/HTML ; Q=0.25"], Some(250));
        check(&["text/html"], &["a/b;x=\",text/html;\\\"\";q=0.1"], None);
        check(&["a/b"], &["a/b;x=\",;\";q=0.125"], Some(125));
        check(&["a/b"], &["a/b;q=7, a/*;q=0.001"], Some(1));
        check(&["application/json"], &["application/json;charset=utf-8"], Some(1000));
        check(&["application/json"], &["text/html"], None);
    }

    #[test]
    fn what_is_no_media_type_is_told() {
        for wrong in ["json", "*/*", "a/b;c=d", "*/json", "a/", ""] {
            let mut diagnostics = Diagnostics::default();
            Media::compile(wrong, &At::ROOT, &mut diagnostics);
            assert_eq!(diagnostics.iter().count(), 1, "{wrong}");
        }
    }
}
