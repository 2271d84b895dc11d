//! What a route's path and hosts look like: patterns of segments, and names of hosts.
//!
//! Compiles and checks them one by one; how many patterns are searched at once is `trie.rs`.

use crate::base::{At, Diagnostics};

use super::foreign;
use super::target::{Ambiguous, Target};
use super::trie::CAPTURES_MAX;

/// The most segments of a pattern; bounds how deep a walk can go.
const SEGMENTS_MAX: usize = 64;
/// The one name of a pattern that could not be read at all: it may capture anything, and no template is blamed.
pub(super) const ANYTHING: &str = "*";

/// A compiled path pattern. Equal kinds at equal places are one shape, whatever the names.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern {
    /// As written, for people.
    pub(super) text: String,
    pub(super) segments: Vec<Segment>,
    /// The names of the captures, in their order.
    pub(super) names: Vec<String>,
}

/// One segment of a pattern, without its slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this; the empty one stands behind a trailing slash.
    Literal(String),
    /// One segment that is not empty.
    Name,
    /// All that follows, also nothing.
    Rest,
}

impl Pattern {
    /// Reports all faults. The names are those that could be read, so that a template which uses
    /// them is not blamed for the pattern's fault.
    pub(super) fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut pattern = Self { text: text.to_owned(), segments: Vec::new(), names: Vec::new() };
        if let Some(theirs) = foreign::pattern(text) {
            let diagnostic = diagnostics.error(at, format!("`{}` {}", theirs.theirs, theirs.kind));
            diagnostic.help(format!("write `{}`", theirs.ours));
            pattern.names = theirs.names;
            return pattern;
        }
        let Some(inner) = text.strip_prefix('/') else {
            let help = address(text).unwrap_or_else(|| format!("write `/{text}`"));
            diagnostics.error(at, "a path starts with a slash").help(help);
            pattern.names = vec![ANYTHING.to_owned()];
            return pattern;
        };
        if let Some(mark) = text.find(['?', '#']) {
            let message = "a path pattern ends before the query";
            diagnostics
                .error(at, message)
                .help(format!("write `{}`, and conditions on the query under `query`", &text[..mark]));
            return pattern;
        }
        check_normal(text, at, diagnostics);
        let segments: Vec<&str> = inner.split('/').collect();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            pattern.segment(segment, last, at, diagnostics);
        }
        if pattern.names.len() > CAPTURES_MAX {
            diagnostics.error(at, format!("more than {CAPTURES_MAX} captures"));
        }
        if segments.len() > SEGMENTS_MAX {
            diagnostics.error(at, format!("more than {SEGMENTS_MAX} segments"));
        }
        pattern
    }

    /// Whether it takes whatever comes where the other pattern's paths are: all that is below some path above them, or
    /// any name where they have one of their own.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let fits = |(own, other): (&Segment, &Segment)| own == other || *own == Segment::Name;
        if let Some((Segment::Rest, fixed)) = self.segments.split_last() {
            return fixed.len() <= other.segments.len() && fixed.iter().zip(&other.segments).all(fits);
        }
        let (fixed, as_long) = match other.segments.split_last() {
            Some((Segment::Rest, fixed)) => (fixed, fixed.len() <= self.segments.len()),
            _ => (&other.segments[..], other.segments.len() == self.segments.len()),
        };
        let any = |(own, other): (&Segment, &Segment)| *own == Segment::Name && matches!(other, Segment::Literal(_));
        let pairs = || self.segments.iter().zip(fixed);
        as_long && pairs().all(fits) && pairs().any(any)
    }

    fn segment(&mut self, text: &str, last: bool, at: &At<'_>, diagnostics: &mut Diagnostics) {
        if !text.contains(['{', '}']) {
            self.segments.push(Segment::Literal(text.to_owned()));
            return;
        }
        let capture = text.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
        let Some(capture) = capture.filter(|it| !it.contains(['{', '}'])) else {
            diagnostics
                .error(at, format!("`{text}`: a capture is a whole segment"))
                .help("capture the segment as `{name}`; what stands in it is for the upstream");
            return;
        };
        let (name, segment) = match capture.strip_prefix('*') {
            Some(name) => (name, Segment::Rest),
            None => (capture, Segment::Name),
        };
        if segment == Segment::Rest && !last {
            diagnostics
                .error(at, format!("`{text}` stands before the end"))
                .help("only the last segment takes all that follow; write `{name}` for one");
        }
        self.name(name, at, diagnostics);
        self.segments.push(segment);
    }

    fn name(&mut self, name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
        if !is_capture_name(name) {
            diagnostics
                .error(at, format!("`{name}` is not a capture's name"))
                .help("a letter, then letters, digits, `_` and `-`");
        } else if self.names.iter().any(|it| it == name) {
            diagnostics.error(at, format!("two captures are named `{name}`"));
        }
        self.names.push(name.to_owned());
    }
}

