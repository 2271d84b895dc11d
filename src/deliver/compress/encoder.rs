//! One body's encoder: piece by piece, with what is written so far to be had after each.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::LevelsConfig;
use crate::base::{At, Diagnostics};
use crate::http::Coding;

/// How far back an encoder looks, as a power of two: half a mebibyte. What it costs each side in memory, and enough for
/// what is sent here.
const WINDOW: u32 = 19;
/// What an encoder of brotli gathers before it goes on, in bytes.
const BUFFER: usize = 16 * 1024;

/// How hard it is tried, for each coding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    br: u32,
    zstd: u32,
    gzip: u32,
}

impl Levels {
    pub(super) fn compile(config: &LevelsConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut level = |key: &str, written: Option<u32>, default: u32, least: u32, most: u32| {
            let level = written.unwrap_or(default);
            if !(least..=most).contains(&level) {
                diagnostics
                    .error(&at.key(key), format!("must be from {least} to {most}"))
                    .help(format!("{default} is the default; more takes more time for less size"));
            }
            level
        };
        Self {
            br: level("br", config.br, 4, 0, 11),
            zstd: level("zstd", config.zstd, 3, 1, 19),
            gzip: level("gzip", config.gzip, 5, 1, 9),
        }
    }
}

/// What becomes of an encoder's output behind a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// More is to come, and nobody waits for what is there.
    Gather,
    /// All that came so far can be read by the client.
    Flush,
    /// Nothing more comes.
    Finish,
}

/// An encoder, boxed: each has its window.
pub(super) enum Encoder {
    Br(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<ZstdEncoder<'static, Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Finished,
}

impl Encoder {
    /// `length` is that of the whole body, if it is known.
    pub(super) fn new(coding: Coding, levels: Levels, length: Option<u64>) -> io::Result<Self> {
        Ok(match coding {
            Coding::Br => {
                let params = BrotliEncoderParams {
                    quality: levels.br as i32,
                    lgwin: WINDOW as i32,
                    size_hint: length.and_then(|it| usize::try_from(it).ok()).unwrap_or(0),
                    ..BrotliEncoderParams::default()
                };
                Self::Br(Box::new(CompressorWriter::with_params(Vec::new(), BUFFER, &params)))
            }
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), levels.zstd as i32)?;
                // A length makes its tables smaller, but does not have to hold: it is no promise of ours.
                encoder.window_log(window_for(length))?;
                encoder.include_contentsize(false)?;
                Self::Zstd(Box::new(encoder))
            }
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(levels.gzip)))),
        })
    }

    /// Encodes pieces; what of it can go out.
    pub(super) fn encode(&mut self, pieces: &[Bytes], then: Then) -> io::Result<Bytes> {
        for piece in pieces {
            self.write(piece)?;
        }
        match then {
            Then::Gather => {}
            Then::Flush => self.flush()?,
            Then::Finish => return self.finish().map(Bytes::from),
        }
        Ok(Bytes::from(self.take()))
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Br(encoder) => encoder.write_all(piece),
            Self::Zstd(encoder) => encoder.write_all(piece),
            Self::Gzip(encoder) => encoder.write_all(piece),
            Self::Finished => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Br(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Finished => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<Vec<u8>> {
        match std::mem::replace(self, Self::Finished) {
            Self::Br(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Finished => Ok(Vec::new()),
        }
    }

    /// What was written so far; nothing where all of it was given away.
    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Br(encoder) => std::mem::take(encoder.get_mut()),
            Self::Zstd(encoder) => std::mem::take(encoder.get_mut()),
            Self::Gzip(encoder) => std::mem::take(encoder.get_mut()),
            Self::Finished => Vec::new(),
        }
    }
}

/// No window is larger than the body needs it.
fn window_for(length: Option<u64>) -> u32 {
    let bits = length.map_or(WINDOW, |it| u64::BITS - it.leading_zeros());
    bits.clamp(10, WINDOW) // the smallest that zstd has
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Decoder;

    fn levels() -> Levels {
        Levels::compile(&LevelsConfig::default(), &At::ROOT, &mut Diagnostics::default())
    }

    fn decoded(coding: Coding, bytes: Bytes) -> Vec<u8> {
        let mut decoder = Decoder::new(coding, usize::MAX).unwrap();
        let mut text = decoder.decode(&bytes).unwrap();
        text.extend(decoder.finish().unwrap());
        text
    }

    #[test]
    fn what_is_flushed_can_be_read_and_the_end_completes_it() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, levels(), None).unwrap();
            let first = encoder.encode(&[Bytes::from_static(b"hello "), Bytes::from_static(b"hello ")], Then::Flush);
            let first = first.unwrap();
            let mut decoder = Decoder::new(coding, usize::MAX).unwrap();
            assert_eq!(decoder.decode(&first).unwrap(), b"hello hello ", "{coding:?}");
            let last = encoder.encode(&[Bytes::from_static(b"there")], Then::Finish).unwrap();
            assert_eq!(decoder.decode(&last).unwrap(), b"there", "{coding:?}");
            decoder.finish().unwrap();
            assert!(encoder.encode(&[Bytes::from_static(b"more")], Then::Gather).is_err());
        }
    }

    #[test]
    fn long_texts_become_short_and_come_out_as_they_went_in() {
        let text: Vec<u8> = (0..20_000).flat_map(|it| format!("{{\"id\":{it}}},").into_bytes()).collect();
        for coding in Coding::ALL {
            for length in [None, Some(text.len() as u64)] {
                let mut encoder = Encoder::new(coding, levels(), length).unwrap();
                let mut out = Vec::new();
                for piece in text.chunks(10_000) {
                    out.extend(encoder.encode(&[Bytes::copy_from_slice(piece)], Then::Gather).unwrap());
                }
                out.extend(encoder.encode(&[], Then::Finish).unwrap());
                assert!(out.len() * 3 < text.len(), "{coding:?}: {}", out.len());
                assert_eq!(decoded(coding, out.into()), text, "{coding:?}");
            }
        }
    }
}
