//! How a message's body is framed: the fields that say so, read for both ends (RFC 9112, section 6).

use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};

use super::fields::length;
use super::scan::HeadError;

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none, or one of no bytes.
    Empty,
    /// So many bytes, one at least.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// All that comes until the connection ends; responses only.
    UntilClose,
}

/// What a head says about its body's framing, gathered field by field.
#[derive(Default)]
pub(super) struct FramingFields<'a> {
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    length_twice: bool,
    coding_twice: bool,
}

impl<'a> FramingFields<'a> {
    pub(super) fn add_length(&mut self, value: &'a [u8]) {
        self.length_twice |= self.length.replace(value).is_some();
    }

    pub(super) fn add_coding(&mut self, value: &'a [u8]) {
        self.coding_twice |= self.coding.replace(value).is_some();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length.is_none() && self.coding.is_none()
    }

    pub(super) fn has_coding(&self) -> bool {
        self.coding.is_some()
    }

    /// Whether a length other than 0 is said, or one that can't be read.
    pub(super) fn announces_bytes(&self) -> bool {
        self.length.is_some_and(|it| length(it) != Some(0))
    }

    /// `None` if nothing is said. A sender that says it twice, or in two ways, is broken or an attacker.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, HeadError> {
        match (self.length, self.coding) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(HeadError::Malformed("both Content-Length and Transfer-Encoding")),
            (Some(text), None) => match length(text).filter(|_| !self.length_twice) {
                None => Err(HeadError::Malformed("Content-Length is not one number")),
                Some(0) => Ok(Some(Framing::Empty)),
                Some(bytes) => Ok(Some(Framing::Length(bytes))),
            },
            (None, Some(coding)) if self.coding_twice || !coding.eq_ignore_ascii_case(b"chunked") => {
                Err(HeadError::Malformed("Transfer-Encoding is not the one word chunked"))
            }
            (None, Some(_)) if version != Version::HTTP_11 => {
                Err(HeadError::Malformed("Transfer-Encoding before HTTP/1.1"))
            }
            (None, Some(_)) => Ok(Some(Framing::Chunked)),
        }
    }

    /// Zeros in front are read as RFC 9110, section 8.6, wants it; the next reader may take them for octal.
    pub(super) fn write_canonical_length(&self, headers: &mut HeaderMap) {
        if let Some(text @ [b'0', _, ..]) = self.length
            && let Some(bytes) = length(text)
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lengths: &[&str], codings: &[&str], version: Version, expected: Result<Option<Framing>, &'static str>) {
        let mut fields = FramingFields::default();
        lengths.iter().for_each(|it| fields.add_length(it.as_bytes()));
        codings.iter().for_each(|it| fields.add_coding(it.as_bytes()));
        let expected = expected.map_err(HeadError::Malformed);
        assert_eq!(fields.framing(version), expected, "{lengths:?} {codings:?} {version:?}");
    }

    #[test]
    fn there_is_one_framing_or_none() {
        const V1: Version = Version::HTTP_11;
        check(&[], &[], V1, Ok(None));
        check(&["5"], &[], V1, Ok(Some(Framing::Length(5))));
        check(&["0"], &[], V1, Ok(Some(Framing::Empty)));
        check(&["0000000005"], &[], Version::HTTP_10, Ok(Some(Framing::Length(5))));
        check(&["000"], &[], V1, Ok(Some(Framing::Empty)));
        check(&[], &["chunked"], V1, Ok(Some(Framing::Chunked)));
        check(&[], &["ChunkeD"], V1, Ok(Some(Framing::Chunked)));
    }

    #[test]
    fn doubts_are_refused() {
        const V1: Version = Version::HTTP_11;
        for length in ["", "+5", "-5", "5, 5", "5,5", "0x5", "5 5", "5.0", "9223372036854775808"] {
            check(&[length], &[], V1, Err("Content-Length is not one number"));
        }
        check(&["5", "5"], &[], V1, Err("Content-Length is not one number"));
        for coding in
            ["", "gzip", "gzip, chunked", "chunked, chunked", "chunked,", ", chunked", "chunked;q=1", "x chunked"]
        {
            check(&[], &[coding], V1, Err("Transfer-Encoding is not the one word chunked"));
        }
        check(&[], &["chunked", "chunked"], V1, Err("Transfer-Encoding is not the one word chunked"));
        check(&[], &["chunked"], Version::HTTP_10, Err("Transfer-Encoding before HTTP/1.1"));
        check(&["0"], &["chunked"], V1, Err("both Content-Length and Transfer-Encoding"));
        check(&["x"], &["y"], Version::HTTP_10, Err("both Content-Length and Transfer-Encoding"));
    }

    #[test]
    fn a_length_is_handed_on_in_one_form() {
        for (text, expected) in [("010", "10"), ("00", "0"), ("0", "0"), ("7", "7"), ("x", "x")] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_str(text).unwrap());
            let mut fields = FramingFields::default();
            fields.add_length(text.as_bytes());
            fields.write_canonical_length(&mut headers);
            assert_eq!(headers[CONTENT_LENGTH], expected);
        }
    }
}
