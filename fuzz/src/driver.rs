//! The codec, driven as a connection drives it.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::BytesMut;

use crate::codec::{BodyDecoder, BodyError, Decoded, HeadError, HeadScan, RequestHead, read_request};
use crate::{End, Reading, Request};

/// A piece's size and the bytes, both from a fuzzer's input.
pub fn split(input: &[u8]) -> (usize, &[u8]) {
    match input {
        [] => (1, input),
        [0, rest @ ..] => (rest.len().max(1), rest),
        [size, rest @ ..] => (usize::from(*size), rest),
    }
}

/// What comes of a head in pieces of a size, and how many bytes it took; `None` while its end is missing.
pub fn head<T>(
    input: &[u8],
    size: usize,
    read: impl Fn(&mut BytesMut, &mut HeadScan) -> Result<Option<T>, HeadError>,
) -> Result<Option<(T, usize)>, HeadError> {
    let (mut buffer, mut scan, mut received) = (BytesMut::new(), HeadScan::default(), 0);
    for piece in input.chunks(size) {
        buffer.extend_from_slice(piece);
        received += piece.len();
        if let Some(head) = read(&mut buffer, &mut scan)? {
            return Ok(Some((head, received - buffer.len())));
        }
    }
    Ok(None)
}

/// All requests on a connection.
pub fn connection(input: &[u8], size: usize) -> Reading {
    let mut reading = Reading { requests: Vec::new(), end: End::Open };
    let (mut buffer, mut scan, mut pieces) = (BytesMut::new(), HeadScan::default(), input.chunks(size));
    let mut current: Option<(Request, BodyDecoder)> = None;
    loop {
        match step(&mut buffer, &mut scan, &mut current) {
            Err(()) => {
                reading.end = End::Refused;
                return reading;
            }
            Ok(Step::Whole(request)) => {
                let connect = request.method == "CONNECT";
                reading.requests.push(request);
                if connect {
                    reading.end = End::Connect;
                    return reading;
                }
            }
            Ok(Step::Goes) => {}
            Ok(Step::More) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return reading,
            },
        }
    }
}

enum Step {
    Whole(Request),
    Goes,
    More,
}

fn step(buffer: &mut BytesMut, scan: &mut HeadScan, current: &mut Option<(Request, BodyDecoder)>) -> Result<Step, ()> {
    let Some((request, decoder)) = current else {
        let Some(head) = read_request(buffer, scan).map_err(|_| ())? else { return Ok(Step::More) };
        *current = Some((of(&head), BodyDecoder::new(head.framing)));
        return Ok(Step::Goes);
    };
    match decoder.decode(buffer).map_err(|_: BodyError| ())? {
        Decoded::More => Ok(Step::More),
        Decoded::Data(data) => {
            assert!(!data.is_empty());
            request.body.extend_from_slice(&data);
            Ok(Step::Goes)
        }
        Decoded::End(trailers) => {
            assert!(decoder.is_done());
            request.trailers = trailers.map(|it| fields(&it)).unwrap_or_default();
            let (request, _) = current.take().expect("there is one");
            Ok(Step::Whole(request))
        }
    }
}

fn of(head: &RequestHead) -> Request {
    Request {
        method: head.request.method.to_string(),
        target: String::from_utf8(head.request.raw_path().to_vec()).expect("targets are ASCII"),
        fields: fields(&head.request.headers),
        persistent: head.persistent,
        upgrade: head.upgrade,
        expects_continue: head.expects_continue,
        ..Request::default()
    }
}

/// In the order of their names.
pub fn fields(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
    let mut list: Vec<_> = map.iter().map(pair).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}
