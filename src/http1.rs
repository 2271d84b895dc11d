//! What our two codecs of HTTP/1 have in common: that of clients' requests and that of upstreams' answers.

use bytes::{BufMut, BytesMut};

/// From where to where something stands in a head.
pub type Place = (u16, u16);

/// A head that begins with more bytes than this is not ordinary: places can't tell where its parts stand.
pub const PLACE_MAX: usize = u16::MAX as usize;

/// Where `text`, which is a part of `buffer`, stands in it. `buffer` has at most [`PLACE_MAX`] bytes.
pub fn place(buffer: &[u8], text: &[u8]) -> Place {
    if text.is_empty() {
        return (0, 0); // it need not point into the buffer
    }
    let at = text.as_ptr() as usize - buffer.as_ptr() as usize;
    (at as u16, (at + text.len()) as u16)
}

/// A length: digits only, without a zero in front. `+5`, `0x5`, `05` and ` 5` are none (RFC 9112, section 6.3).
pub fn length(text: &[u8]) -> Option<u64> {
    let canonical = matches!(text, [b'0'] | [b'1'..=b'9', ..]);
    let digits = canonical && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether `Connection` says `keep-alive` or `close`; `None` if it names anything else.
pub fn keeps_alive(connection: &[u8]) -> Option<bool> {
    if connection.eq_ignore_ascii_case(b"close") {
        return Some(false);
    }
    connection.eq_ignore_ascii_case(b"keep-alive").then_some(true)
}

/// Puts back what was taken off the front of a buffer.
pub fn put_back(taken: &[u8], buffer: &mut BytesMut) {
    let mut whole = BytesMut::from(taken);
    whole.extend_from_slice(buffer);
    *buffer = whole;
}

/// Writes a field, its value in pieces.
pub fn field(out: &mut BytesMut, name: &str, value: &[&[u8]]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    value.iter().for_each(|it| out.put_slice(it));
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_without_a_zero_in_front() {
        assert_eq!([length(b"0"), length(b"17")], [Some(0), Some(17)]);
        for text in ["", "+5", "-5", "05", "00", "0x5", "5 ", " 5", "5,5", "9999999999999999999"] {
            assert_eq!(length(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_part_is_found_where_it_stands() {
        let buffer = b"GET /a";
        assert_eq!((place(buffer, &buffer[4..]), place(buffer, b"")), ((4, 6), (0, 0)));
    }
}
