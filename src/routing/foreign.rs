//! Patterns and variables of other routers: what they would be here. Nothing of theirs means anything to us, so without
//! this a file that was carried over would serve literally what it says.

/// What a path of another router is, and how it is written here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// The first thing in it that is not ours.
    pub(super) theirs: String,
    /// What the theirs is.
    pub(super) kind: &'static str,
    /// The whole path as it is written here.
    pub(super) ours: String,
    /// The names that it would capture.
    pub(super) names: Vec<String>,
}

const CAPTURE: &str = "captures nothing here";
const EXPRESSION: &str = "is a regular expression, and a path is none";
const WILDCARD: &str = "is no wildcard";

/// Variables that other gateways fill in (nginx's and Kong's by name; those that begin so; those of expressions).
const VARIABLES: [&str; 24] = [
    "host",
    "hostname",
    "http_host",
    "uri",
    "request_uri",
    "document_uri",
    "args",
    "query_string",
    "is_args",
    "scheme",
    "request_method",
    "request_id",
    "remote_addr",
    "remote_user",
    "server_name",
    "server_port",
    "server_addr",
    "proxy_add_x_forwarded_for",
    "proxy_host",
    "realip_remote_addr",
    "upstream_addr",
    "binary_remote_addr",
    "connection_upgrade",
    "http_upgrade",
];
const VARIABLE_BEGINS: [&str; 5] = ["http_", "arg_", "cookie_", "ssl_client_", "sent_http_"];

/// A path pattern in the words of another router; `None` if it is none, or one of ours.
pub(super) fn pattern(text: &str) -> Option<Translation> {
    let bare = text.trim_start_matches(['~', '*', '=', ' ']);
    let bare = bare.strip_prefix('^').map_or(bare, |it| it.trim_start_matches(['~', ' ']));
    let bare = bare.strip_suffix('$').unwrap_or(bare);
    let anchored = bare != text;
    let inner = bare.strip_prefix('/')?;
    let mut translation =
        Translation { theirs: text.to_owned(), kind: EXPRESSION, ours: String::new(), names: Vec::new() };
    let mut first = None;
    let segments = split(inner);
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        translation.ours.push('/');
        let Some((kind, capture)) = foreign_segment(segment, index) else {
            translation.ours.push_str(segment);
            let ours = segment.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
            translation.names.extend(ours.map(|it| it.trim_start_matches('*').to_owned()));
            continue;
        };
        first.get_or_insert(((*segment).to_owned(), kind));
        let name = unused(capture.name, &translation.names);
        translation.ours.push_str(&if capture.rest && last { format!("{{*{name}}}") } else { format!("{{{name}}}") });
        translation.names.push(name);
    }
    match first {
        _ if anchored => {}
        Some((theirs, kind)) => (translation.theirs, translation.kind) = (theirs, kind),
        None => return None,
    }
    Some(translation)
}

struct Capture {
    name: String,
    rest: bool,
}

