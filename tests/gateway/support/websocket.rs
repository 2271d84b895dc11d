//! A WebSocket client that blocks, with a time limit on every read.

use std::net::{SocketAddr, TcpStream};

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::protocol::WebSocket;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, client};

use super::http1::{Fields, Response, connect};

pub use tokio_tungstenite::tungstenite::Message;

/// An upgraded connection.
pub struct WsClient {
    socket: WebSocket<TcpStream>,
    /// The headers of the 101.
    pub headers: Fields,
}

impl WsClient {
    #[track_caller]
    pub fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_connect(address, path, headers).unwrap_or_else(|answer| panic!("no upgrade: {answer:?}"))
    }

    /// Gives the answer when it is anything but a 101.
    #[track_caller]
    pub fn try_connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Box<Response>> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        match client(request, connect(address).unwrap()) {
            Ok((socket, answer)) => Ok(Self { socket, headers: fields(answer.headers()) }),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(Box::new(Response {
                status: answer.status().as_u16(),
                headers: fields(answer.headers()),
                body: answer.body().clone().unwrap_or_default(),
                ..Response::default()
            })),
            Err(error) => panic!("ws://{address}{path}: {error}"),
        }
    }

    #[track_caller]
    pub fn send(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    #[track_caller]
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send(Message::binary(bytes.to_vec()));
    }

    /// The next message, of any kind.
    #[track_caller]
    pub fn read(&mut self) -> Message {
        self.try_read().unwrap_or_else(|error| panic!("no message: {error}"))
    }

    pub fn try_read(&mut self) -> Result<Message, Error> {
        self.socket.read()
    }

    /// As [`WsClient::send`], to a connection that may be closed.
    pub fn send_if_open(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// Says that it closes, and goes on reading.
    pub fn close_with(&mut self, code: u16) -> Result<(), Error> {
        self.socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: "".into() }))
    }

    /// Closes by the book and waits until the other side has closed too.
    #[track_caller]
    pub fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        self.socket.close(Some(frame)).unwrap();
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return,
                Err(error) => panic!("not closed by the book: {error}"),
            }
        }
    }
}

fn fields(headers: &http::HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
