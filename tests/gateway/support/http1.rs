//! A raw HTTP/1 client: sends exactly the bytes it is given, reads answers and trusts nothing.
//!
//! It blocks, with a time limit on every read and write, so that a test is a plain function and a
//! gateway that hangs is an error instead of a test that never ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

/// How long a single read or write may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 1 << 20;

/// A stream under test: plain, or TLS over it.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

pub type Fields = Vec<(String, String)>;

/// A status line with its headers.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub status: u16,
    pub reason: String,
    pub headers: Fields,
    /// The bytes as they arrived, with the empty line.
    pub raw: Vec<u8>,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The interim (1xx) answers that came before.
    pub informational: Vec<Head>,
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        field(&self.trailers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }
}

/// The first field of this name, in any case.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut named = fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.as_str())
}

/// What of the current answer's body is still to come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    Nothing,
    Length(u64),
    NextChunk,
    Chunk(u64),
    UntilClose,
}

/// A connection and what was read from it in advance.
pub struct RawClient {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    buffer: Vec<u8>,
    left: Left,
    trailers: Fields,
}

impl RawClient {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let socket = connect(address)?;
        Ok(Self::over(Box::new(socket.try_clone()?), socket))
    }

    /// Connects by TLS; the handshake is done when this returns.
    pub fn try_connect_tls(address: SocketAddr, name: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let socket = connect(address)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut wire = rustls::StreamOwned::new(session, socket.try_clone()?);
        while wire.conn.is_handshaking() {
            wire.conn.complete_io(&mut wire.sock)?;
        }
        Ok(Self::over(Box::new(wire), socket))
    }

    fn over(wire: Box<dyn Wire>, socket: TcpStream) -> Self {
        Self { wire, socket, buffer: Vec::new(), left: Left::Nothing, trailers: Vec::new() }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Says that nothing more will be sent (FIN), and goes on reading.
    pub fn finish_sending(&self) {
        let _ = self.socket.shutdown(Shutdown::Write); // the other side may have closed already
    }

    /// Drops the connection with a RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads the answer to anything but `HEAD`.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.try_read_response("GET").unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        self.try_read_response(method).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    pub fn try_read_response(&mut self, method: &str) -> io::Result<Response> {
        let mut informational = Vec::new();
        let head = loop {
            let head = self.try_read_head(method)?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            informational.push(head);
        };
        let mut body = Vec::new();
        while let Some(piece) = self.try_read_piece()? {
            body.extend(piece);
        }
        let trailers = std::mem::take(&mut self.trailers);
        Ok(Response { status: head.status, headers: head.headers, body, trailers, informational })
    }

    /// Reads the next head, interim or final; the body is then read by pieces.
    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        self.try_read_head("GET").unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    pub fn try_read_head(&mut self, method: &str) -> io::Result<Head> {
        let raw = self.take_until(b"\r\n\r\n", HEAD_BYTES_MAX)?;
        let head = parse_head(raw)?;
        self.left = framing(&head, method)?;
        Ok(head)
    }

    /// The next piece of the body, unchunked, as soon as it is there; `None` at its end.
    pub fn try_read_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.left {
                Left::Nothing | Left::Length(0) => {
                    self.left = Left::Nothing;
                    return Ok(None);
                }
                Left::Length(left) => {
                    let piece = self.take_some(left)?;
                    self.left = Left::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Left::UntilClose => {
                    if self.buffer.is_empty() && !self.fill()? {
                        self.left = Left::Nothing;
                        return Ok(None);
                    }
                    return Ok(Some(std::mem::take(&mut self.buffer)));
                }
                Left::NextChunk => self.read_chunk_size()?,
                Left::Chunk(left) => {
                    let piece = self.take_some(left)?;
                    let left = left - piece.len() as u64;
                    self.left = if left == 0 { Left::NextChunk } else { Left::Chunk(left) };
                    if left == 0 && self.take_until(b"\r\n", 2)? != b"\r\n" {
                        return Err(wrong("a chunk is longer than it says"));
                    }
                    return Ok(Some(piece));
                }
            }
        }
    }

    fn read_chunk_size(&mut self) -> io::Result<()> {
        let line = self.take_until(b"\r\n", 1024)?;
        let digits = line.strip_suffix(b"\r\n").unwrap_or_default();
        let hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits).ok().filter(|_| hex);
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
        let Some(size) = size else {
            return Err(wrong(format!("not a chunk size: {}", line.escape_ascii())));
        };
        self.left = Left::Chunk(size);
        if size == 0 {
            self.read_trailers()?;
            self.left = Left::Nothing;
        }
        Ok(())
    }

    fn read_trailers(&mut self) -> io::Result<()> {
        let mut raw = Vec::new();
        while !raw.ends_with(b"\r\n\r\n") && raw != b"\r\n" {
            raw.extend(self.take_until(b"\r\n", HEAD_BYTES_MAX)?);
        }
        let mut fields = [httparse::EMPTY_HEADER; 128];
        match httparse::parse_headers(&raw, &mut fields).map_err(wrong)? {
            httparse::Status::Complete((_, fields)) => self.trailers = owned(fields),
            httparse::Status::Partial => return Err(wrong("trailers without an end")),
        }
        Ok(())
    }

    /// Reads until `end` was seen (it is part of the answer).
    pub fn take_until(&mut self, end: &[u8], max: usize) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            let found = self.buffer[from..].windows(end.len()).position(|it| it == end);
            if let Some(at) = found {
                return Ok(self.buffer.drain(..from + at + end.len()).collect());
            }
            if self.buffer.len() > max {
                return Err(wrong(format!("no '{}' within {max} bytes", end.escape_ascii())));
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            if !self.fill()? {
                return Err(self.cut());
            }
        }
    }

    /// Exactly this many bytes, whatever they mean.
    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().unwrap(), "{}", self.cut());
        }
        self.buffer.drain(..count).collect()
    }

    /// The same, without a panic when the connection ends before.
    pub fn try_read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill()? {
                return Err(self.cut());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn take_some(&mut self, max: u64) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() && !self.fill()? {
            return Err(self.cut());
        }
        let count = usize::try_from(max).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.drain(..count).collect())
    }

    /// Everything up to the end of the connection; a reset counts as one.
    #[track_caller]
    pub fn read_until_close(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if closed(&error) => break,
                Err(error) => panic!("still open: {error}"),
            }
        }
        std::mem::take(&mut self.buffer)
    }

    /// The other side closes without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let rest = self.read_until_close();
        assert!(rest.is_empty(), "more came: {}", rest.escape_ascii());
    }

    /// Nothing comes and nothing closes for this long.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        assert!(self.buffer.is_empty(), "it spoke: {}", self.buffer.escape_ascii());
        self.socket.set_read_timeout(Some(time)).unwrap();
        let outcome = self.fill();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let silent = matches!(&outcome, Err(error) if timed_out(error));
        assert!(silent, "{outcome:?}: {}", self.buffer.escape_ascii());
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        let count = loop {
            match self.wire.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(self.late(&error)),
                result => break result?,
            }
        };
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }

    fn late(&self, error: &io::Error) -> io::Error {
        let text = format!("nothing came in time, after '{}'", self.buffer.escape_ascii());
        io::Error::new(error.kind(), text)
    }

    fn cut(&self) -> io::Error {
        let text = format!("closed in the middle, after '{}'", self.buffer.escape_ascii());
        io::Error::new(ErrorKind::UnexpectedEof, text)
    }
}

