//! The field `Forwarded` (RFC 7239, section 4): what proxies say of the hops between a client and us.

use std::borrow::Cow;

use http::header::{FORWARDED, HeaderMap};
use smallvec::SmallVec;

/// What one proxy says of the hop before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element<'h> {
    /// `for`
    pub(super) client: Option<Cow<'h, [u8]>>,
    /// `proto`
    pub(super) scheme: Option<Cow<'h, [u8]>>,
    /// `host`
    pub(super) host: Option<Cow<'h, [u8]>>,
}

/// All elements, the nearest one last; `None` if a part of them is malformed: who could say where the next one begins?
pub(super) fn elements(headers: &HeaderMap) -> Option<SmallVec<[Element<'_>; 2]>> {
    let mut elements = SmallVec::new();
    for line in headers.get_all(FORWARDED) {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let element;
            (element, rest) = element_of(rest)?;
            elements.extend(element);
        }
    }
    Some(elements)
}

/// The first element, and what follows its comma. An empty one says nothing.
fn element_of(mut rest: &[u8]) -> Option<(Option<Element<'_>>, &[u8])> {
    let mut element = Element::default();
    let mut is_empty = true;
    loop {
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => break,
            Some((b',', after)) => {
                rest = after;
                break;
            }
            Some((b';', after)) => rest = after,
            Some(_) => {
                let (name, value, after) = pair(rest)?;
                (is_empty, rest) = (false, after);
                let known = match name.len() {
                    3 if name.eq_ignore_ascii_case(b"for") => &mut element.client,
                    5 if name.eq_ignore_ascii_case(b"proto") => &mut element.scheme,
                    4 if name.eq_ignore_ascii_case(b"host") => &mut element.host,
                    _ => continue,
                };
                if known.replace(value).is_some() {
                    return None; // each parameter at most once
                }
            }
        }
    }
    Some(((!is_empty).then_some(element), rest))
}

type Pair<'h> = (&'h [u8], Cow<'h, [u8]>, &'h [u8]);

/// A name, its value, and what follows.
fn pair(text: &[u8]) -> Option<Pair<'_>> {
    let equals = text.iter().position(|it| *it == b'=')?;
    let (name, rest) = (&text[..equals], &text[equals + 1..]);
    if name.is_empty() || !name.iter().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(it)) {
        return None;
    }
    let (value, rest) = match rest.strip_prefix(b"\"") {
        Some(quoted) => unquoted(quoted)?,
        None => {
            let end = rest.iter().position(|it| b",; \t".contains(it)).unwrap_or(rest.len());
            (Cow::Borrowed(&rest[..end]), &rest[end..])
        }
    };
    let rest = rest.trim_ascii_start();
    matches!(rest.first(), None | Some(b',' | b';')).then_some((name, value, rest))
}

/// What stands between quotes, and what follows.
fn unquoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let end = text.iter().position(|it| matches!(it, b'"' | b'\\'))?;
    if text[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Cow::Owned(value), &text[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED, HeaderValue::from_str(line).unwrap());
        }
        let text = |it: &Option<Cow<'_, [u8]>>| String::from_utf8_lossy(it.as_deref().unwrap_or(b"-")).into_owned();
        let list = elements(&headers)?;
        let list = list.iter().map(|it| format!("{} {} {}", text(&it.client), text(&it.scheme), text(&it.host)));
        Some(list.collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn rfc_7239_what_proxies_say_is_read_over_all_lines() {
        for (lines, read_as) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], "192.0.2.60 http -"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "[2001:db8:cafe::17]:4711 - -"),
            (&["for=192.0.2.43, for=198.51.100.17;Host=a.example"], "192.0.2.43 - -|198.51.100.17 - a.example"),
            (
                &["for=_hidden, , for=unknown", "proto=\"ht\\tps\";;host=\"a,b;c\""],
                "_hidden - -|unknown - -|- https a,b;c",
            ),
            (&["", " , "], ""),
        ] {
            assert_eq!(read(lines).as_deref(), Some(read_as), "{lines:?}");
        }
    }

    #[test]
    fn what_is_malformed_says_nothing() {
        for line in ["for", "for=\"a", "for=a b", "=a", "for=a;for=b", "for=\"a\"b", "f(r=a", "for=\"a\\"] {
            assert_eq!(read(&["for=1.2.3.4", line]), None, "{line}");
        }
    }
}
