//! The request target's one normal form.
//!
//! Two parties that read one path differently are how access rules are walked around. So the path
//! is normalised once, before matching, the same bytes are matched and sent upstream, and what
//! readers are known to disagree about is refused instead of guessed. Knows origin-form only
//! (RFC 9112, section 3.2.1): `*`, and the authority of an absolute-form, are the caller's.

use std::borrow::Cow;
use std::fmt;

/// A request target in its normal form: `/a/b?x=1`.
///
/// Escaped unreserved characters are decoded and other escapes have upper-case digits (RFC 3986,
/// section 6.2.2), dot segments are removed (section 5.2.4), doubled slashes are merged (no RFC
/// says so, but most upstreams do it; merging comes first, so `/a//../b` is `/b`). The query
/// stays as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    path: Cow<'a, str>,
    query: Option<&'a str>,
}

/// Why a target is refused with 400: readers would not agree on what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Not origin-form (RFC 9112, section 3.2.1).
    #[error("path does not start with a slash")]
    NoLeadingSlash,
    /// A `%` without two hex digits (RFC 3986, section 2.1).
    #[error("percent sign without two hex digits")]
    BadEscape,
    /// `%2F` or `%5C`: some upstreams decode it before they split the path, some after.
    #[error("encoded slash or backslash")]
    EncodedSeparator,
    /// `\`, which some take for a slash.
    #[error("backslash")]
    Backslash,
    /// A control byte, raw or encoded: it ends strings and breaks lines.
    #[error("control byte")]
    Control,
    /// A space or a byte that is not ASCII (RFC 3986, section 2: such bytes are encoded).
    #[error("raw space or byte beyond ASCII")]
    ForbiddenByte,
    /// `#`: a fragment is never sent (RFC 9110, section 7.1).
    #[error("fragment")]
    Fragment,
    /// More `..` than segments before it.
    #[error("dot segments climb above the root")]
    AboveRoot,
    /// `%C1%A1`: two bytes for what UTF-8 has in one, which some decoders take for it (RFC 3629, section 3).
    #[error("overlong UTF-8")]
    Overlong,
    /// `..;x`: servlet containers cut the parameter and then see a dot segment.
    #[error("dot segment with a parameter")]
    DotParameter,
}

impl<'a> Target<'a> {
    /// The normal form of a target in origin-form. Allocates only when the path changes.
    pub fn normalise(raw: &'a [u8]) -> Result<Self, Ambiguous> {
        if raw.first() != Some(&b'/') {
            return Err(Ambiguous::NoLeadingSlash);
        }
        let mark = raw.iter().position(|it| *it == b'?');
        let (path, query) = match mark {
            Some(mark) => (&raw[..mark], Some(&raw[mark + 1..])),
            None => (raw, None),
        };
        let normal = is_normal(path)?;
        if let Some(query) = query {
            query.iter().try_for_each(|byte| check_query(*byte))?;
        }
        let query = query.map(ascii).transpose()?;
        let path = ascii(path)?;
        if normal {
            return Ok(Self { path: Cow::Borrowed(path), query });
        }
        let rewritten = rewrite(path)?;
        let path = if rewritten == path { Cow::Borrowed(path) } else { Cow::Owned(rewritten) };
        Ok(Self { path, query })
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows the question mark, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// Whether the target came in its normal form, so that the raw one can be sent as it is.
    pub fn is_unchanged(&self) -> bool {
        matches!(self.path, Cow::Borrowed(_))
    }

    /// The path alone, borrowed from the raw target if that was normal.
    pub fn into_path(self) -> Cow<'a, str> {
        self.path
    }
}

/// A normalised path as servers read it that cut parameters off its segments (RFC 3986, section 3.3), before or after
/// they decode it; `None` if it has none. What is left need not be in normal form.
pub fn without_parameters(path: &str) -> Option<String> {
    if !path.bytes().any(|it| it == b';' || it == b'%') {
        return None;
    }
    let cut = |segment: &str| {
        let end = segment.find(';').into_iter().chain(segment.find("%3B")).min();
        end.unwrap_or(segment.len())
    };
    let segments: Vec<&str> = path.split('/').map(|it| &it[..cut(it)]).collect();
    Some(segments.join("/")).filter(|it| it != path)
}

