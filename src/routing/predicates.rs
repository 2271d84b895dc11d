//! Conditions on header fields, query parameters and the method.
//!
//! Each is checked only after host and path have matched. What makes one condition more specific
//! than another is here too; how that orders routes is `route.rs`.

use std::collections::{BTreeMap, BTreeSet};

use http::header::{HOST, HeaderName};
use http::{HeaderMap, Method};

use crate::base::{At, Diagnostics};

use super::query::{Decoded, value_of};
use super::written::{MatchConfig, ValueMatch, ValueRule};

/// A condition on one header field or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Predicate {
    field: Field,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Header(HeaderName),
    Query(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exact(String),
    Prefix(String),
    Present,
    Absent,
}

/// Why a predicate does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Miss {
    Missing,
    Different,
    Unwanted,
}

impl Predicate {
    pub(super) fn headers(
        written: &BTreeMap<String, ValueMatch>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Self> {
        let mut predicates: Vec<Self> = Vec::new();
        for (key, value) in written {
            let at = at.key(key);
            let Ok(name) = HeaderName::from_bytes(key.as_bytes()) else {
                diagnostics.error_at_key(&at, format!("`{key}` is not a header's name"));
                continue;
            };
            if name == HOST {
                diagnostics.error_at_key(&at, "the host is no header here").help("use `hosts`");
            }
            let field = Field::Header(name);
            if predicates.iter().any(|it| it.field == field) {
                let message = format!("`{key}` is there twice: header names ignore case");
                diagnostics.error_at_key(&at, message);
            }
            predicates.push(Self { field, test: Test::compile(value, &at, diagnostics) });
        }
        predicates
    }

    pub(super) fn query(
        written: &BTreeMap<String, ValueMatch>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Self> {
        let predicate = |(key, value): (&String, &ValueMatch)| {
            let test = Test::compile(value, &at.key(key), diagnostics);
            Self { field: Field::Query(key.clone()), test }
        };
        written.iter().map(predicate).collect()
    }

    pub(super) fn holds(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        self.miss(headers, query).is_none()
    }

    /// Why it does not hold, for people. Tells nothing of the request's value, which may be a secret, and of the one
    /// that is wanted what `shown` says.
    pub(super) fn reason(&self, headers: &HeaderMap, query: Option<&str>, shown: &MatchConfig) -> Option<String> {
        let miss = self.miss(headers, query)?;
        let field = match &self.field {
            Field::Header(name) => format!("header {name}"),
            Field::Query(name) => format!("query parameter {name}"),
        };
        let wanted = match self.field.condition(shown) {
            Some(ValueMatch::Exact(text) | ValueMatch::Rule(ValueRule::Exact(text))) => format!(" is not `{text}`"),
            Some(ValueMatch::Rule(ValueRule::Prefix(text))) => format!(" does not start with `{text}`"),
            Some(ValueMatch::Rule(ValueRule::Present(_))) | None => String::new(),
        };
        Some(match miss {
            Miss::Missing => format!("{field} missing"),
            Miss::Different => format!("{field}{wanted}"),
            Miss::Unwanted => format!("{field} is present"),
        })
    }

    fn miss(&self, headers: &HeaderMap, query: Option<&str>) -> Option<Miss> {
        match &self.field {
            Field::Header(name) => {
                let value = headers.get(name).map(|it| it.as_bytes().iter().copied());
                self.test.miss(value)
            }
            Field::Query(name) => self.test.miss(parameter(query, name)),
        }
    }

    /// Whether no request can satisfy both lists. Sound because of repeated fields only the first
    /// line counts: with any line, `x: 1` and `x: 2` could hold at once.
    pub(super) fn disjoint(left: &[Self], right: &[Self]) -> bool {
        let apart = |left: &Self| right.iter().any(|it| it.field == left.field && it.test.disjoint(&left.test));
        left.iter().any(apart)
    }

    /// How narrow a list is: how many conditions, how many of them exact, and how long the prefixes
    /// are together.
    pub(super) fn narrowness(list: &[Self]) -> (usize, usize, usize) {
        let exact = |it: &&Self| matches!(it.test, Test::Exact(_));
        let prefix = |it: &Self| if let Test::Prefix(text) = &it.test { text.len() } else { 0 };
        (list.len(), list.iter().filter(exact).count(), list.iter().map(prefix).sum())
    }
}

impl Field {
    fn condition<'m>(&self, written: &'m MatchConfig) -> Option<&'m ValueMatch> {
        match self {
            Self::Header(name) => {
                let mut headers = written.headers.iter();
                headers.find(|(key, _)| key.eq_ignore_ascii_case(name.as_str())).map(|it| it.1)
            }
            Self::Query(name) => written.query.get(name),
        }
    }
}