/// What to write in the place of a whole address.
fn address(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let path = if at < rest.len() { &rest[at..] } else { "/" };
    Some(format!("write `path: \"{path}\"`, and `hosts: [\"{}\"]` beside it", without_port(&rest[..at])))
}

/// How a path stands to a pattern, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nearness {
    Matches,
    /// The same shape but for one segment, and why it does not match.
    Near(String),
    Far,
}

impl Pattern {
    /// Looks at one pattern alone, segment by segment: slow and plain, the tree's counterpart.
    pub(super) fn nearness(&self, path: &str) -> Nearness {
        let Some(inner) = path.strip_prefix('/') else { return Nearness::Far };
        let parts: Vec<&str> = inner.split('/').collect();
        let rest = self.segments.last() == Some(&Segment::Rest);
        let fixed = self.segments.len() - usize::from(rest);
        if parts.len() < fixed || (parts.len() > fixed && !rest) {
            return match self.nearness_but_for_the_slash(path) {
                Nearness::Far => self.nearness_of_the_begin(&parts),
                near => near,
            };
        }
        let pairs = || self.segments.iter().zip(&parts).take(fixed).enumerate();
        let fits = |segment: &Segment, part: &str| match segment {
            Segment::Literal(text) => text == part,
            Segment::Name | Segment::Rest => !part.is_empty(),
        };
        let mut misses = pairs().filter(|(_, (segment, part))| !fits(segment, part));
        let Some((place, (wanted, part))) = misses.next() else { return Nearness::Matches };
        // A pattern that shares no word with the path is of another family altogether.
        let kin =
            pairs().any(|(_, (segment, part))| !part.is_empty() && *segment == Segment::Literal((*part).to_owned()));
        match wanted {
            Segment::Literal(text) if kin && misses.next().is_none() => {
                Nearness::Near(format!("path segment {} is `{part}`, not `{text}`", place + 1))
            }
            _ => Nearness::Far,
        }
    }

    /// A route takes what is below its path only if that is said. The root is the begin of every path.
    fn nearness_of_the_begin(&self, parts: &[&str]) -> Nearness {
        let fits = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Literal(text) => text == part,
            Segment::Name | Segment::Rest => !part.is_empty(),
        };
        let words = self.segments.iter().any(|it| matches!(it, Segment::Literal(text) if !text.is_empty()));
        let begins = words && self.segments.len() < parts.len() && self.segments.iter().zip(parts).all(fits);
        match begins {
            true => Nearness::Near(format!(
                "the path goes on: write `{}/{{*rest}}` to take all that is below",
                self.text.trim_end_matches('/')
            )),
            false => Nearness::Far,
        }
    }

    fn nearness_but_for_the_slash(&self, path: &str) -> Nearness {
        let ends = |segments: &[Segment]| segments.last() == Some(&Segment::Literal(String::new()));
        let mut other = self.clone();
        let reason = match path.strip_suffix('/') {
            Some(_) if !ends(&self.segments) => {
                other.segments.push(Segment::Literal(String::new()));
                "path has a slash at its end"
            }
            None if ends(&self.segments) => {
                other.segments.pop();
                "path has no slash at its end"
            }
            _ => return Nearness::Far,
        };
        // The lengths agree now, or the shapes differ in more than the slash.
        if other.segments.len() != path.split('/').count() - 1 {
            return Nearness::Far;
        }
        match other.nearness(path) {
            Nearness::Matches => Nearness::Near(reason.to_owned()),
            _ => Nearness::Far,
        }
    }
}

fn is_capture_name(name: &str) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || it == b'_' || it == b'-';
    name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && name.bytes().all(plain)
}