/// As it is sent upstream.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.query.map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// Checks every byte, and says whether the path may stay as it is. `false` can be a false alarm,
/// which costs an allocation; `true` is certain.
fn is_normal(path: &[u8]) -> Result<bool, Ambiguous> {
    let mut normal = true;
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match byte {
            b'/' => normal &= !in_doubt(&path[at + 1..]),
            b'%' => {
                let value = escaped(&path[at + 1..])?;
                if is_overlong(value, &path[at + 3..]) {
                    return Err(Ambiguous::Overlong);
                }
                let digits = &path[at + 1..at + 3];
                normal &= !unreserved(value) && !digits.iter().any(u8::is_ascii_lowercase);
                at += 2;
            }
            byte => check(*byte)?,
        }
        at += 1;
    }
    Ok(normal)
}

/// Whether what follows a slash may be an empty or a dot segment. Encoded dots need no look: the
/// escape of an unreserved character is never normal.
fn in_doubt(rest: &[u8]) -> bool {
    match rest {
        [b'/', ..] => true,
        [b'.', rest @ ..] => {
            let rest = rest.strip_prefix(b".").unwrap_or(rest);
            matches!(rest.first(), None | Some(b'/' | b';' | b'%'))
        }
        _ => false,
    }
}

fn check(byte: u8) -> Result<(), Ambiguous> {
    match byte {
        b'\\' => Err(Ambiguous::Backslash),
        byte => check_query(byte),
    }
}

/// A query may hold a backslash or a lone percent sign: nobody splits paths there.
fn check_query(byte: u8) -> Result<(), Ambiguous> {
    match byte {
        b'#' => Err(Ambiguous::Fragment),
        0..=0x1f | 0x7f => Err(Ambiguous::Control),
        b' ' | 0x80.. => Err(Ambiguous::ForbiddenByte),
        _ => Ok(()),
    }
}

/// The byte that two hex digits stand for, if it may stand in a path.
fn escaped(digits: &[u8]) -> Result<u8, Ambiguous> {
    let digit = |at: usize| {
        let digit = digits.get(at).and_then(|it| char::from(*it).to_digit(16));
        digit.map(|it| it as u8).ok_or(Ambiguous::BadEscape)
    };
    match digit(0)? << 4 | digit(1)? {
        b'/' | b'\\' => Err(Ambiguous::EncodedSeparator),
        0..=0x1f | 0x7f => Err(Ambiguous::Control),
        value => Ok(value),
    }
}

/// Whether a sequence of UTF-8 begins here that is longer than it has to be; no text has one.
fn is_overlong(first: u8, rest: &[u8]) -> bool {
    if first < 0xc0 {
        return false;
    }
    let second = rest.strip_prefix(b"%").and_then(|it| std::str::from_utf8(it.get(..2)?).ok());
    let second = second.and_then(|it| u8::from_str_radix(it, 16).ok());
    matches!((first, second), (0xc0 | 0xc1, Some(0x80..=0xbf)) | (0xe0, Some(0x80..=0x9f)) | (0xf0, Some(0x80..=0x8f)))
}

/// RFC 3986, section 2.3.
fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn ascii(bytes: &[u8]) -> Result<&str, Ambiguous> {
    std::str::from_utf8(bytes).map_err(|_| Ambiguous::ForbiddenByte)
}

