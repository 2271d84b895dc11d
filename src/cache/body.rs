//! What a request's body means, as a fingerprint: the same input has the same response (S2S-11).

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::IgnoredAny;

use crate::http as codec;

/// Deeper JSON is taken by its bytes.
const DEPTH_MAX: usize = 64;

/// SHA-256 of the body's canonical form: of JSON without blanks and with its keys in order, of anything
/// else as it is. Numbers and texts stay as they are written: `1` and `1.0` are two inputs, because what
/// reads them may tell them apart.
pub(super) fn fingerprint(media: Option<&[u8]>, body: &[u8]) -> [u8; 32] {
    let json = media.is_some_and(is_json);
    let canonical = if json { canonical(body) } else { None };
    let digest = digest(&SHA256, canonical.as_deref().unwrap_or(body));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

fn is_json(media: &[u8]) -> bool {
    let essence = codec::essence(media).to_ascii_lowercase();
    essence == b"application/json" || essence.ends_with(b"+json")
}

/// `None` if it is no JSON.
fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    // The walk below relies on it.
    serde_json::from_slice::<IgnoredAny>(body).ok()?;
    let mut walk = Walk { text: body, out: Vec::with_capacity(body.len()) };
    walk.value(0)?;
    Some(walk.out)
}

/// Walks over valid JSON.
struct Walk<'a> {
    text: &'a [u8],
    out: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, depth: usize) -> Option<()> {
        self.blanks();
        match self.text.first()? {
            _ if depth > DEPTH_MAX => None,
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let text = self.string()?;
                self.out.extend_from_slice(text);
                Some(())
            }
            _ => {
                let end = self.text.iter().position(|it| b",]} \t\r\n".contains(it)).unwrap_or(self.text.len());
                let (word, rest) = self.text.split_at(end);
                self.out.extend_from_slice(word);
                self.text = rest;
                Some(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.step();
        self.out.push(b'[');
        loop {
            self.blanks();
            match self.text.first()? {
                b']' => {
                    self.step();
                    self.out.push(b']');
                    return Some(());
                }
                b',' => {
                    self.step();
                    self.out.push(b',');
                }
                _ => self.value(depth + 1)?,
            }
        }
    }

    /// Members by their names. Of two with the same name the order stays: which one counts is for the
    /// reader to say.
    fn object(&mut self, depth: usize) -> Option<()> {
        self.step();
        let mut members: Vec<(&'a [u8], Vec<u8>)> = Vec::new();
        loop {
            self.blanks();
            match self.text.first()? {
                b'}' => break,
                b',' => self.step(),
                _ => {
                    let name = self.string()?;
                    self.blanks();
                    self.step(); // the colon
                    let outer = std::mem::take(&mut self.out);
                    self.value(depth + 1)?;
                    members.push((name, std::mem::replace(&mut self.out, outer)));
                }
            }
        }
        self.step();
        members.sort_by(|left, right| left.0.cmp(right.0));
        self.out.push(b'{');
        for (number, (name, value)) in members.iter().enumerate() {
            if number > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(name);
            self.out.push(b':');
            self.out.extend_from_slice(value);
        }
        self.out.push(b'}');
        Some(())
    }

    /// A text with its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let mut end = 1;
        while *self.text.get(end)? != b'"' {
            end += if self.text[end] == b'\\' { 2 } else { 1 };
        }
        let (text, rest) = self.text.split_at(end + 1);
        self.text = rest;
        Some(text)
    }

    fn blanks(&mut self) {
        self.text = self.text.trim_ascii_start();
    }

    fn step(&mut self) {
        self.text = self.text.get(1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(left: &str, right: &str, same: bool) {
        let print = |body: &str| fingerprint(Some(b"application/json; charset=utf-8"), body.as_bytes());
        assert_eq!(print(left) == print(right), same, "{left} {right}");
    }

    #[test]
    fn s2s_11_json_is_compared_by_its_meaning() {
        check(r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n\"a\":1 }", true);
        check(r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#, true);
        check(r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(r#"[1,2]"#, r#"[2,1]"#, false);
        check(r#"{"a":"b c"}"#, r#"{"a":"bc"}"#, false);
        check(r#"{"a":"}\" "}"#, r#"{"a":"}\""}"#, false);
    }

    #[test]
    fn s2s_11_doubt_means_another_input() {
        check("12345678901234567890123", "12345678901234567890124", false);
        check("1", "1.0", false);
        check(r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, false);
        check("{ \"a\": 1", "{\"a\":1", false);
        let plain = |body: &str| fingerprint(Some(b"text/plain"), body.as_bytes());
        assert_ne!(plain("[1]"), plain("[1 ]"));
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_breaks(body in any::<Vec<u8>>(), text in r#"[\[\]{}",:0-9a \\]{0,40}"#) {
            fingerprint(Some(b"application/json"), &body);
            fingerprint(Some(b"application/json"), text.as_bytes());
        }
    }
}
