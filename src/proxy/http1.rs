//! Brings the requests of HTTP/1 connections, one after the other, to the request's way.
//!
//! Pingora's driver for HTTP/1 would do the same with a dozen boxed futures a request; docs/PERFORMANCE.md has the
//! figures. Connections that speak HTTP/2 go to it as they are.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};

use crate::client::Line;
use crate::listener::Downstream;
use crate::proxy::Proxy;
use crate::proxy::http2::Http2;

/// The gateway as a listener sees it; one on each worker thread.
pub struct Front {
    proxy: Arc<Proxy>,
    http2: Arc<HttpProxy<Http2>>,
}

impl Front {
    /// `options` are those of HTTP/2 connections.
    pub fn new(proxy: Proxy, conf: &Arc<ServerConf>, options: HttpServerOptions) -> Self {
        let proxy = Arc::new(proxy);
        let mut http2 = http_proxy(conf, Http2::new(proxy.clone()));
        http2.server_options = Some(options);
        Self { proxy, http2: Arc::new(http2) }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut stream = match Downstream::of(stream) {
            Ok(stream) => stream,
            Err(stream) => return self.http2.process_new(stream, shutdown).await,
        };
        if stream.speaks_http2().await.ok()? {
            return self.http2.process_new(stream, shutdown).await;
        }
        let mut line = Line::new(stream);
        while let Some(mut client) = line.next().await {
            self.proxy.handle(&mut client).await.ok()?; // what did not end well is cut: nobody shall take half for whole
            line = client.finish().await?;
        }
        None
    }

    async fn cleanup(&self) {
        self.http2.cleanup().await;
    }
}
