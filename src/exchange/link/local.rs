//! A local service: the call, the request's body and the answer's body are polled in one task.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use http::Method;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::exchange::service::{Caller, LocalService, UpgradeSlot};

/// What an upgraded connection holds in each direction.
const DUPLEX: usize = 16 * 1024;

type Call = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Box<dyn Any + Send>>> + Send>>;

pub(in crate::exchange) struct Local {
    call: Option<Call>,
    /// Feeds the request's body; its bound is `queued`, which [`super::Link::room`] asks.
    feed: Option<UnboundedSender<io::Result<Bytes>>>,
    queued: Arc<AtomicUsize>,
    answer: Option<Pin<Box<Body>>>,
    answers_head: bool,
    /// Our end of an upgraded connection, and what waits to be written to it.
    near: Option<DuplexStream>,
    waiting: BytesMut,
    upgraded: bool,
}

impl Local {
    pub(in crate::exchange) fn begin(service: &dyn LocalService, head: &RequestHeader, upgrade: bool) -> Self {
        let (feed, mut fed) = unbounded_channel::<io::Result<Bytes>>();
        let queued = Arc::new(AtomicUsize::new(0));
        let taken = queued.clone();
        let body = stream::poll_fn(move |cx| {
            fed.poll_recv(cx).map(|item| {
                if let Some(Ok(piece)) = &item {
                    taken.fetch_sub(piece.len(), Ordering::Relaxed);
                }
                item
            })
        });
        let mut request = http::Request::new(Body::from_stream(body));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        if let Some(caller) = head.extensions.get::<Caller>() {
            request.extensions_mut().insert(caller.clone());
            if let Some(principal) = &caller.principal {
                request.extensions_mut().insert(principal.clone());
            }
        }
        let mut near = None;
        if upgrade {
            let (ours, theirs) = tokio::io::duplex(DUPLEX);
            near = Some(ours);
            request.extensions_mut().insert(UpgradeSlot(Arc::new(Mutex::new(Some(theirs)))));
        }
        Self {
            call: Some(Box::pin(AssertUnwindSafe(service.call(request)).catch_unwind())),
            feed: Some(feed),
            queued,
            answer: None,
            answers_head: head.method == Method::HEAD,
            near,
            waiting: BytesMut::new(),
            upgraded: false,
        }
    }

    /// An answer that is there already.
    pub(in crate::exchange) fn answered(answer: http::Response<Body>, method: &Method) -> Self {
        let call: Call = Box::pin(std::future::ready(Ok(answer)));
        Self { call: Some(call), answers_head: *method == Method::HEAD, ..Self::nothing() }
    }

    /// In place of a link that is over.
    pub(in crate::exchange) fn nothing() -> Self {
        Self {
            call: None,
            feed: None,
            queued: Arc::default(),
            answer: None,
            answers_head: false,
            near: None,
            waiting: BytesMut::new(),
            upgraded: false,
        }
    }

    pub(in crate::exchange) fn is_nothing(&self) -> bool {
        self.call.is_none() && self.answer.is_none()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queued.load(Ordering::Relaxed) + self.waiting.len()
    }

    pub(super) fn send(&mut self, piece: Bytes, end: bool) {
        if self.near.is_some() {
            self.waiting.extend_from_slice(&piece);
            return;
        }
        if !piece.is_empty()
            && let Some(feed) = &self.feed
        {
            self.queued.fetch_add(piece.len(), Ordering::Relaxed);
            let _ = feed.send(Ok(piece)); // a service need not read the whole body
        }
        if end {
            self.feed = None;
        }
    }

    /// The upload broke off: the service must not take half a body for a whole one.
    pub(super) fn cut(&mut self) {
        if let Some(feed) = self.feed.take() {
            let _ = feed.send(Err(io::ErrorKind::ConnectionAborted.into()));
        }
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        let Some(near) = &mut self.near else { return };
        while !self.waiting.is_empty() {
            match Pin::new(&mut *near).poll_write(cx, &self.waiting) {
                Poll::Ready(Ok(written)) => self.waiting.advance(written),
                Poll::Ready(Err(_)) => self.waiting.clear(), // the read side sees the end
                Poll::Pending => return,
            }
        }
    }