/// A literal that is not in the normal form would never match: requests are normalised. Braces and
/// asterisks pass through, so the whole pattern can be held against its normal form.
fn check_normal(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
    match Target::normalise(text.as_bytes()) {
        Ok(target) if target.is_unchanged() => {}
        Ok(target) => diagnostics
            .error(at, "the path is not in its normal form, so no request would match")
            .help(format!("write `{}`", target.path())),
        Err(ambiguous) => diagnostics.error(at, format!("no request has such a path: {ambiguous}")).help(
            match (ambiguous, encoded(text)) {
                (Ambiguous::ForbiddenByte, Some(encoded)) => format!("write it as clients send it: `{encoded}`"),
                _ => "requests with such a path are refused before routes are matched".to_owned(),
            },
        ),
    }
}

/// A path with its blanks and what is not ASCII encoded (RFC 3986, section 2.1), if it can be sent so.
fn encoded(path: &str) -> Option<String> {
    let mut encoded = String::new();
    for byte in path.bytes() {
        match byte {
            b' ' | 0x80.. => encoded.push_str(&format!("%{byte:02X}")),
            byte => encoded.push(char::from(byte)),
        }
    }
    Target::normalise(encoded.as_bytes()).is_ok_and(|it| it.is_unchanged()).then_some(encoded)
}

/// A host that a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// This name alone.
    Exact(String),
    /// Every name that has one label, which is captured under this name, before this one.
    Label(String, String),
    /// Every name that has one or more labels before this one.
    Below(String),
}

impl Host {
    pub(super) fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let plain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Some((capture, name)) = text.strip_prefix('{').and_then(|it| it.split_once("}."))
            && is_capture_name(capture)
            && is_host(&name.to_ascii_lowercase())
        {
            return Some(Self::Label(capture.to_owned(), name.to_ascii_lowercase()));
        }
        let (below, name) = match plain.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, plain.as_str()),
        };
        if is_host(name) || (!below && is_ipv6(name)) {
            let name = name.to_owned();
            return Some(if below { Self::Below(name) } else { Self::Exact(name) });
        }
        let diagnostic = diagnostics.error(at, format!("`{text}` is not a host"));
        let bare = plain.split_once("://").map_or(plain.as_str(), |(_, rest)| rest);
        let bare = bare.split(['/', '?', '#']).next().unwrap_or_default();
        if plain == "*" {
            diagnostic.help("it takes any host: write it alone, or leave `hosts` out");
        } else if plain.contains('{') {
            diagnostic.help("one label is captured, at the beginning: `{tenant}.example.org`");
        } else if bare != plain && is_host(without_port(bare)) {
            diagnostic.help(format!("a host alone: write `{}`", without_port(bare)));
        } else if let Some(name) = plain.strip_prefix(['*', '.']).filter(|it| is_host(it)) {
            diagnostic.help(format!("write `*.{name}` for every name below"));
        } else if without_port(name) != name {
            diagnostic.help("ports do not count: leave the port out");
        } else if !text.is_ascii() {
            diagnostic.help("write the name as it is sent, in its ASCII form: `xn--…`");
        } else {
            diagnostic.help("write `api.example.org`, or `*.example.org` for every name below");
        }
        None
    }

    /// Whether a name in its normal form is meant.
    pub(super) fn takes(&self, name: &str) -> bool {
        match self {
            Self::Exact(host) => host == name,
            Self::Label(_, host) => name.split_once('.').is_some_and(|it| it.1 == host),
            Self::Below(host) => name.strip_suffix(host.as_str()).is_some_and(|it| it.ends_with('.')),
        }
    }

    /// As written.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Exact(host) => host.clone(),
            Self::Label(name, host) => format!("{{{name}}}.{host}"),
            Self::Below(host) => format!("*.{host}"),
        }
    }

    /// The name of what it captures.
    pub(super) fn capture(&self) -> Option<&str> {
        match self {
            Self::Label(name, _) => Some(name),
            Self::Exact(_) | Self::Below(_) => None,
        }
    }
}

/// The longest host name that can match, in bytes (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;

/// A request's host in the form that names are compared in: without port and trailing dot, in
/// lower case (RFC 9110, section 4.2.3). `None` if no host pattern can match it.
#[derive(Debug)]
pub struct HostName {
    text: [u8; HOST_MAX],
    length: usize,
}