/// Decodes first, so that `%2e%2E` is seen as the dot segment it is, then walks the segments.
fn rewrite(path: &str) -> Result<String, Ambiguous> {
    let decoded = decode(path)?;
    let mut out = String::with_capacity(decoded.len());
    let mut segments = decoded[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').ok_or(Ambiguous::AboveRoot)?),
            _ if has_dot_parameter(segment) => return Err(Ambiguous::DotParameter),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        // A path that ends in an empty or a dot segment names a directory: it ends in a slash.
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(out)
}

fn decode(path: &str) -> Result<String, Ambiguous> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let value = escaped(after.as_bytes())?;
        let (digits, after) = after.split_at(2);
        if unreserved(value) {
            out.push(char::from(value));
        } else {
            out.push('%');
            out.extend(digits.chars().map(|it| it.to_ascii_uppercase()));
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn has_dot_parameter(segment: &str) -> bool {
    let after = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    after.is_some_and(|it| it.starts_with(';') || it.starts_with("%3B"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(raw: &str, normal: &str) {
        let target = Target::normalise(raw.as_bytes()).unwrap();
        assert_eq!(target.to_string(), normal);
        assert_eq!(target.is_unchanged(), raw == normal);
    }

    #[track_caller]
    fn refused(raw: &[u8], why: Ambiguous) {
        assert_eq!(Target::normalise(raw), Err(why), "{}", raw.escape_ascii());
    }

    #[test]
    fn a_normal_target_stays_as_it_is() {
        let plain = ["/", "/a/b?x=1", "/a/", "/a%20b/%C3%A9", "/a;v=1/b", "/.well-known/x"];
        let odd = ["/...", "/.a/..b", "/a?", "/a?b//../%2f%zz\\", "/.%20", "/a:b@c,(d)!$&'*+="];
        plain.iter().chain(&odd).for_each(|it| check(it, it));
    }

    #[test]
    fn escapes_are_decoded_or_written_in_upper_case() {
        check("/%41%7e%2Db", "/A~-b");
        check("/a%3ab%c3%a9", "/a%3Ab%C3%A9");
        check("/%252e%2525", "/%252e%2525");
    }

    #[test]
    fn dot_segments_are_removed_however_they_are_written() {
        check("/a/./b/../c", "/a/c");
        check("/a/%2e/b/%2E%2e/c", "/a/c");
        check("/a/.%2e", "/");
        check("/a/b/..", "/a/");
        check("/.", "/");
        check("/a/b/../../c/.", "/c/");
    }

    #[test]
    fn doubled_slashes_are_merged_before_dot_segments_are_removed() {
        check("//a///b//", "/a/b/");
        check("//", "/");
        check("/a//../b", "/b");
    }

    #[test]
    fn parameters_are_cut_off_as_servers_do() {
        for (path, cut) in [
            ("/a/b", None),
            ("/a%20b", None),
            ("/a;v=1/b", Some("/a/b")),
            ("/a/b;", Some("/a/b")),
            ("/a%3Bx/;y/b;x%3By", Some("/a//b")),
            ("/;/a", Some("//a")),
        ] {
            assert_eq!(without_parameters(path).as_deref(), cut, "{path}");
        }
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        for raw in [&b""[..], b"a/b", b"*", b"http://a/", b"?x"] {
            refused(raw, Ambiguous::NoLeadingSlash);
        }
        for raw in [&b"/%"[..], b"/%2", b"/%zz", b"/%+1", b"/a%"] {
            refused(raw, Ambiguous::BadEscape);
        }
        for raw in [&b"/a%2fb"[..], b"/a%2Fb", b"/%5c", b"/%5C", b"/..%2f"] {
            refused(raw, Ambiguous::EncodedSeparator);
        }
        for raw in [&b"/\0"[..], b"/%00", b"/%1f", b"/%7F", b"/a\x7f", b"/a?\r\n", b"/\t"] {
            refused(raw, Ambiguous::Control);
        }
        for raw in [&b"/a b"[..], b"/\xc3\xa9", b"/a?b c", b"/?\xff"] {
            refused(raw, Ambiguous::ForbiddenByte);
        }
        refused(b"/a\\b", Ambiguous::Backslash);
        refused(b"/a#b", Ambiguous::Fragment);
        refused(b"/a?b#c", Ambiguous::Fragment);
        for raw in [&b"/.."[..], b"/a/../..", b"/%2e%2e/a", b"//../a", b"/a/../../b"] {
            refused(raw, Ambiguous::AboveRoot);
        }
        for raw in [&b"/%c1%a1dmin"[..], b"/%C0%AF", b"/%e0%80%af", b"/%f0%80%80%af"] {
            refused(raw, Ambiguous::Overlong);
        }
        for raw in [&b"/a/..;/b"[..], b"/.;x", b"/a/%2e%2e;v=1", b"/a/..%3b/b", b"/a/%2e%3B"] {
            refused(raw, Ambiguous::DotParameter);
        }
    }

    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("/"),
            Just("//"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("a"),
            Just("%41"),
            Just("%c3"),
            Just(";"),
            Just("%3b"),
            Just("%25"),
            Just("?"),
            Just("b.c"),
        ];
        proptest::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()).into_bytes())
    }

    proptest! {
        #[test]
        fn any_bytes_are_normalised_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Target::normalise(&raw);
        }

        #[test]
        fn normalising_twice_changes_nothing(raw in tricky()) {
            if let Ok(target) = Target::normalise(&raw) {
                let once = target.to_string();
                let again = Target::normalise(once.as_bytes()).unwrap();
                prop_assert!(again.is_unchanged());
                prop_assert_eq!(again.to_string(), once);
            }
        }

        #[test]
        fn a_normal_path_has_no_empty_and_no_dot_segment(raw in tricky()) {
            if let Ok(target) = Target::normalise(&raw) {
                let path = target.path();
                prop_assert!(path.starts_with('/'));
                for wrong in ["//", "/./", "/../"] {
                    prop_assert!(!path.contains(wrong), "{}", path);
                }
                prop_assert!(!path.ends_with("/.") && !path.ends_with("/.."), "{}", path);
            }
        }
    }
}
