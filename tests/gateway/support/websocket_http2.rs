//! A WebSocket on a stream of HTTP/2 (RFC 8441), byte by byte: what it sends and reads is frames that the test writes.

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use super::http2::H2Client;

/// A stream that an extended CONNECT has opened, whatever the answer.
pub struct H2Socket<'a> {
    client: &'a H2Client,
    /// The answer's head.
    pub head: http::response::Parts,
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// Arrived and not read by the test.
    read: Vec<u8>,
}

impl<'a> H2Socket<'a> {
    /// Asks for a WebSocket as browsers do, with further fields.
    #[track_caller]
    pub fn open(client: &'a H2Client, path: &str, headers: &[(&str, &str)]) -> Self {
        let fields = [&[("sec-websocket-version", "13")], headers].concat();
        Self::ask(client, "websocket", path, &fields).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Asks for any protocol.
    pub fn ask(client: &'a H2Client, protocol: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self, h2::Error> {
        let (answer, sending) = Self::begin(client, protocol, path, headers, false);
        let (head, receiving) = client.run(answer)?.into_parts();
        Ok(Self { client, head, sending, receiving, read: Vec::new() })
    }

    /// Sends the extended CONNECT, and waits for nothing but the server's word that it knows such.
    pub fn begin(
        client: &H2Client,
        protocol: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> (impl Future<Output = Result<Response<RecvStream>, h2::Error>> + use<>, SendStream<Bytes>) {
        let mut request = Request::builder().method("CONNECT").uri(format!("{}{path}", client.origin()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from(protocol));
        client.run(async {
            let mut sender = client.sender().ready().await.unwrap();
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await; // until its SETTINGS are there
            }
            sender.send_request(request, end).unwrap()
        })
    }

    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|it| it.to_str().unwrap())
    }

    /// A whole frame as clients write them: masked, with a mask that changes nothing.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// These very bytes, in one frame of HTTP/2.
    pub fn send(&mut self, bytes: &[u8]) {
        self.sending.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
    }

    /// Ends its half of the stream.
    pub fn finish(&mut self) {
        self.sending.send_data(Bytes::new(), true).unwrap();
    }

    pub fn reset(mut self, reason: Reason) {
        self.sending.send_reset(reason);
        // The connection's own task is to send it.
        self.client.run(tokio::task::yield_now());
    }

    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let piece = self.client.run(self.receiving.data());
            let piece = piece.unwrap_or_else(|| panic!("it ends after {:?}", self.read)).unwrap();
            self.take(&piece);
        }
        self.read.drain(..count).collect()
    }

    /// What is left until the stream ends in good order; its reset is an error.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, h2::Error> {
        while let Some(piece) = self.client.run(self.receiving.data()) {
            let piece = piece?;
            self.take(&piece);
        }
        Ok(std::mem::take(&mut self.read))
    }

    /// As an error of ours, of an answer that is none.
    #[track_caller]
    pub fn error(&mut self) -> serde_json::Value {
        serde_json::from_slice::<serde_json::Value>(&self.read_to_end().unwrap()).unwrap()["error"].clone()
    }

    fn take(&mut self, piece: &[u8]) {
        self.read.extend_from_slice(piece);
        let _ = self.receiving.flow_control().release_capacity(piece.len()); // it may have been the last one
    }
}

/// A frame with a mask of zeros (RFC 6455, section 5.2).
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        0..=125 => frame.push(0x80 | payload.len() as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
