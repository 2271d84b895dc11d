//! An upstream that does what it is told, byte by byte, and remembers every byte it was sent.
//!
//! A behaviour is asked once for each request, when the request's head is there; it answers with
//! a script. Only the script decides whether the body is read, and when.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::files::Leaf;
use super::http1::{PATIENCE, Wire, closed, connect};
use super::process::DEADLINE;

const HEAD_BYTES_MAX: usize = 1 << 20;

/// Something that happens once; scripts and tests wait for it.
#[derive(Clone, Default)]
pub struct Signal(Arc<(Mutex<bool>, Condvar)>);

impl Signal {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn give(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Whether it was given in time.
    pub fn wait(&self) -> bool {
        let waiting = self.0.0.lock().unwrap();
        *self.0.1.wait_timeout_while(waiting, DEADLINE, |given| !*given).unwrap().0
    }
}

/// The head of a request that has arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// From the method to the empty line.
    pub head: Vec<u8>,
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Which request of its connection it is, from 0.
    pub turn: usize,
    /// Which request of all it is, from 0.
    pub number: usize,
}

impl Request {
    pub fn method(&self) -> String {
        self.word(0)
    }

    pub fn target(&self) -> String {
        self.word(1)
    }

    fn word(&self, at: usize) -> String {
        let text = String::from_utf8_lossy(&self.head);
        text.split([' ', '\r']).nth(at).unwrap_or_default().to_owned()
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head);
        let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim().to_owned())
    }
}

enum Step {
    ReadBody,
    ReadMore(usize),
    Send(Vec<u8>),
    Wait(Signal),
    Pause(Duration),
    Give(Signal),
    FinishSending,
    AwaitClose,
    Close,
    Reset,
}

/// What an upstream does about one request. When it ends without closing, the next request on
/// the connection is awaited.
#[derive(Default)]
pub struct Script(Vec<Step>);

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    fn and(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Reads the body, as the head frames it.
    pub fn read_body(self) -> Self {
        self.and(Step::ReadBody)
    }

    /// Reads this many bytes, whatever they mean.
    pub fn read_more(self, bytes: usize) -> Self {
        self.and(Step::ReadMore(bytes))
    }

    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.and(Step::Send(bytes.as_ref().to_vec()))
    }

    pub fn wait(self, signal: &Signal) -> Self {
        self.and(Step::Wait(signal.clone()))
    }

    /// Lets time pass: for an upstream that is slow, not for a test that hopes.
    pub fn pause(self, time: Duration) -> Self {
        self.and(Step::Pause(time))
    }

    pub fn give(self, signal: &Signal) -> Self {
        self.and(Step::Give(signal.clone()))
    }

    /// Sends FIN and goes on reading.
    pub fn finish_sending(self) -> Self {
        self.and(Step::FinishSending)
    }

    /// Says nothing more until the other side closes.
    pub fn await_close(self) -> Self {
        self.and(Step::AwaitClose)
    }

    pub fn close(self) -> Self {
        self.and(Step::Close)
    }

    /// Closes with a RST.
    pub fn reset(self) -> Self {
        self.and(Step::Reset)
    }

    /// Reads the request, answers with a length, keeps the connection.
    pub fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        Self::new().read_body().send(answer_bytes(status, headers, body.as_ref()))
    }

    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::answer(200, &[], body)
    }

    /// Reads the request, answers in these chunks, with these trailers.
    pub fn chunked(status: u16, chunks: &[&[u8]], trailers: &[(&str, &str)]) -> Self {
        let mut script = Self::new().read_body().send(chunked_head(status));
        for piece in chunks {
            script = script.send(chunk(piece));
        }
        script.send(last_chunk(trailers))
    }

    /// Reads the request, answers without any framing, closes.
    pub fn until_close(status: u16, body: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 {status} Demo\r\n\r\n");
        Self::new().read_body().send(head).send(body).close()
    }

    /// Sends `100 Continue` before it reads the request and answers.
    pub fn continue_then(answer: Self) -> Self {
        Self::interim("HTTP/1.1 100 Continue\r\n\r\n", answer)
    }

    /// Sends `103 Early Hints` with this link before it reads the request and answers.
    pub fn early_hints_then(link: &str, answer: Self) -> Self {
        Self::interim(&format!("HTTP/1.1 103 Early Hints\r\nlink: {link}\r\n\r\n"), answer)
    }

    fn interim(head: &str, answer: Self) -> Self {
        let mut script = Self::new().send(head);
        script.0.extend(answer.0);
        script
    }

    /// Announces a length, sends less, closes.
    pub fn cut_length(announced: usize, sent: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {announced}\r\n\r\n");
        Self::new().read_body().send(head).send(sent).close()
    }

    /// Sends these chunks and closes without the last one.
    pub fn cut_chunked(chunks: &[&[u8]]) -> Self {
        let mut script = Self::new().read_body().send(chunked_head(200));
        for piece in chunks {
            script = script.send(chunk(piece));
        }
        script.close()
    }

    /// Reads the request and never answers.
    pub fn silence() -> Self {
        Self::new().read_body().await_close()
    }
}

