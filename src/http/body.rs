//! A body in pieces, cut off what was received by its framing (RFC 9112, sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::header::HeaderMap;
use thiserror::Error;

use super::chunk_line::ChunkLine;
use super::framing::Framing;
use super::trailers::Trailers;

const DATA_END: BodyError = BodyError::Malformed("a chunk's data do not end in CR LF");

/// Why a body is not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// It is not chunked as RFC 9112, section 7.1, says.
    #[error("{0}")]
    Malformed(&'static str),
    /// The connection ended before the body.
    #[error("the body is not whole")]
    Truncated,
    /// Extensions or trailers are beyond their limits.
    #[error("the body's framing is too large")]
    TooMuchOverhead,
}

/// What was decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Some bytes of the body, one at least.
    Data(Bytes),
    /// The body has ended, with trailers of those that may be (see [`may_be_trailer`](super::may_be_trailer)).
    End(Option<Box<HeaderMap>>),
    /// More has to be received. What stays in the buffer is the beginning of something.
    More,
}

/// Follows a body through the bytes of its connection, and takes none that are behind it.
///
/// ```
/// use bytes::BytesMut;
/// use moongate::http::{BodyDecoder, Decoded, Framing};
///
/// let mut buffer = BytesMut::from("2\r\nhi\r\n0\r\n\r\nGET");
/// let mut decoder = BodyDecoder::new(Framing::Chunked);
/// assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::Data("hi".into())));
/// assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::End(None)));
/// assert_eq!((&buffer[..], decoder.received()), (&b"GET"[..], 12));
/// ```
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    received: u64,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Chunks(Chunks),
    Done,
    /// Nothing behind an error is understood.
    Failed(BodyError),
}

impl BodyDecoder {
    /// At the beginning of a body.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, received: 0 }
    }

    /// Whether nothing more belongs to the body. With chunks, that is known when their end was decoded.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next piece. Data are cut off the buffer without copying.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        let before = buffer.len();
        let decoded = self.step(buffer);
        self.received += (before - buffer.len()) as u64;
        if let Err(error) = decoded {
            self.state = State::Failed(error);
        }
        decoded
    }

    /// The connection has ended: `Ok` only where that is the body's end, or the body was done already.
    pub fn on_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => {}
            State::UntilClose => self.state = State::Done,
            State::Failed(error) => return Err(error),
            State::Length(_) | State::Chunks(_) => {
                self.state = State::Failed(BodyError::Truncated);
                return Err(BodyError::Truncated);
            }
        }
        Ok(())
    }

    /// The bytes that were taken for the body, framing included.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        match &mut self.state {
            State::Done => Ok(Decoded::End(None)),
            State::Failed(error) => Err(*error),
            State::UntilClose => {
                let mut endless = u64::MAX;
                Ok(cut(&mut endless, buffer))
            }
            State::Length(left) => {
                let decoded = cut(left, buffer);
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(decoded)
            }
            State::Chunks(chunks) => {
                let decoded = chunks.decode(buffer);
                if let Ok(Decoded::End(_)) = decoded {
                    self.state = State::Done;
                }
                decoded
            }
        }
    }
}

/// Cuts off what there is of the bytes that are left.
fn cut(left: &mut u64, buffer: &mut BytesMut) -> Decoded {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    if length == 0 {
        return Decoded::More;
    }
    *left -= length as u64;
    Decoded::Data(buffer.split_to(length).freeze())
}

/// A chunked body.
#[derive(Debug, Default)]
struct Chunks {
    phase: Phase,
    /// Bytes of extensions so far.
    extensions: usize,
}

#[derive(Debug)]
enum Phase {
    Line(ChunkLine),
    Data(u64),
    /// The CR LF behind the data, or the LF alone.
    Cr,
    Lf,
    Trailers(Trailers),
}

impl Default for Phase {
    fn default() -> Self {
        Self::Line(ChunkLine::default())
    }
}

impl Chunks {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        while !buffer.is_empty() {
            self.phase = match &mut self.phase {
                Phase::Line(line) => match line.read(buffer, &mut self.extensions)? {
                    None => return Ok(Decoded::More),
                    Some(0) => Phase::Trailers(Trailers::default()),
                    Some(size) => Phase::Data(size),
                },
                Phase::Data(left) => {
                    let data = cut(left, buffer);
                    if *left == 0 {
                        self.phase = Phase::Cr;
                    }
                    return Ok(data);
                }
                Phase::Cr => end_of_data(buffer, b'\r', Phase::Lf)?,
                Phase::Lf => end_of_data(buffer, b'\n', Phase::default())?,
                Phase::Trailers(trailers) => {
                    let ended = trailers.read(buffer)?;
                    return Ok(if ended { Decoded::End(trailers.take()) } else { Decoded::More });
                }
            };
        }
        Ok(Decoded::More)
    }
}

fn end_of_data(buffer: &mut BytesMut, expected: u8, next: Phase) -> Result<Phase, BodyError> {
    if buffer.first() != Some(&expected) {
        return Err(DATA_END);
    }
    buffer.advance(1);
    Ok(next)
}

#[cfg(test)]
mod tests;
