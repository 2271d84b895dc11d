//! Queries: pairs of a name and a value, joined by `&` (WHATWG URL, section 5.1).
//!
//! Names are compared decoded, everywhere: `%74` is `t` to every server that reads the query.

/// Whether a pair has this name, and then its value as it stands there.
pub fn value_of<'q>(pair: &'q str, name: &str) -> Option<&'q str> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    (!key.is_empty() && bare(key).eq(name.bytes())).then_some(value)
}

/// A name without the blanks around it: there are servers that take them away, and to them `+t` is `t`.
fn bare(key: &str) -> impl Iterator<Item = u8> {
    let blank = |it: u8| it == b' ' || it == b'\t';
    let end = Decoded(key).enumerate().filter(|(_, it)| !blank(*it)).last().map_or(0, |(at, _)| at + 1);
    Decoded(key).take(end).skip_while(move |it| blank(*it))
}

/// Appends a query to a target that may have one already.
pub fn join_query(target: &mut String, query: Option<&str>) {
    let Some(query) = query else { return };
    if !target.contains('?') {
        target.push('?');
    } else if !target.ends_with(['?', '&']) && !query.is_empty() {
        target.push('&');
    }
    target.push_str(query);
}

/// The bytes of a form-encoded text, decoded on the go. A lone percent sign stands for itself.
pub(super) struct Decoded<'q>(pub(super) &'q str);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, length) = match *self.0.as_bytes() {
            [] => return None,
            [b'+', ..] => (b' ', 1),
            [b'%', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            // A query is ASCII after normalising; one that is not loses its tail, never its head.
            [byte, ..] => (byte, 1),
        };
        self.0 = self.0.get(length..).unwrap_or("");
        Some(byte)
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|it| it as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_is_encoded() {
        for pair in ["t=A", "%74=A", "+t=A", "t%20=A", "+%74+=A"] {
            assert_eq!(value_of(pair, "t"), Some("A"), "{pair}");
        }
        assert_eq!(value_of("a+b=1", "a b"), Some("1"));
        assert_eq!(value_of("t", "t"), Some(""));
        for pair in ["T=A", "tt=A", "%2574=A", "=A", ""] {
            assert_eq!(value_of(pair, "t"), None, "{pair}");
        }
    }

    #[test]
    fn two_queries_become_one() {
        for (target, query, joined) in [
            ("/a", None, "/a"),
            ("/a", Some("x=1"), "/a?x=1"),
            ("/a?id=2", Some("x=1"), "/a?id=2&x=1"),
            ("/a?", Some("x=1"), "/a?x=1"),
            ("/a?id=2&", Some("x=1"), "/a?id=2&x=1"),
            ("/a?id=2", Some(""), "/a?id=2"),
            ("/a", Some(""), "/a?"),
        ] {
            let mut target = target.to_owned();
            join_query(&mut target, query);
            assert_eq!(target, joined);
        }
    }
}