/// `GET` on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], b"")
}

/// One request on a connection of its own.
#[track_caller]
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Response {
    try_request(address, method, path, headers, body)
        .unwrap_or_else(|error| panic!("{method} http://{address}{path}: {error}"))
}

pub fn try_request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> io::Result<Response> {
    let mut client = RawClient::try_connect(address)?;
    client.try_send(request_bytes(address, method, path, headers, body.as_ref()))?;
    client.try_read_response(method)
}

/// A plain request; `host`, `content-length` and `connection: close` are added unless given, and
/// credentials of a kind that no route asks for: they must not be seen where they do not belong.
pub fn request_bytes(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(it, _)| it.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !given("host") {
        text += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !given("x-provider-key") {
        text += &format!("x-provider-key: {}provider-key\r\n", super::process::CANARY);
    }
    if !body.is_empty() && !given("content-length") && !given("transfer-encoding") {
        text += &format!("content-length: {}\r\n", body.len());
    }
    if !given("connection") {
        text += "connection: close\r\n";
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// A TCP connection with limits on every read and write.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// An error that only says that the other side has gone.
pub fn closed(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn wrong(error: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

fn owned(fields: &[httparse::Header<'_>]) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|field| (field.name.to_owned(), text(field.value))).collect()
}

fn parse_head(raw: Vec<u8>) -> io::Result<Head> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut fields);
    let status = response
        .parse(&raw)
        .map_err(|error| wrong(format!("not an answer's head ({error}): {}", raw.escape_ascii())))?;
    if status.is_partial() {
        return Err(wrong(format!("half a head: {}", raw.escape_ascii())));
    }
    let (status, reason) = (response.code.unwrap_or_default(), response.reason.unwrap_or_default());
    let (reason, headers) = (reason.to_owned(), owned(response.headers));
    Ok(Head { status, reason, headers, raw })
}

/// RFC 9112, section 6.3, without any of its leniency.
fn framing(head: &Head, method: &str) -> io::Result<Left> {
    let all = |name: &str| -> Vec<&str> {
        let named = head.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    let left = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Left::UntilClose,
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Left::NextChunk,
        ([length], []) if length.bytes().all(|it| it.is_ascii_digit()) => Left::Length(length.parse().map_err(wrong)?),
        _ => return Err(wrong(format!("ambiguous framing: {lengths:?}, {codings:?}"))),
    };
    let bare = head.status < 200 || head.status == 204 || head.status == 304;
    if bare && head.status != 304 && left != Left::UntilClose {
        return Err(wrong(format!("a {} with framing: {lengths:?}, {codings:?}", head.status)));
    }
    Ok(if bare || method == "HEAD" { Left::Nothing } else { left })
}