impl Test {
    fn compile(written: &ValueMatch, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        match written {
            ValueMatch::Exact(text) if text == "*" => {
                diagnostics
                    .warn(at, "an asterisk stands for itself here, and for no other value")
                    .help("write `{ present: true }` for any value, or `{ exact: \"*\" }` for this one");
                Self::Exact(text.clone())
            }
            ValueMatch::Exact(text) | ValueMatch::Rule(ValueRule::Exact(text)) => Self::Exact(text.clone()),
            ValueMatch::Rule(ValueRule::Prefix(text)) => {
                if text.is_empty() {
                    diagnostics.error(at, "every text starts with nothing").help("`present: true`");
                }
                Self::Prefix(text.clone())
            }
            ValueMatch::Rule(ValueRule::Present(true)) => Self::Present,
            ValueMatch::Rule(ValueRule::Present(false)) => Self::Absent,
        }
    }

    fn miss(&self, value: Option<impl Iterator<Item = u8>>) -> Option<Miss> {
        let Some(mut value) = value else {
            return (*self != Self::Absent).then_some(Miss::Missing);
        };
        let (same, miss) = match self {
            Self::Exact(text) => (value.eq(text.bytes()), Miss::Different),
            Self::Prefix(text) => (text.bytes().all(|it| value.next() == Some(it)), Miss::Different),
            Self::Present => (true, Miss::Different),
            Self::Absent => (false, Miss::Unwanted),
        };
        (!same).then_some(miss)
    }

    fn disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(left), Self::Exact(right)) => left != right,
            (Self::Exact(text), Self::Prefix(start)) | (Self::Prefix(start), Self::Exact(text)) => {
                !text.starts_with(start.as_str())
            }
            (Self::Prefix(left), Self::Prefix(right)) => {
                !left.starts_with(right.as_str()) && !right.starts_with(left.as_str())
            }
            (Self::Absent, other) | (other, Self::Absent) => *other != Self::Absent,
            (Self::Present, _) | (_, Self::Present) => false,
        }
    }
}

/// The first value of a query parameter, decoded.
fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<Decoded<'q>> {
    query?.split('&').find_map(|it| value_of(it, name)).map(Decoded)
}

/// The methods that a route takes; none: any.
#[derive(Clone, Debug)]
pub(super) struct Methods {
    pub(super) list: Vec<Method>,
}

impl Methods {
    pub(super) fn compile(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut list = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let at = at.index(index);
            let upper = text.to_ascii_uppercase();
            match Method::from_bytes(text.as_bytes()) {
                Ok(_) if text.contains('*') => {
                    diagnostics
                        .error(&at, format!("`{text}` stands for no other method"))
                        .help("leave `methods` out to take any");
                }
                // Methods are case-sensitive (RFC 9110, section 9.1): `get` would never match.
                Ok(_) if *text != upper && is_standard(&upper) => diagnostics
                    .error(&at, format!("`{text}` is not `{upper}`: methods heed case"))
                    .help(format!("write `{upper}`")),
                Ok(method) if list.contains(&method) => {}
                Ok(method) => list.push(method),
                Err(_) => diagnostics
                    .error(&at, format!("`{text}` is not a method"))
                    .help("one word, such as `GET`; leave `methods` out to take any"),
            }
        }
        Self { list }
    }

    pub(super) fn any(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the method is taken, and if so whether by its own name: a route that lists `HEAD`
    /// goes before one that takes it along with `GET` (RFC 9110, section 9.3.2).
    pub(super) fn fit(&self, method: &Method) -> Option<bool> {
        if self.any() || self.list.contains(method) {
            return Some(true);
        }
        (*method == Method::HEAD && self.list.contains(&Method::GET)).then_some(false)
    }

    /// Whether some method is taken by both, by its own name.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        (self.any() && other.any()) || self.list.iter().any(|it| other.list.contains(it))
    }
}

