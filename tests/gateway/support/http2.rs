//! An HTTP/2 client, by prior knowledge over plain TCP or by ALPN over TLS, with trailers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::http1::{Fields, PATIENCE, Response};

/// One connection, on a thread of its own.
pub struct H2Client {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    /// What requests name as `:scheme` and `:authority`.
    origin: String,
}

impl H2Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = runtime();
        let socket = within(&runtime, TcpStream::connect(address)).unwrap();
        Self::over(runtime, socket, format!("http://{address}")).unwrap()
    }

    /// Fails when the handshake fails or the server does not choose `h2`.
    pub fn try_connect_tls(address: SocketAddr, name: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let runtime = runtime();
        let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let wire = within(&runtime, async {
            let socket = TcpStream::connect(address).await?;
            tokio_rustls::TlsConnector::from(config).connect(server, socket).await
        })?;
        let alpn = wire.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        if alpn.as_deref() != Some(b"h2") {
            return Err(io::Error::other(format!("the server chose {alpn:?}")));
        }
        Self::over(runtime, wire, format!("https://{name}:{}", address.port())).map_err(io::Error::other)
    }

    fn over<T>(runtime: Runtime, wire: T, origin: String) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = within(&runtime, h2::client::handshake(wire))?;
        // Its error shows in the requests.
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { runtime, sender, origin })
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"", None)
    }

    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        trailers: Option<&[(&str, &str)]>,
    ) -> Response {
        self.try_request(method, path, headers, body, trailers)
            .unwrap_or_else(|error| panic!("{method} {}{path} by HTTP/2: {error}", self.origin))
    }

    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        trailers: Option<&[(&str, &str)]>,
    ) -> Result<Response, h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let body = Bytes::copy_from_slice(body);
        let trailers = trailers.map(header_map);
        let sender = self.sender.clone();
        within(&self.runtime, exchange(sender, request, body, trailers))
    }

    /// The same request so many times at once, each on a stream of its own.
    #[track_caller]
    pub fn at_once(
        &self,
        count: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<Response> {
        self.at_once_within(PATIENCE, count, method, path, headers, body)
    }

    /// As [`H2Client::at_once`], with another patience.
    #[track_caller]
    pub fn at_once_within(
        &self,
        patience: Duration,
        count: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<Response> {
        let ask = |_| {
            let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            exchange(self.sender.clone(), request.body(()).unwrap(), Bytes::copy_from_slice(body), None)
        };
        let asking = futures_util::future::try_join_all((0..count).map(ask));
        let answers = self.runtime.block_on(async { tokio::time::timeout(patience, asking).await });
        let answers = answers.expect("it hangs");
        answers.unwrap_or_else(|error| panic!("{method} {}{path} {count} times: {error}", self.origin))
    }

    /// What requests name as `:scheme` and `:authority`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// For tests that steer a stream by hand, with [`H2Client::run`].
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Runs a future where the connection lives; panics when it takes too long.
    #[track_caller]
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        within(&self.runtime, future)
    }
}

async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<Response, h2::Error> {
    let bare = body.is_empty() && trailers.is_none();
    let (response, mut stream) = sender.ready().await?.send_request(request, bare)?;
    if !bare {
        // A server may answer and close the stream before it has seen all of the body.
        let _ = match trailers {
            None => stream.send_data(body, true),
            Some(trailers) => stream.send_data(body, false).and_then(|()| stream.send_trailers(trailers)),
        };
    }
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend(piece);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Response {
        status: head.status.as_u16(),
        headers: fields(&head.headers),
        body,
        trailers: fields(&trailers),
        informational: Vec::new(),
    })
}

fn header_map(fields: &[(&str, &str)]) -> HeaderMap {
    let pairs = fields
        .iter()
        .map(|(name, value)| (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()));
    pairs.collect()
}

fn fields(headers: &HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[track_caller]
fn within<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    outcome.expect("it hangs")
}