impl HostName {
    /// `raw` is the authority that a request names, with or without a port.
    pub fn of(raw: Option<&str>) -> Option<Self> {
        let name = without_port(raw?);
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        if name.is_empty() || name.len() > HOST_MAX {
            return None;
        }
        let mut text = [0; HOST_MAX];
        let mut before = b'.';
        for (small, byte) in text.iter_mut().zip(name) {
            // No label is empty.
            if !byte.is_ascii() || (*byte == b'.' && before == b'.') {
                return None;
            }
            (*small, before) = (byte.to_ascii_lowercase(), *byte);
        }
        Some(Self { text, length: name.len() })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).expect("only ASCII is taken in")
    }
}

/// `[::1]:80` and `a:80` lose their port, `[::1]` has none.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn is_host(name: &str) -> bool {
    let byte = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'_';
    let label =
        |it: &str| (1..=63).contains(&it.len()) && it.bytes().all(byte) && !it.starts_with('-') && !it.ends_with('-');
    name.len() <= HOST_MAX && name.split('.').all(label)
}

fn is_ipv6(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn faults(path: &str, expected: &[&str]) {
        let mut diagnostics = Diagnostics::default();
        Pattern::compile(path, &At::ROOT, &mut diagnostics);
        let found: Vec<&str> = diagnostics.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn good_patterns_compile() {
        for path in ["/", "/a", "/a/", "/{x}", "/{*rest}", "/a/{x}/b/{*rest}", "/a%20b/v1.2;x=1"] {
            faults(path, &[]);
        }
    }

    #[test]
    fn every_fault_of_a_pattern_is_told() {
        faults("a", &["a path starts with a slash"]);
        faults("/a?b=1", &["a path pattern ends before the query"]);
        faults("/a/{x}.json", &["`{x}.json`: a capture is a whole segment"]);
        faults("/a/{x}{y}", &["`{x}{y}`: a capture is a whole segment"]);
        faults("/a/*", &["`*` is no wildcard"]);
        faults("/{*rest}/a", &["`{*rest}` stands before the end"]);
        faults("/{a}/{a}", &["two captures are named `a`"]);
        faults("/{}/{1}", &["`` is not a capture's name", "`1` is not a capture's name"]);
        faults("/a b", &["no request has such a path: raw space or byte beyond ASCII"]);
        faults("/{a}/{a}/{*b}/c", &["two captures are named `a`", "`{*b}` stands before the end"]);
        let many: String = (0..17).map(|it| format!("/{{x{it}}}")).collect();
        faults(&many, &["more than 16 captures"]);
        faults(&"/a".repeat(65), &["more than 64 segments"]);
    }

    #[test]
    fn a_pattern_that_is_not_normal_gets_its_normal_form_as_help() {
        let mut diagnostics = Diagnostics::default();
        Pattern::compile("/a//%7e/{x}/../{y}", &At::ROOT, &mut diagnostics);
        let help: Vec<_> = diagnostics.iter().filter_map(|it| it.help.as_deref()).collect();
        assert_eq!(help, ["write `/a/~/{y}`"]);
    }

    #[test]
    fn a_host_is_a_name_or_all_names_below() {
        let host = |text: &str| Host::compile(text, &At::ROOT, &mut Diagnostics::default());
        assert_eq!(host("API.example.org."), Some(Host::Exact("api.example.org".into())));
        assert_eq!(host("*.Example.org"), Some(Host::Below("example.org".into())));
        assert_eq!(host("[::1]"), Some(Host::Exact("[::1]".into())));
        for wrong in ["", "*", "a:80", "a..b", "*.*.b", "a.*.b", "é.org", "-a.org", "a b", "."] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        let below = host("*.example.org").unwrap();
        assert!(below.takes("a.example.org") && below.takes("a.b.example.org"));
        let others = ["example.org", "aexample.org", "a.example.com"];
        assert!(!others.iter().any(|it| below.takes(it)));
    }

    #[test]
    fn a_request_s_host_loses_port_case_and_dot() {
        let name = |raw: &str| HostName::of(Some(raw)).map(|it| it.as_str().to_owned());
        assert_eq!(name("API.Example.org.:8080").as_deref(), Some("api.example.org"));
        assert_eq!(name("[::1]:80").as_deref(), Some("[::1]"));
        assert_eq!(name("[::1]").as_deref(), Some("[::1]"));
        assert_eq!(name("a:").as_deref(), Some("a"));
        for wrong in ["", ".", ".example.org", "a..example.org", "é.org"] {
            assert_eq!(name(wrong), None);
        }
        assert_eq!(name(&"a".repeat(300)), None);
    }
}
