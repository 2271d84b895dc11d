//! Addresses as text, without the formatter: it would cost more than all else that is written of a request.

use std::io::Write;
use std::net::IpAddr;

/// The longest IPv6 address has so many characters.
const LENGTH_MAX: usize = 45;

/// An address as it is written.
#[derive(Clone, Copy, Debug)]
pub struct AddressText {
    text: [u8; LENGTH_MAX],
    length: usize,
}

impl AddressText {
    /// Writes an address down.
    pub fn of(ip: IpAddr) -> Self {
        let mut it = Self { text: [0; LENGTH_MAX], length: 0 };
        match ip {
            IpAddr::V4(ip) => {
                for (number, part) in ip.octets().into_iter().enumerate() {
                    if number > 0 {
                        it.push(b'.');
                    }
                    it.push_number(part);
                }
            }
            IpAddr::V6(ip) => {
                let mut rest = &mut it.text[..];
                let _ = write!(rest, "{ip}"); // it fits
                it.length = LENGTH_MAX - rest.len();
            }
        }
        it
    }

    fn push(&mut self, byte: u8) {
        self.text[self.length] = byte;
        self.length += 1;
    }

    fn push_number(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0' + number / 100);
        }
        if number >= 10 {
            self.push(b'0' + number / 10 % 10);
        }
        self.push(b'0' + number % 10);
    }

    /// The text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_the_standard_library_does() {
        for text in
            ["0.0.0.0", "255.255.255.255", "192.0.2.7", "::", "::1", "2001:db8::ff00:42:8329", "::ffff:192.0.2.1"]
        {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(AddressText::of(ip).as_bytes(), ip.to_string().as_bytes());
        }
    }
}
