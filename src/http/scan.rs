//! Where a head ends, found in one pass over its line ends, however many segments it comes in.
//!
//! Lines are separated here and nothing more; what stands in them is read once the head is whole.

use bytes::{Buf, BytesMut};
use memchr::memchr_iter;
use thiserror::Error;

/// Empty lines that are passed over before a request line (RFC 9112, section 2.2).
const EMPTY_LINES_MAX: u8 = 4;

pub(super) const BARE_LF: HeadError = HeadError::Malformed("a line ends without CR");
pub(super) const BARE_CR: HeadError = HeadError::Malformed("a bare CR in the head");

/// Why a head is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// It is not what RFC 9112 describes, or it can be read in more than one way.
    #[error("{0}")]
    Malformed(&'static str),
    /// The request line is longer than what is taken (RFC 9110, section 15.5.15).
    #[error("the request's target is too long")]
    TargetTooLong,
    /// The head, one of its values or the number of its fields is beyond its limit (RFC 6585, section 5).
    #[error("the head is too large")]
    FieldsTooLarge,
}

/// How large a head may be, in bytes.
pub(super) struct Limits {
    /// The first line with its end.
    pub(super) first_line: usize,
    /// All lines, the empty one included.
    pub(super) head: usize,
}

/// Where the search for the end of a head goes on, so that a head in many segments costs what its bytes cost.
///
/// It belongs to one buffer, and starts anew when a head was taken off it.
#[derive(Debug, Default)]
pub struct HeadScan {
    searched: usize,
    line: usize,
    empty_lines: u8,
}

impl HeadScan {
    /// Takes empty lines off the front; false while it is not known whether there is another one.
    pub(super) fn skip_empty_lines(&mut self, buffer: &mut BytesMut) -> Result<bool, HeadError> {
        loop {
            match buffer[..] {
                [] | [b'\r'] => return Ok(false),
                [b'\n', ..] => return Err(BARE_LF),
                [b'\r', b'\n', ..] => self.empty_lines += 1,
                [b'\r', ..] => return Err(BARE_CR),
                _ => return Ok(true),
            }
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(HeadError::Malformed("too many empty lines before a request"));
            }
            buffer.advance(2);
        }
    }

    /// Where the head ends, behind its empty line. `on_first_line` sees the first line without its end,
    /// as soon as it is whole.
    ///
    /// Verdicts depend on the bytes in their order alone, not on how many of them are there already.
    pub(super) fn end(
        &mut self,
        buffer: &[u8],
        limits: &Limits,
        on_first_line: impl Fn(&[u8]) -> Result<(), HeadError>,
    ) -> Result<Option<usize>, HeadError> {
        let window = &buffer[..buffer.len().min(limits.head)];
        let from = self.searched.min(window.len());
        for at in memchr_iter(b'\n', &window[from..]).map(|it| it + from) {
            if self.line == 0 && at >= limits.first_line {
                return Err(HeadError::TargetTooLong);
            }
            let Some(line) = window[self.line..at].strip_suffix(b"\r") else { return Err(BARE_LF) };
            if line.is_empty() {
                return Ok(Some(at + 1));
            }
            if self.line == 0 {
                on_first_line(line)?;
            }
            self.line = at + 1;
        }
        self.searched = window.len();
        if self.line == 0 && window.len() >= limits.first_line {
            return Err(HeadError::TargetTooLong);
        }
        if window.len() >= limits.head {
            return Err(HeadError::FieldsTooLarge);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { first_line: 8, head: 16 };

    #[track_caller]
    fn check(text: &str, expected: Result<Option<usize>, HeadError>) {
        let fine = |_: &[u8]| Ok(());
        assert_eq!(HeadScan::default().end(text.as_bytes(), &SMALL, fine), expected, "{text:?}");
        let mut scan = HeadScan::default();
        let found = (0..=text.len()).map(|it| scan.end(&text.as_bytes()[..it], &SMALL, fine));
        let first = found.into_iter().find(|it| *it != Ok(None)).unwrap_or(Ok(None));
        assert_eq!(first, expected, "{text:?}, byte by byte");
    }

    #[test]
    fn a_head_ends_behind_its_empty_line() {
        check("a\r\n\r\n", Ok(Some(5)));
        check("a\r\nb\r\n\r\nc\r\n\r\n", Ok(Some(8)));
        check("a\r\nb\r\n\r", Ok(None));
        check("", Ok(None));
    }

    #[test]
    fn a_line_ends_in_both_bytes() {
        check("a\n", Err(BARE_LF));
        check("a\r\n\n", Err(BARE_LF));
        check("a\r\nb\nc\r\n\r\n", Err(BARE_LF));
    }

    #[test]
    fn limits_hold_to_the_byte() {
        check("123456\r\n\r\n", Ok(Some(10)));
        check("1234567\r\n\r\n", Err(HeadError::TargetTooLong));
        check("12345678", Err(HeadError::TargetTooLong));
        check("1234567", Ok(None));
        check("a\r\n123456789\r\n\r\n", Ok(Some(16)));
        check("a\r\n1234567890\r\n\r\n", Err(HeadError::FieldsTooLarge));
        check("a\r\n12345678901234567890\n", Err(HeadError::FieldsTooLarge));
    }

    #[test]
    fn the_first_line_is_seen_before_the_others() {
        let odd = |line: &[u8]| if line == b"odd" { Err(BARE_CR) } else { Ok(()) };
        assert_eq!(HeadScan::default().end(b"odd\r\nb\n", &SMALL, odd), Err(BARE_CR));
        assert_eq!(HeadScan::default().end(b"even\r\nodd\r\n", &SMALL, odd), Ok(None));
    }

    #[test]
    fn a_few_empty_lines_are_passed_over() {
        let skipped = |text: &str| {
            let mut buffer = BytesMut::from(text);
            HeadScan::default().skip_empty_lines(&mut buffer).map(|it| (it, buffer.len()))
        };
        assert_eq!(skipped("\r\n\r\nG"), Ok((true, 1)));
        assert_eq!(skipped("\r\n\r"), Ok((false, 1)));
        assert_eq!(skipped("\r\n\n"), Err(BARE_LF));
        assert_eq!(skipped("\rG"), Err(BARE_CR));
        assert_eq!(skipped(&"\r\n".repeat(4)), Ok((false, 0)));
        assert!(skipped(&"\r\n".repeat(5)).is_err());
    }
}