/// An answer with its length.
pub fn answer_bytes(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Demo\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    // RFC 9110, section 8.6: none of these may announce a length.
    if status >= 200 && status != 204 && status != 304 {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

pub fn chunked_head(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Demo\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes()
}

pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub fn last_chunk(trailers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::from("0\r\n");
    for (name, value) in trailers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

/// An address where nobody listens, and where nobody will: other tests take ports at the same time.
pub fn nobody() -> SocketAddr {
    let (socket, address) = reserve(SocketAddr::from(([127, 0, 0, 1], 0)));
    std::mem::forget(socket);
    address
}

/// Holds a port without listening: connections to it are refused, no other test is given it, and
/// whoever asks for this very port may still listen there.
pub fn reserve(address: SocketAddr) -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[derive(Default)]
struct Book {
    /// All bytes of each connection, as they arrived.
    received: Vec<Vec<u8>>,
    /// The bytes of each request that a script has read, head and body.
    requests: Vec<Vec<u8>>,
    closed: usize,
    /// What a script could not do; a test that cares asks for it.
    failures: Vec<String>,
    /// The sockets still open, so that the end of the test ends them.
    sockets: HashMap<usize, TcpStream>,
}

type Behaviour = dyn Fn(&Request) -> Script + Send + Sync;

struct Shared {
    book: Mutex<Book>,
    news: Condvar,
    stopped: AtomicBool,
    behaviour: Box<Behaviour>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A scripted upstream on a free port; dropped, it closes everything.
pub struct RawUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl RawUpstream {
    pub fn start(behaviour: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Self {
        Self::listen(Box::new(behaviour), None)
    }

    /// The same, behind TLS, choosing from `alpn`.
    pub fn start_tls(
        leaf: &Leaf,
        alpn: &[&str],
        behaviour: impl Fn(&Request) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Box::new(behaviour), Some(leaf.server(alpn)))
    }

    fn listen(behaviour: Box<Behaviour>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            news: Condvar::new(),
            stopped: AtomicBool::new(false),
            behaviour,
            tls,
        });
        let accepting = {
            let shared = shared.clone();
            thread::spawn(move || accept(&listener, &shared))
        };
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.book(|book| book.received.len())
    }

    /// All bytes that arrived, by connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.book(|book| book.received.clone())
    }

    /// The requests that scripts have read, in the order in which their heads arrived.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.book(|book| book.requests.clone())
    }

    /// What scripts could not do, such as read a body that was cut.
    pub fn failures(&self) -> Vec<String> {
        self.book(|book| book.failures.clone())
    }

    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        self.wait_until("connections", |book| book.received.len() >= count);
    }

    /// Waits until the heads of this many requests have arrived.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        self.wait_until("requests", |book| book.requests.len() >= count);
    }

    /// Waits until this many connections are closed, by either side.
    #[track_caller]
    pub fn wait_for_closed(&self, count: usize) {
        self.wait_until("closed connections", |book| book.closed >= count);
    }

    /// Waits until all bytes so far, by connection, satisfy the test.
    #[track_caller]
    pub fn wait_for_received(&self, enough: impl Fn(&[Vec<u8>]) -> bool) {
        self.wait_until("bytes", |book| enough(&book.received));
    }

    #[track_caller]
    fn wait_until(&self, what: &str, enough: impl Fn(&Book) -> bool) {
        let end = Instant::now() + DEADLINE;
        let mut book = self.shared.book.lock().unwrap();
        while !enough(&book) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} do not come; {}", shown(&book));
            book = self.shared.news.wait_timeout(book, left).unwrap().0;
        }
    }

    fn book<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.shared.book.lock().unwrap())
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for socket in self.shared.book.lock().unwrap().sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes `accept`, which then sees that it is over.
        let _ = connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn shown(book: &Book) -> String {
    let received: Vec<_> = book.received.iter().map(|it| it.escape_ascii().to_string()).collect();
    format!("received {received:#?}, closed {}, failures {:?}", book.closed, book.failures)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let connection = {
            let mut book = shared.book.lock().unwrap();
            book.received.push(Vec::new());
            let connection = book.received.len() - 1;
            book.sockets.insert(connection, socket.try_clone().unwrap());
            connection
        };
        shared.news.notify_all();
        let shared = shared.clone();
        thread::spawn(move || {
            let outcome = Connection::open(socket, connection, &shared).and_then(Connection::serve);
            let mut book = shared.book.lock().unwrap();
            book.sockets.remove(&connection);
            book.closed += 1;
            if let Err(error) = outcome {
                book.failures.push(format!("connection {connection}: {error}"));
            }
            shared.news.notify_all();
        });
    }
}

