//! A local service: the call, the request's body and the answer's body are polled in one task.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Task, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::response::{Frame, UpstreamError, strip};
use crate::pipeline::{Context, LocalService, Refusal, UpgradeSlot, take_refusal};

/// What an upgraded connection holds in each direction, in bytes.
const DUPLEX: usize = 8 * 1024;
/// A client is read only while less than this waits for the service, in bytes.
const HIGH_WATER: usize = 64 * 1024;

type Call = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Box<dyn Any + Send>>> + Send>>;

/// One call of a service.
pub(super) struct Local {
    call: Option<Call>,
    /// Feeds the request's body; its bound is `queued`.
    feed: Option<UnboundedSender<io::Result<Bytes>>>,
    queued: Arc<AtomicUsize>,
    answer: Option<Pin<Box<Body>>>,
    /// Our end of an upgraded connection.
    near: Option<DuplexStream>,
    /// Why there is no answer.
    refusal: Option<Refusal>,
}

impl Local {
    pub(super) fn begin(service: &dyn LocalService, head: &RequestHeader, context: Context, upgrade: bool) -> Self {
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
        let mut near = None;
        if upgrade {
            let (ours, theirs) = tokio::io::duplex(DUPLEX);
            near = Some(ours);
            request.extensions_mut().insert(UpgradeSlot(Arc::new(Mutex::new(Some(theirs)))));
        }
        Self {
            call: Some(Box::pin(AssertUnwindSafe(service.call(request, context)).catch_unwind())),
            feed: Some(feed),
            queued,
            answer: None,
            near,
            refusal: None,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < HIGH_WATER
    }

    pub(super) fn send(&mut self, piece: Bytes) {
        if !piece.is_empty()
            && let Some(feed) = &self.feed
        {
            self.queued.fetch_add(piece.len(), Ordering::Relaxed);
            let _ = feed.send(Ok(piece)); // a service need not read the whole body
        }
    }

    pub(super) fn end(&mut self) {
        self.feed = None;
    }

    /// The upload broke off: the service must not take half a body for a whole one.
    pub(super) fn cut(&mut self) {
        if let Some(feed) = self.feed.take() {
            let _ = feed.send(Err(io::ErrorKind::ConnectionAborted.into()));
        }
    }

    pub(super) fn poll_head(&mut self, cx: &mut Task<'_>) -> Poll<Result<Box<ResponseHeader>, UpstreamError>> {
        let Some(call) = &mut self.call else { return Poll::Ready(Err(UpstreamError::Internal)) };
        let answer = ready!(call.as_mut().poll(cx));
        self.call = None;
        Poll::Ready(match answer {
            Ok(mut answer) => match take_refusal(&mut answer) {
                Some(refusal) => {
                    self.refusal = Some(refusal);
                    Err(UpstreamError::Internal)
                }
                None => self.head_of(answer).map_err(|_| UpstreamError::Internal),
            },
            Err(_) => Err(UpstreamError::Internal), // it panicked, and has said so
        })
    }

    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    fn head_of(&mut self, answer: http::Response<Body>) -> pingora::Result<Box<ResponseHeader>> {
        let (parts, body) = answer.into_parts();
        let switches = parts.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if !switches {
            self.near = None;
        }
        let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 8))?;
        for (name, value) in &parts.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(length) = body.size_hint().exact()
            && !switches
            // A 304 has no body, but what it stands for has a length that is not known here (RFC 9110, section 8.6).
            && ![http::StatusCode::NO_CONTENT, http::StatusCode::NOT_MODIFIED].contains(&parts.status)
            && !parts.headers.contains_key(http::header::CONTENT_LENGTH)
        {
            head.insert_header(http::header::CONTENT_LENGTH, length.to_string())?;
        }
        if !switches {
            strip(&mut head);
        }
        self.answer = Some(Box::pin(body));
        Ok(Box::new(head))
    }

    /// Whether the answer ended with its head.
    pub(super) fn has_ended(&self) -> bool {
        self.near.is_none() && self.answer.as_ref().is_none_or(|it| it.is_end_stream())
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Task<'_>) -> Poll<Result<Frame, UpstreamError>> {
        let Some(body) = &mut self.answer else { return Poll::Ready(Ok(Frame::End(None))) };
        Poll::Ready(match ready!(body.as_mut().poll_frame(cx)) {
            None => Ok(Frame::End(None)),
            Some(Ok(frame)) => Ok(match frame.into_data() {
                Ok(piece) => Frame::Data(piece),
                Err(frame) => Frame::End(frame.into_trailers().ok().map(Box::new)),
            }),
            Some(Err(error)) => {
                tracing::debug!(event = "local_service_broke_off", %error);
                Err(UpstreamError::Closed)
            }
        })
    }

    /// Our end of an upgraded connection.
    pub(super) fn into_stream(self) -> Option<DuplexStream> {
        self.near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{LocalFuture, Scheme};
    use http::Method;
    use std::sync::atomic::AtomicBool;
    use std::task::Waker;

    type Answer = dyn Fn(http::Request<Body>) -> LocalFuture + Send + Sync;

    struct Service(Box<Answer>);

    impl LocalService for Service {
        fn call(&self, request: http::Request<Body>, _: Context) -> LocalFuture {
            (self.0)(request)
        }
    }

    fn ask(method: Method, answer: impl Fn(http::Request<Body>) -> LocalFuture + Send + Sync + 'static) -> Local {
        let head = RequestHeader::build(method, b"/", None).unwrap();
        let context = Context::new([127, 0, 0, 1].into(), Scheme::Http);
        Local::begin(&Service(Box::new(answer)), &head, context, false)
    }

    fn head(link: &mut Local) -> Poll<Result<Box<ResponseHeader>, UpstreamError>> {
        link.poll_head(&mut Task::from_waker(Waker::noop()))
    }

    fn frame(link: &mut Local) -> Poll<Result<Frame, UpstreamError>> {
        link.poll_frame(&mut Task::from_waker(Waker::noop()))
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
        assert!(head(&mut link).is_pending());
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
        assert!(matches!(head(&mut link), Poll::Ready(Ok(_))));
        assert!(frame(&mut link).is_pending());
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
            link.send(Bytes::from_static(b"1234"));
            assert!(head(&mut link).is_pending());
            if cut {
                link.cut()
            } else {
                link.end()
            }
            assert!(matches!(head(&mut link), Poll::Ready(Ok(_))));
            let Poll::Ready(Ok(Frame::Data(piece))) = frame(&mut link) else { panic!("no body") };
            assert_eq!(piece, expected);
        }
    }

    #[test]
    fn a_panic_in_a_service_is_an_error_of_this_call_alone() {
        let mut link = ask(Method::GET, |_| Box::pin(async { panic!("on purpose") }));
        assert!(matches!(head(&mut link), Poll::Ready(Err(UpstreamError::Internal))));
    }
}
