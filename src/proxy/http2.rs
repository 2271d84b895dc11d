//! Brings the requests of HTTP/2 connections to the request's way: Pingora's callbacks.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::client::Client;
use crate::proxy::Proxy;

/// The gateway as Pingora's proxy sees it.
pub(super) struct Http2(Arc<Proxy>);

impl Http2 {
    pub(super) fn new(proxy: Arc<Proxy>) -> Self {
        Self(proxy)
    }
}

#[async_trait]
impl ProxyHttp for Http2 {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        let mut client = Client::stream(&mut session.downstream_session)?;
        self.0.handle(&mut client).await.map(|()| true)
    }

    /// Not reached: `request_filter` answers every request.
    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "the exchange connects by itself")
    }

    /// What deserved an answer got one: the stream is cut, so that nobody takes half for whole.
    async fn fail_to_proxy(&self, _: &mut Session, _: &Error, (): &mut ()) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, (): &(), _: &Error) -> bool {
        true // the access log says it better
    }
}
