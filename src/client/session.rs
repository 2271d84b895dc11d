//! A request of HTTP/1 as Pingora's `ProxyHttp` sees it.
//!
//! Pingora lets a session of another kind stand where its own would (`ServerSession::Custom`). Ours carries the
//! request from the connection to the shell's callback, [`carried`], and waits there for the answer to be out:
//! Pingora itself neither reads nor writes a byte of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};

use super::Client;

/// Where a request and its answer are handed over.
#[derive(Clone, Default)]
pub struct Handover(Arc<Mutex<Handed>>);

#[derive(Default)]
struct Handed {
    client: Option<Client>,
    rest: Option<Rest>,
}

/// What is left to be done when Pingora is done.
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Handover {
    /// Puts a request in, and gives the session that carries it through Pingora.
    ///
    /// # Errors
    /// Never for a request that was read.
    pub fn carry(&self, client: Client) -> Result<ServerSession> {
        let mut head = RequestHeader::build_no_case(client.request().method.clone(), b"/", Some(0))?;
        head.extensions_mut().insert(self.clone());
        self.0.lock().client = Some(client);
        Ok(ServerSession::new_custom(Box::new(Carrier { head })))
    }

    /// Takes out what was put in.
    pub fn take(&self) -> Option<Client> {
        self.0.lock().client.take()
    }

    /// Puts a request back, for the connection to go on with.
    pub fn give_back(&self, client: Client) {
        self.0.lock().client = Some(client);
    }

    /// Leaves something to be done by the connection, when nothing of Pingora is held for it any more.
    pub fn leave(&self, rest: Rest) {
        self.0.lock().rest = Some(rest);
    }

    /// What was left to be done.
    pub fn rest(&self) -> Option<Rest> {
        self.0.lock().rest.take()
    }
}

/// The handover of the request that a session carries; `None` for sessions of Pingora's own.
pub fn carried(session: &ServerSession) -> Option<Handover> {
    session.as_custom()?.req_header().extensions.get::<Handover>().cloned()
}

struct Carrier {
    head: RequestHeader,
}

fn not_here<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "the request's connection answers it")
}

#[async_trait]
impl Session for Carrier {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, _: Box<ResponseHeader>, _: bool) -> Result<()> {
        not_here()
    }

    async fn write_response_header_ref(&mut self, _: &ResponseHeader, _: bool) -> Result<()> {
        not_here()
    }

    async fn write_body(&mut self, _: Bytes, _: bool) -> Result<()> {
        not_here()
    }

    async fn write_trailers(&mut self, _: HeaderMap) -> Result<()> {
        not_here()
    }

    async fn response_duplex_vec(&mut self, _: Vec<HttpTask>) -> Result<bool> {
        not_here()
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        self.head.method.to_string()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        None
    }

    async fn shutdown(&mut self, _: u32, _: &str) {}

    fn is_body_done(&mut self) -> bool {
        true
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        true
    }

    async fn read_body_or_idle(&mut self, _: bool) -> Result<Option<Bytes>> {
        not_here()
    }

    fn body_bytes_sent(&self) -> usize {
        0
    }

    fn body_bytes_read(&self) -> usize {
        0
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
