//! Identifiers of a request, a trace and a span: random bytes, shown as lower-case hex.

use std::fmt;

/// A byte's two digits, for each byte.
const PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Hex text of `N` bytes that is made once and then only copied.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn random() -> Self {
        let mut text = [0; N];
        for part in text.chunks_exact_mut(16) {
            let bytes = fastrand::u64(..).to_le_bytes();
            for (pair, byte) in part.chunks_exact_mut(2).zip(bytes) {
                pair.copy_from_slice(&PAIRS[usize::from(byte)]);
            }
        }
        Self(text)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text: [u8; N] = text.try_into().ok()?;
        let hex = text.iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        let zero = text.iter().all(|it| *it == b'0');
        (hex && !zero).then_some(Self(text))
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are UTF-8")
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(Hex<$digits>);

        impl $name {
            /// A new one, at random.
            pub fn random() -> Self {
                Self(Hex::random())
            }

            /// Reads the exact number of lower-case hex digits; all zeros is not an id.
            pub fn parse(text: &[u8]) -> Option<Self> {
                Hex::parse(text).map(Self)
            }

            /// The hex digits.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The hex digits.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

hex_id!(
    /// Names a trace (W3C Trace Context, `trace-id`).
    TraceId,
    32
);
hex_id!(
    /// Names a span (W3C Trace Context, `parent-id`).
    SpanId,
    16
);

/// The longest request id that is taken over from a trusted proxy, in bytes.
const REQUEST_ID_MAX: usize = 64;

/// Names one request, in every log line and answer. Made here, or taken over from a trusted proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; REQUEST_ID_MAX],
    length: u8,
}

impl RequestId {
    /// A new one: a random UUID (version 4, RFC 9562; S2S-43).
    pub fn random() -> Self {
        let digits = Hex::<32>::random().0;
        let mut text = [0; REQUEST_ID_MAX];
        text[..36].copy_from_slice(b"00000000-0000-4000-8000-000000000000");
        for (at, from) in [(0..8, 0..8), (9..13, 8..12), (15..18, 13..16), (20..23, 17..20), (24..36, 20..32)] {
            text[at].copy_from_slice(&digits[from]);
        }
        text[19] = b"89ab"[usize::from(digits[16]) & 3]; // the variant
        Self { text, length: 36 }
    }

    /// Takes over a foreign id of 1 to 64 letters, digits, `-`, `_`, `.`, `:`; anything else could
    /// break a log line or a header.
    pub fn parse(foreign: &[u8]) -> Option<Self> {
        let plain = |it: &u8| it.is_ascii_alphanumeric() || b"-_.:".contains(it);
        if foreign.is_empty() || foreign.len() > REQUEST_ID_MAX || !foreign.iter().all(plain) {
            return None;
        }
        let mut text = [0; REQUEST_ID_MAX];
        text[..foreign.len()].copy_from_slice(foreign);
        Some(Self { text, length: foreign.len() as u8 })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("only ASCII is taken in")
    }

    /// The id as ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_is_hex_of_its_length() {
        assert!(TraceId::parse(TraceId::random().as_str().as_bytes()).is_some());
        assert_eq!(SpanId::random().as_str().len(), 16);
        assert_ne!(RequestId::random().as_str(), RequestId::random().as_str());
    }

    #[test]
    fn s2s_43_a_request_id_is_a_uuid() {
        for _ in 0..100 {
            let id = RequestId::random();
            let parts: Vec<_> = id.as_str().split('-').collect();
            assert_eq!(parts.iter().map(|it| it.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
            assert!(parts.concat().bytes().all(|it| it.is_ascii_hexdigit()));
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']));
        }
    }

    #[test]
    fn a_foreign_id_must_be_harmless() {
        assert_eq!(RequestId::parse(b"req-1.a_b:2").unwrap().as_str(), "req-1.a_b:2");
        for wrong in [&b""[..], b"a b", b"a\"b", b"a\nb", &[b'a'; 65]] {
            assert!(RequestId::parse(wrong).is_none());
        }
        assert!(TraceId::parse(b"00000000000000000000000000000000").is_none());
        assert!(TraceId::parse(b"ABCDEF00000000000000000000000000").is_none());
    }
}