/// The value of `Allow` (RFC 9110, section 10.2.1) for these methods: no more than is really taken.
pub(super) fn allow(mut methods: BTreeSet<&str>) -> String {
    if methods.contains("GET") {
        methods.insert("HEAD");
    }
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_standard(method: &str) -> bool {
    let standard = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    standard.contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(yaml: &str) -> Test {
        let written: ValueMatch = serde_yaml::from_str(yaml).unwrap();
        Test::compile(&written, &At::ROOT, &mut Diagnostics::default())
    }

    #[track_caller]
    fn query(rule: &str, query: Option<&str>, expected: bool) {
        let predicate = Predicate { field: Field::Query("a".into()), test: test(rule) };
        assert_eq!(predicate.holds(&HeaderMap::new(), query), expected, "{rule} {query:?}");
    }

    #[test]
    fn a_value_is_plain_text_or_a_rule() {
        assert_eq!(test("x"), Test::Exact("x".into()));
        assert_eq!(test("{ exact: x }"), Test::Exact("x".into()));
        assert_eq!(test("{ prefix: x }"), Test::Prefix("x".into()));
        assert_eq!(test("{ present: false }"), Test::Absent);
        assert!(serde_yaml::from_str::<ValueMatch>("{ regex: x }").is_err());
        assert!(serde_yaml::from_str::<ValueMatch>("{ exact: x, present: true }").is_err());
    }

    #[test]
    fn a_query_parameter_counts_decoded_and_with_its_first_value() {
        query("b c", Some("x=1&%61=b+%63&a=d"), true);
        query("d", Some("a=b&a=d"), false);
        query("{ prefix: b% }", Some("a=b%zz"), true);
        query("''", Some("a"), true);
        query("{ present: true }", Some("a"), true);
        query("{ present: true }", Some("b=a&=a"), false);
        query("{ present: false }", None, true);
        query("{ present: false }", Some("a="), false);
        query("x", None, false);
    }

    #[test]
    fn tests_are_disjoint_only_if_no_value_passes_both() {
        let check = |left: &str, right: &str, expected: bool| {
            assert_eq!(test(left).disjoint(&test(right)), expected, "{left} {right}");
            assert_eq!(test(right).disjoint(&test(left)), expected, "{right} {left}");
        };
        check("a", "b", true);
        check("a", "a", false);
        check("ab", "{ prefix: a }", false);
        check("ab", "{ prefix: b }", true);
        check("{ prefix: a }", "{ prefix: ab }", false);
        check("{ prefix: a }", "{ prefix: b }", true);
        check("{ present: true }", "{ present: false }", true);
        check("{ present: false }", "{ present: false }", false);
        check("{ present: false }", "a", true);
        check("{ present: true }", "a", false);
    }

    #[test]
    fn head_is_allowed_along_with_get() {
        assert_eq!(allow(BTreeSet::from(["POST", "GET"])), "GET, HEAD, POST");
        let mut diagnostics = Diagnostics::default();
        let written = ["get".to_owned(), "GET".to_owned(), "A B".to_owned(), "purge".to_owned()];
        let methods = Methods::compile(&written, &At::ROOT, &mut diagnostics);
        assert_eq!(diagnostics.iter().count(), 2);
        assert_eq!(methods.fit(&Method::GET), Some(true));
        assert_eq!(methods.fit(&Method::HEAD), Some(false));
        assert_eq!(methods.fit(&Method::POST), None);
    }
}