struct Connection<'a> {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    shared: &'a Shared,
    connection: usize,
    /// Arrived, but not read by any script.
    buffer: Vec<u8>,
    /// The request at hand, by its place in the book.
    request: usize,
}

impl<'a> Connection<'a> {
    fn open(socket: TcpStream, connection: usize, shared: &'a Shared) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut wire: Box<dyn Wire> = Box::new(socket.try_clone()?);
        if let Some(tls) = &shared.tls {
            let session = rustls::ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
            let mut secure = rustls::StreamOwned::new(session, socket.try_clone()?);
            while secure.conn.is_handshaking() {
                secure.conn.complete_io(&mut secure.sock)?;
            }
            wire = Box::new(secure);
        }
        Ok(Self { wire, socket, shared, connection, buffer: Vec::new(), request: 0 })
    }

    fn serve(mut self) -> io::Result<()> {
        for turn in 0.. {
            while self.buffer.is_empty() {
                if !self.fill()? {
                    return Ok(());
                }
            }
            let head = self.peek_head()?;
            let number = {
                let mut book = self.shared.book.lock().unwrap();
                book.requests.push(Vec::new());
                book.requests.len() - 1
            };
            self.request = number;
            self.take(head.len())?;
            let request = Request { head, connection: self.connection, turn, number };
            let script = (self.shared.behaviour)(&request);
            for step in script.0 {
                if !self.perform(step, &request)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether the connection lives on.
    fn perform(&mut self, step: Step, request: &Request) -> io::Result<bool> {
        match step {
            Step::ReadBody => self.read_body(request)?,
            Step::ReadMore(bytes) => self.take(bytes)?,
            Step::Send(bytes) => {
                self.wire.write_all(&bytes)?;
                self.wire.flush()?;
            }
            Step::Wait(signal) => {
                // However long its test takes: whether that hangs is for the test to say.
                while !signal.wait() {
                    if self.shared.stopped.load(Ordering::Relaxed) {
                        return Err(io::Error::other("waited in vain for a signal"));
                    }
                }
            }
            Step::Pause(time) => thread::park_timeout(time),
            Step::Give(signal) => signal.give(),
            Step::FinishSending => self.socket.shutdown(Shutdown::Write)?,
            Step::AwaitClose => {
                while self.fill()? {}
                return Ok(false);
            }
            Step::Close => {
                // Not by dropping alone: the book holds the socket too.
                self.socket.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            Step::Reset => {
                socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))?;
                // The last handle must be this one for the RST to go out now.
                self.shared.book.lock().unwrap().sockets.remove(&self.connection);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_body(&mut self, request: &Request) -> io::Result<()> {
        let chunked = request.header("transfer-encoding");
        if chunked.is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks();
        }
        let length = request.header("content-length").unwrap_or_else(|| "0".to_owned());
        self.take(length.parse().map_err(io::Error::other)?)
    }

    fn read_chunks(&mut self) -> io::Result<()> {
        loop {
            let line = self.take_line()?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while self.take_line()? != "\r\n" {}
                return Ok(());
            }
            self.take(size + 2)?;
        }
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|it| it == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at + 2]).into_owned();
                self.take(at + 2)?;
                return Ok(line);
            }
            self.fill_more()?;
        }
    }

    fn peek_head(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                return Ok(self.buffer[..at + 4].to_vec());
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("a head without an end"));
            }
            self.fill_more()?;
        }
    }

    /// Moves bytes to the request at hand.
    fn take(&mut self, mut count: usize) -> io::Result<()> {
        loop {
            let now = count.min(self.buffer.len());
            let bytes = self.buffer.drain(..now);
            self.shared.book.lock().unwrap().requests[self.request].extend(bytes);
            self.shared.news.notify_all();
            count -= now;
            if count == 0 {
                return Ok(());
            }
            self.fill_more()?;
        }
    }

    fn fill_more(&mut self) -> io::Result<()> {
        if self.fill()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Whether something came; a peer that is gone is an end, not a failure.
    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        let count = match self.wire.read(&mut piece) {
            Err(error) if closed(&error) => 0,
            result => result?,
        };
        self.buffer.extend_from_slice(&piece[..count]);
        let mut book = self.shared.book.lock().unwrap();
        book.received[self.connection].extend_from_slice(&piece[..count]);
        self.shared.news.notify_all();
        Ok(count > 0)
    }
}