    pub(super) fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        if let Some(call) = &mut self.call {
            let answer = ready!(call.as_mut().poll(cx));
            self.call = None;
            return Poll::Ready(match answer {
                Ok(answer) => self.head_of(answer),
                Err(_) => Error::e_explain(ErrorType::InternalError, "the local service panicked"),
            });
        }
        if self.upgraded { self.poll_upgraded(cx) } else { self.poll_body(cx) }
    }

    fn head_of(&mut self, answer: http::Response<Body>) -> Result<HttpTask> {
        let (parts, body) = answer.into_parts();
        self.upgraded = parts.status == http::StatusCode::SWITCHING_PROTOCOLS && self.near.is_some();
        if !self.upgraded {
            self.near = None;
        }
        let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len()))?;
        for (name, value) in &parts.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(length) = body.size_hint().exact()
            && !self.upgraded
            && !parts.status.is_informational()
            && parts.status != http::StatusCode::NO_CONTENT
            && !parts.headers.contains_key(http::header::CONTENT_LENGTH)
        {
            head.insert_header(http::header::CONTENT_LENGTH, length.to_string())?;
        }
        let end = !self.upgraded && (self.answers_head || body.is_end_stream());
        self.answer = Some(Box::pin(body));
        Ok(HttpTask::Header(Box::new(head), end))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        let Some(body) = &mut self.answer else { return Poll::Ready(Ok(HttpTask::Done)) };
        Poll::Ready(match ready!(body.as_mut().poll_frame(cx)) {
            None => Ok(HttpTask::Done),
            Some(Ok(frame)) => Ok(match frame.into_data() {
                Ok(piece) => HttpTask::Body(Some(piece), false),
                Err(frame) => HttpTask::Trailer(frame.into_trailers().ok().map(Box::new)),
            }),
            Some(Err(error)) => Error::e_because(ErrorType::ReadError, "the local service's body broke off", error),
        })
    }

    fn poll_upgraded(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        let Some(near) = &mut self.near else { return Poll::Ready(Ok(HttpTask::UpgradedBody(None, true))) };
        let mut space = [0; DUPLEX];
        let mut space = ReadBuf::new(&mut space);
        let read = ready!(Pin::new(near).poll_read(cx, &mut space));
        let piece = Bytes::copy_from_slice(space.filled());
        let end = read.is_err() || piece.is_empty();
        Poll::Ready(Ok(HttpTask::UpgradedBody((!end).then_some(piece), end)))
    }

    pub(super) fn upgraded(&self) -> bool {
        self.upgraded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::service::LocalFuture;
    use std::sync::atomic::AtomicBool;
    use std::task::Waker;

    type Answer = dyn Fn(http::Request<Body>) -> LocalFuture + Send + Sync;

    struct Service(Box<Answer>);

    impl LocalService for Service {
        fn call(&self, request: http::Request<Body>) -> LocalFuture {
            (self.0)(request)
        }
    }

    fn ask(method: Method, answer: impl Fn(http::Request<Body>) -> LocalFuture + Send + Sync + 'static) -> Local {
        let head = RequestHeader::build(method, b"/", None).unwrap();
        Local::begin(&Service(Box::new(answer)), &head, false)
    }

    fn poll(link: &mut Local) -> Poll<Result<HttpTask>> {
        link.poll_in(&mut Context::from_waker(Waker::noop()))
    }

    struct Flag(Arc<AtomicBool>);

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_client_that_leaves_drops_the_call_and_the_stream() {
        let dropped = Arc::new(AtomicBool::new(false));
        let flag = dropped.clone();
        let mut link = ask(Method::GET, move |_| {
            let flag = Flag(flag.clone());
            Box::pin(async move {
                let _flag = flag;
                std::future::pending().await
            })
        });
        assert!(poll(&mut link).is_pending());
        drop(link);
        assert!(dropped.swap(false, Ordering::Relaxed), "the call");

        let flag = dropped.clone();
        let mut link = ask(Method::GET, move |_| {
            let flag = Flag(flag.clone());
            let events = stream::poll_fn(move |_| {
                let _held = &flag;
                Poll::<Option<io::Result<Bytes>>>::Pending
            });
            Box::pin(std::future::ready(http::Response::new(Body::from_stream(events))))
        });
        assert!(matches!(poll(&mut link), Poll::Ready(Ok(HttpTask::Header(_, false)))));
        assert!(poll(&mut link).is_pending());
        drop(link);
        assert!(dropped.load(Ordering::Relaxed), "the stream");
    }

    #[test]
    fn half_a_body_is_never_taken_for_a_whole_one() {
        let read = |request: http::Request<Body>| -> LocalFuture {
            Box::pin(async move {
                let whole = axum::body::to_bytes(request.into_body(), 100).await.is_ok();
                http::Response::new(Body::from(if whole { "whole" } else { "half" }))
            })
        };
        for (cut, expected) in [(true, "half"), (false, "whole")] {
            let mut link = ask(Method::POST, read);
            link.send(Bytes::from_static(b"1234"), false);
            assert!(poll(&mut link).is_pending());
            if cut {
                link.cut()
            } else {
                link.send(Bytes::new(), true)
            }
            assert!(matches!(poll(&mut link), Poll::Ready(Ok(HttpTask::Header(_, false)))));
            let Poll::Ready(Ok(HttpTask::Body(Some(piece), _))) = poll(&mut link) else { panic!("no body") };
            assert_eq!(piece, expected);
        }
    }

    #[test]
    fn a_panic_in_a_service_is_an_error_of_this_call_alone() {
        let mut link = ask(Method::GET, |_| Box::pin(async { panic!("on purpose") }));
        assert!(matches!(poll(&mut link), Poll::Ready(Err(_))));
    }
}
