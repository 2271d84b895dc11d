//! The line before a chunk's data, byte by byte (RFC 9112, section 7.1).
//!
//! The whole grammar is walked through, extensions too: a byte that has no place in it is refused when
//! it comes, and nothing has to be kept until the line is whole.

use bytes::{Buf, BytesMut};

use super::body::BodyError;
use super::fields::is_token_byte;

/// Digits of a size.
const DIGITS_MAX: u8 = 16;
/// A line with its end, in bytes.
const LINE_MAX: usize = 8 * 1024;
/// All extensions of a body, in bytes. They are not read, and they cost what data cost.
const EXTENSIONS_MAX: usize = 16 * 1024;

const SIZE: BodyError = BodyError::Malformed("a chunk's size is not hexadecimal digits");
const TOO_LARGE: BodyError = BodyError::Malformed("a chunk's size is too large");
const EXTENSION: BodyError = BodyError::Malformed("a chunk's extension is not one");
const LINE_END: BodyError = BodyError::Malformed("a chunk's line does not end in CR LF");

/// How far a line has come.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Size,
    /// A blank behind size or value, where only `;` may follow.
    BeforeSemicolon,
    BeforeName,
    Name,
    /// A blank behind a name, where only `=` or `;` may follow.
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    /// Behind a backslash in quotes.
    Escaped,
    AfterQuotes,
    /// Behind the CR.
    Lf,
}

/// A line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct ChunkLine {
    place: Place,
    size: u64,
    digits: u8,
    length: usize,
}

impl ChunkLine {
    /// Takes bytes off the buffer, up to the line's end; the chunk's size if that has come. `extensions`
    /// counts the bytes of all extensions of the body.
    pub(super) fn read(&mut self, buffer: &mut BytesMut, extensions: &mut usize) -> Result<Option<u64>, BodyError> {
        let mut taken = 0;
        for byte in buffer.iter() {
            taken += 1;
            let ends = matches!(self.place, Place::Lf);
            self.place = self.next(*byte)?;
            self.count(extensions)?;
            if ends {
                buffer.advance(taken);
                return Ok(Some(self.size));
            }
        }
        buffer.advance(taken);
        Ok(None)
    }

    fn count(&mut self, extensions: &mut usize) -> Result<(), BodyError> {
        self.length += 1;
        *extensions += usize::from(!matches!(self.place, Place::Size | Place::Lf));
        if self.length > LINE_MAX || *extensions > EXTENSIONS_MAX {
            return Err(BodyError::TooMuchOverhead);
        }
        Ok(())
    }

    fn next(&mut self, byte: u8) -> Result<Place, BodyError> {
        use Place::*;
        Ok(match (self.place, byte) {
            (Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (Size, _) if self.digits == 0 => return Err(SIZE),
            (Size | Name | Value | AfterQuotes, b'\r') => Lf,
            (Size | BeforeSemicolon | Name | AfterName | Value | AfterQuotes, b';') => BeforeName,
            (Size | Value | AfterQuotes | BeforeSemicolon, b' ' | b'\t') => BeforeSemicolon,
            (Name | AfterName, b' ' | b'\t') => AfterName,
            (Name | AfterName, b'=') => BeforeValue,
            (BeforeName, b' ' | b'\t') => BeforeName,
            (BeforeValue, b' ' | b'\t') => BeforeValue,
            (BeforeValue, b'"') => Quoted,
            (BeforeName | Name, _) if is_token_byte(byte) => Name,
            (BeforeValue | Value, _) if is_token_byte(byte) => Value,
            (Quoted, b'"') => AfterQuotes,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            (Lf, b'\n') => Size,
            (Size, _) => return Err(SIZE),
            (Lf, _) => return Err(LINE_END),
            _ => return Err(EXTENSION),
        })
    }

    fn digit(&mut self, byte: u8) -> Result<Place, BodyError> {
        let value = char::from(byte).to_digit(16).ok_or(SIZE)?;
        self.digits += 1;
        // The top bits are looked at before they would be shifted out.
        if self.digits > DIGITS_MAX || self.size >> 59 != 0 {
            return Err(TOO_LARGE);
        }
        self.size = self.size << 4 | u64::from(value);
        Ok(Place::Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[u8]) -> Result<Option<u64>, BodyError> {
        ChunkLine::default().read(&mut BytesMut::from(line), &mut 0)
    }

    #[test]
    fn sizes_are_hexadecimal() {
        for (line, size) in [
            ("0\r\n", 0),
            ("aF\r\n", 0xaf),
            ("0000000000000005\r\n", 5),
            ("7fffffffffffffff\r\n", i64::MAX as u64),
            ("5;a\r\n", 5),
            ("5 \t; a ;b=c\r\n", 5),
            ("5;a = b;c=\"d e;\\\" \\\\\u{e9}\" ;e\r\n", 5),
            ("5;a=\"\"\r\n", 5),
            ("10000;chunk-signature=ad80c730a21e5b8d\r\n", 0x10000),
        ] {
            assert_eq!(read(line.as_bytes()), Ok(Some(size)), "{line:?}");
        }
    }

    /// Each is refused at its last byte, and not before.
    #[test]
    fn a_wrong_byte_is_refused_when_it_comes() {
        let lines: [&[u8]; 38] = [
            b"\r",
            b"\n",
            b" ",
            b";",
            b"x",
            b"-",
            b"+",
            b"5x",
            b"0x",
            b"5\n",
            b"5\0",
            b"5,",
            b"5\x0b",
            b"5_",
            b"5\r5",
            b"5\r\r",
            b"5 \r",
            b"5\t\n",
            b"5 5",
            b"5;\r",
            b"5;\n",
            b"5; \r",
            b"5;;",
            b"5;=",
            b"5;a \r",
            b"5;a=\r",
            b"5;a=;",
            b"5;a= \r",
            b"5;a=b \r",
            b"5;a=b=",
            b"5;a/",
            b"5;a\xe9",
            b"5;a=\"b\r",
            b"5;a=\"\0",
            b"5;a=\"\\\n",
            b"5;a=\"b\"c",
            b"5;a=\"\x7f",
            b"8000000000000000",
        ];
        for line in lines {
            let (start, _) = line.split_at(line.len() - 1);
            assert_eq!(read(start), Ok(None), "{}", start.escape_ascii());
            assert!(matches!(read(line), Err(BodyError::Malformed(_))), "{}", line.escape_ascii());
        }
        assert_eq!(read(b"00000000000000005"), Err(TOO_LARGE));
    }

    #[test]
    fn extensions_are_bounded() {
        let line = |length: usize| format!("1;{}\r\n", "x".repeat(length));
        assert_eq!(read(line(LINE_MAX - 4).as_bytes()), Ok(Some(1)));
        assert_eq!(read(line(LINE_MAX - 3).as_bytes()), Err(BodyError::TooMuchOverhead));
        let mut extensions = 0;
        let mut read = |length| ChunkLine::default().read(&mut BytesMut::from(line(length).as_str()), &mut extensions);
        assert_eq!(read(8000), Ok(Some(1)));
        assert_eq!(read(8000), Ok(Some(1)));
        assert_eq!(read(381), Ok(Some(1)));
        assert_eq!(read(1), Err(BodyError::TooMuchOverhead));
    }
}
