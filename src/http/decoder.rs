//! Bodies that are compressed, decoded piece by piece: for those who have to see the text.
//!
//! What comes out is bounded by what went in and by a length, so that a few bytes never fill the memory. What is cut off,
//! or followed by something else, is an error, never a shorter text.

use std::io::{self, Write};

use brotli::DecompressorWriter;
use flate2::write::MultiGzDecoder;
use zstd::stream::write::Decoder as ZstdDecoder;

use super::coding::Coding;

/// So many bytes may come of nothing.
const FREE: u64 = 1024 * 1024;
/// Beyond that, so many of each that went in. Text is rarely shorter than a fiftieth of itself.
const RATIO_MAX: u64 = 100;
/// What decoders of brotli give away at once, in bytes.
const BUFFER: usize = 16 * 1024;
/// The largest window of zstd, as a power of two: 8 MiB (RFC 9659, section 3).
const WINDOW_MAX: u32 = 23;

/// Why a body can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not what its coding writes, or is cut off.
    #[error("the body is not what Content-Encoding says")]
    Malformed,
    /// It is longer than may be, or longer than so few bytes mean in good faith.
    #[error("the body is too long when it is decoded")]
    TooLarge,
}

/// Decodes one body.
pub struct Decoder {
    inner: Inner,
    /// Nothing came so far: an empty body is in no coding.
    empty: bool,
}

/// Boxed: each has its tables.
enum Inner {
    Br(Box<DecompressorWriter<Sink>>),
    Zstd(Box<ZstdDecoder<'static, Sink>>),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

/// What comes out, up to where it may.
struct Sink {
    out: Vec<u8>,
    received: u64,
    produced: u64,
    max: u64,
    full: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.produced += bytes.len() as u64;
        if self.produced > self.max.min(FREE + self.received.saturating_mul(RATIO_MAX)) {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    /// A decoder for a body that has at most `max` bytes when it is decoded.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(coding: Coding, max: usize) -> io::Result<Self> {
        let sink = Sink { out: Vec::new(), received: 0, produced: 0, max: max as u64, full: false };
        let inner = match coding {
            Coding::Br => Inner::Br(Box::new(DecompressorWriter::new(sink, BUFFER))),
            Coding::Zstd => {
                let mut decoder = ZstdDecoder::new(sink)?;
                decoder.window_log_max(WINDOW_MAX)?;
                Inner::Zstd(Box::new(decoder))
            }
            Coding::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(sink))),
        };
        Ok(Self { inner, empty: true })
    }

    /// Decodes the next piece: what of the text is there now.
    ///
    /// # Errors
    /// When nothing more can come of it; it is not to be called again.
    pub fn decode(&mut self, piece: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if piece.is_empty() {
            return Ok(Vec::new());
        }
        self.empty = false;
        self.sink().received += piece.len() as u64;
        let written = match &mut self.inner {
            Inner::Br(decoder) => decoder.write_all(piece),
            Inner::Zstd(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Inner::Gzip(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
        };
        self.outcome(written)
    }

    /// The body has ended: what is left of the text.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn finish(&mut self) -> Result<Vec<u8>, DecodeError> {
        if self.empty {
            return Ok(Vec::new());
        }
        let finished = match &mut self.inner {
            Inner::Br(decoder) => decoder.close(),
            Inner::Zstd(decoder) => decoder.do_finish(),
            Inner::Gzip(decoder) => decoder.try_finish(),
        };
        self.outcome(finished)
    }

    fn outcome(&mut self, outcome: io::Result<()>) -> Result<Vec<u8>, DecodeError> {
        let sink = self.sink();
        match outcome {
            _ if sink.full => Err(DecodeError::TooLarge),
            Err(_) => Err(DecodeError::Malformed),
            Ok(()) => Ok(std::mem::take(&mut sink.out)),
        }
    }

    fn sink(&mut self) -> &mut Sink {
        match &mut self.inner {
            Inner::Br(decoder) => decoder.get_mut(),
            Inner::Zstd(decoder) => decoder.get_mut(),
            Inner::Gzip(decoder) => decoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text`, by encoders that are not ours to test.
    fn encoded(coding: Coding, text: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Br => {
                let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                encoder.write_all(text).unwrap();
                encoder.into_inner()
            }
            Coding::Zstd => zstd::encode_all(text, 3).unwrap(),
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn decoded(coding: Coding, max: usize, bytes: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(coding, max).unwrap();
        let mut text = Vec::new();
        for piece in bytes.chunks(size) {
            text.extend(decoder.decode(piece)?);
        }
        text.extend(decoder.finish()?);
        Ok(text)
    }

    fn text() -> Vec<u8> {
        (0..9_000).flat_map(|it| format!("line {it}\n").into_bytes()).collect()
    }

    #[test]
    fn a_body_cut_anywhere_is_the_same_text() {
        for coding in Coding::ALL {
            let bytes = encoded(coding, &text());
            for size in [1, 7, 1000, bytes.len()] {
                assert_eq!(decoded(coding, usize::MAX, &bytes, size).unwrap(), text(), "{coding:?} by {size}");
            }
            assert_eq!(decoded(coding, usize::MAX, b"", 1), Ok(Vec::new()), "{coding:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_goes_on_or_is_something_else_is_an_error() {
        for coding in Coding::ALL {
            let bytes = encoded(coding, &text());
            for left in [1, 4, bytes.len() / 2, bytes.len() - 1] {
                let cut = decoded(coding, usize::MAX, &bytes[..left], 512);
                assert_eq!(cut, Err(DecodeError::Malformed), "{coding:?}: {left} of {}", bytes.len());
            }
            let more = [&bytes[..], b"and this"].concat();
            assert_eq!(decoded(coding, usize::MAX, &more, 512), Err(DecodeError::Malformed), "{coding:?}");
            let plain = decoded(coding, usize::MAX, b"\xffnothing of the kind", 512);
            assert_eq!(plain, Err(DecodeError::Malformed), "{coding:?}");
        }
    }

    #[test]
    fn members_one_behind_the_other_are_one_text() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let bytes = [encoded(coding, b"one "), encoded(coding, b"two")].concat();
            for size in [1, 5, 1000] {
                assert_eq!(decoded(coding, usize::MAX, &bytes, size).unwrap(), b"one two", "{coding:?}");
            }
        }
    }

    #[test]
    fn a_bomb_ends_before_it_fills_the_memory() {
        for coding in Coding::ALL {
            let bomb = encoded(coding, &vec![b'x'; 64 << 20]);
            assert!(bomb.len() < 100_000, "{coding:?}: {}", bomb.len());
            assert_eq!(decoded(coding, usize::MAX, &bomb, 4096), Err(DecodeError::TooLarge), "{coding:?}");
            let long = encoded(coding, &text());
            assert_eq!(decoded(coding, 10_000, &long, 4096), Err(DecodeError::TooLarge), "{coding:?}");
            assert!(decoded(coding, text().len(), &long, 4096).is_ok(), "{coding:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_whatever_comes(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            flip in 0..10_000_usize,
            size in 1..40_usize,
        ) {
            for coding in Coding::ALL {
                let _ = decoded(coding, 10_000, &bytes, size);
                let mut bytes = encoded(coding, &text);
                let at = flip % bytes.len();
                bytes[at] ^= 1 << (flip % 8);
                let _ = decoded(coding, 10_000, &bytes, size);
            }
        }
    }
}