/// What a segment would capture, if it is another router's way to say so.
fn foreign_segment(segment: &str, index: usize) -> Option<(&'static str, Capture)> {
    let named = |name: &str, rest: bool| Capture { name: plain_name(name, index, rest), rest };
    let inside = |open: &str, close: &str| segment.strip_prefix(open)?.strip_suffix(close);
    if let Some(name) =
        segment.strip_prefix(':').filter(|it| it.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_'))
    {
        let rest = name.ends_with(['*', '+']) || name.contains("(.*)");
        return Some((CAPTURE, named(name, rest)));
    }
    if let Some(name) = inside("<", ">") {
        let (kind, name) = name.split_once(':').unwrap_or(("", name));
        return Some((CAPTURE, named(name, kind == "path" || name.ends_with(".."))));
    }
    if let Some(name) = inside("[", "]").filter(|it| !it.contains(['-', '^', '\\'])) {
        return Some((CAPTURE, named(name, name.contains("..."))));
    }
    if let Some(name) = inside("${", "}").or_else(|| inside("{{", "}}")) {
        return Some((CAPTURE, named(name, false)));
    }
    if let Some(capture) = inside("{", "}") {
        let name = capture.strip_prefix('*').unwrap_or(capture);
        let odd = name.contains([':', '?', '*', '+', '.', '=']);
        let rest = capture.contains(['*', '+']) || capture.contains("...");
        let rest = rest && !capture.contains("[0-9]") && !capture.contains("\\d") && !capture.contains("[^/]");
        return odd.then(|| (CAPTURE, named(name, rest)));
    }
    if is_expression(segment) {
        let rest = segment.contains(".*") || segment.contains(".+");
        let name = segment.split_once('<').and_then(|(_, it)| it.split_once('>')).map_or("", |it| it.0);
        return Some((EXPRESSION, named(name, rest)));
    }
    let bare = segment.trim_start_matches('*');
    let rest = bare != segment && bare.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    segment.contains('*').then(|| (WILDCARD, named(bare, rest)))
}

fn is_expression(segment: &str) -> bool {
    let signs = [".*", ".+", "[^", "[0-9", "[a-z", "[A-Z", "\\d", "\\w", "\\.", "(?", "]+", "]*", ")?"];
    signs.iter().any(|it| segment.contains(it)) || (segment.contains('(') && segment.contains('|'))
}

/// The part of a word that can be a capture's name.
fn plain_name(written: &str, index: usize, rest: bool) -> String {
    let word = written.trim_start_matches(|it: char| !it.is_ascii_alphabetic());
    let end = word.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(word.len());
    match (&word[..end], rest) {
        ("", true) => "rest".to_owned(),
        ("", false) if index == 0 => "name".to_owned(),
        ("", false) => "id".to_owned(),
        (word, _) => word.to_owned(),
    }
}

fn unused(name: String, taken: &[String]) -> String {
    if !taken.contains(&name) {
        return name;
    }
    (2..).map(|number| format!("{name}{number}")).find(|it| !taken.contains(it)).unwrap_or(name)
}

/// Splits at slashes that are in no bracket: `[^/]+` is one segment.
fn split(text: &str) -> Vec<&str> {
    let (mut segments, mut begin, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' => depth -= 1,
            '/' if depth <= 0 => {
                segments.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    segments.push(&text[begin..]);
    segments
}

/// The first thing in a text that another gateway would fill in and this one does not: `$1`, `$host`, `${x}`, `{{x}}`.
pub(super) fn variable(text: &str) -> Option<&str> {
    text.match_indices(['$', '{']).find_map(|(at, _)| {
        let rest = &text[at..];
        let length = match rest.strip_prefix("{{").or_else(|| rest.strip_prefix("${")) {
            Some(inside) => inside.find('}').map(|end| end + 3 + usize::from(inside[end + 1..].starts_with('}'))),
            None => rest.strip_prefix('$').and_then(|it| numbered(it).or_else(|| named(it))),
        };
        length.map(|length| &rest[..length])
    })
}

/// The first `$name` of another gateway in a text.
pub fn known_variable(text: &str) -> Option<&str> {
    text.match_indices('$').find_map(|(at, _)| named(&text[at + 1..]).map(|length| &text[at..at + length]))
}

fn word(text: &str) -> &str {
    let end = text.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(text.len());
    &text[..end]
}

/// How long `$1` is, with the dollar sign, behind which `text` begins.
fn numbered(text: &str) -> Option<usize> {
    let word = word(text);
    (matches!(word.len(), 1..=2) && word.bytes().all(|it| it.is_ascii_digit())).then_some(word.len() + 1)
}

/// How long `$name` is, with the dollar sign, behind which `text` begins.
fn named(text: &str) -> Option<usize> {
    let word = word(text);
    let known = VARIABLES.contains(&word) || VARIABLE_BEGINS.iter().any(|it| word.starts_with(it));
    known.then_some(word.len() + 1)
}

/// Whether a header's value holds something that another gateway would fill in, and what. A lone dollar sign in a
/// token is none of it.
pub(super) fn unfilled(value: &str) -> Option<&str> {
    let number = value.strip_prefix('$').and_then(numbered).is_some_and(|it| it == value.len());
    let variable = variable(value).filter(|it| number || named(&it[1..]).is_some() || it.contains('{'));
    variable.or_else(|| placeholder(value)).or_else(|| command(value))
}

/// The first `%REQ(x)%` of Envoy or `$(headers.x)` of Kong in a text.
fn command(text: &str) -> Option<&str> {
    text.match_indices(['%', '$']).find_map(|(at, sign)| {
        let rest = &text[at + 1..];
        let name = rest.find('(')?;
        let close = rest.find(')')?;
        let envoy = sign == "%"
            && name > 1
            && rest[..name].bytes().all(|it| it.is_ascii_uppercase() || it == b'_')
            && rest.get(close + 1..)?.starts_with('%');
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"._-[]\"'".contains(&it);
        let kong =
            sign == "$" && name == 0 && close > 1 && rest[1..close].bytes().all(plain) && rest[1..close].contains('.');
        let end = if envoy { close + 2 } else { close + 1 };
        (envoy || kong).then(|| &text[at..at + 1 + end])
    })
}

/// The first `{name}` in a text: a place for what was captured, where nothing is filled in.
pub(super) fn placeholder(text: &str) -> Option<&str> {
    text.match_indices('{').find_map(|(at, _)| {
        let inside = &text[at + 1..at + text[at..].find('}')?];
        let first = inside.trim_start_matches('*').bytes().next()?;
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"_-.*".contains(&it);
        (first.is_ascii_alphabetic() && inside.bytes().all(plain)).then(|| &text[at..=at + inside.len() + 1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(theirs: &str, ours: &str) {
        assert_eq!(pattern(theirs).map(|it| it.ours).as_deref(), Some(ours), "{theirs}");
    }

    #[test]
    fn what_other_routers_write_has_its_form_here() {
        for theirs in [
            "/users/:id",
            "/users/<id>",
            "/users/<int:id>",
            "/users/[id]",
            "/users/${id}",
            "/users/{{id}}",
            "/users/{id:[0-9]+}",
            "/users/{id:\\d+}",
            "/users/{id?}",
            "/users/:id?",
            "/users/([^/]+)",
            "/users/(?<id>[^/]+)",
            "/users/(?P<id>\\d+)",
            "^/users/\\d+$",
        ] {
            check(theirs, "/users/{id}");
        }
        for theirs in [
            "/a/*",
            "/a/**",
            "/a/*rest",
            "/a/(.*)",
            "/a/.*",
            "^/a/.*$",
            "~ ^/a/(.*)",
            "~* ^/a/(.+)$",
            "/a/{rest...}",
            "/a/{**rest}",
            "/a/{rest:.*}",
            "/a/<path:rest>",
            "/a/[...rest]",
            "/a/:rest*",
        ] {
            check(theirs, "/a/{*rest}");
        }
        check("= /exact", "/exact");
        check("^~ /static/", "/static/");
        check("/:a/x/:b", "/{a}/x/{b}");
        check("/img/*.png", "/img/{png}");
    }

    #[test]
    fn what_is_literal_in_a_url_stays_so() {
        for ours in [
            "/",
            "/a/{id}/{*rest}",
            "/v1/notes:batchGet",
            "/Patient/$everything",
            "/odata/Users(5)",
            "/Users('ada')/$metadata",
            "/~user/a+b;v=1",
            "/a.b-c_d!e",
            "/mail/a@b,c&d=e",
        ] {
            assert_eq!(pattern(ours), None, "{ours}");
        }
    }

    #[test]
    fn a_variable_of_another_gateway_is_found() {
        for (text, expected) in [
            ("/$1", Some("$1")),
            ("https://$host/d", Some("$host")),
            ("$remote_addr, $scheme", Some("$remote_addr")),
            ("a ${b} c", Some("${b}")),
            ("{{ user }}", Some("{{ user }}")),
            ("$http_x_a", Some("$http_x_a")),
            ("/Patient/$everything", None),
            ("costs $500 or $5a", None),
            ("{id}", None),
            ("$", None),
            ("a${", None),
        ] {
            assert_eq!(variable(text), expected, "{text}");
        }
        assert_eq!(unfilled("v {id}"), Some("{id}"));
        assert_eq!((unfilled("$2"), unfilled("Bearer p$2-x")), (Some("$2"), None));
        assert_eq!(unfilled("a %REQ(:path)% b"), Some("%REQ(:path)%"));
        assert_eq!(unfilled("$(headers.x)"), Some("$(headers.x)"));
        for literal in ["100%(a)%", "$(id)", "%A(b)", "a$(", "%("] {
            assert_eq!(unfilled(literal), None, "{literal}");
        }
        assert_eq!(known_variable("you are $remote_addr."), Some("$remote_addr"));
        for (text, expected) in [
            ("{id}", Some("{id}")),
            ("v={*rest}!", Some("{*rest}")),
            ("{\"a\": 1}", None),
            ("{ a }", None),
            ("{}", None),
            ("{", None),
            ("{ö}", None),
        ] {
            assert_eq!(placeholder(text), expected, "{text}");
        }
    }
}
