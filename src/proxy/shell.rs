//! Pingora's `ProxyHttp`: the shell of every request, over HTTP/1 and HTTP/2 alike, and the connections that bring
//! them.
//!
//! What needs more of a connection than a plain response goes through Pingora's driver to [`Shell::request_filter`]. A
//! plain request is handed past it, to the same function: the driver costs about two microseconds, and would do
//! nothing for it (docs/PERFORMANCE.md has the figures).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};

use crate::client::{Client, H1Connection, H2Connection, Handover, carried};
use crate::listener::{App, Downstream};
use crate::proxy::{After, Proxy};

/// The gateway as Pingora's proxy sees it.
struct Shell(Arc<Proxy>);

#[async_trait]
impl ProxyHttp for Shell {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        let handover = carried(&session.downstream_session);
        let handover =
            handover.ok_or_else(|| Error::explain(ErrorType::InternalError, "a session without a connection"))?;
        if let Some(mut client) = handover.take() {
            match self.0.handle(&mut client).await {
                After::Next => handover.give_back(client),
                After::Rest(rest) => handover.leave(Box::pin(rest.run(client))),
                After::Over => {}
            }
        }
        Ok(true)
    }

    /// Not reached: `request_filter` answers every request.
    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "requests are forwarded by the gateway itself")
    }

    async fn fail_to_proxy(&self, _: &mut Session, _: &Error, (): &mut ()) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, (): &(), _: &Error) -> bool {
        true // the access log says it better
    }
}

/// What a connection goes on with when a request was answered.
#[expect(clippy::large_enum_variant, reason = "most are the large one; a box would cost each request an allocation")]
enum Next {
    /// The client's next request.
    Request(Client),
    /// The rest of this one, which may last for hours.
    Rest(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Nothing.
    Over,
}

/// The gateway as a listener sees it; one on each worker thread.
pub struct Front(Arc<Inner>);

struct Inner {
    proxy: Arc<Proxy>,
    shell: Arc<HttpProxy<Shell>>,
}

impl Front {
    /// Serves what comes with `proxy`.
    pub fn new(proxy: Proxy, conf: &Arc<ServerConf>) -> Self {
        let proxy = Arc::new(proxy);
        let mut shell = http_proxy(conf, Shell(proxy.clone()));
        shell.server_options = Some(HttpServerOptions::default());
        Self(Arc::new(Inner { proxy, shell: Arc::new(shell) }))
    }

    async fn http1(&self, stream: Box<Downstream>, shutdown: &ShutdownWatch) {
        let mut connection = H1Connection::new(stream);
        while let Some(client) = connection.request().await {
            // Boxed: while it waits for the next request, a connection is no larger than it has to be.
            let client = match Box::pin(self.0.answer(client, shutdown)).await {
                Next::Request(client) => client,
                Next::Rest(rest) => return rest.await,
                Next::Over => return,
            };
            match client.finish().await {
                Some(next) => connection = next,
                None => return,
            }
        }
    }

    async fn http2(&self, stream: Box<Downstream>, shutdown: ShutdownWatch) {
        let Some(mut connection) = H2Connection::begin(stream, shutdown.clone()).await else { return };
        while let Some((client, busy)) = connection.next().await {
            let (inner, shutdown) = (self.0.clone(), shutdown.clone());
            tokio::spawn(async move {
                match inner.answer(client, &shutdown).await {
                    Next::Request(client) => drop(client.finish().await),
                    // A task of its own: what lasts is no larger than it has to be.
                    Next::Rest(rest) => drop(tokio::spawn(async move {
                        rest.await;
                        drop(busy);
                    })),
                    Next::Over => {}
                }
            });
        }
    }
}

impl Inner {
    async fn answer(&self, mut client: Client, shutdown: &ShutdownWatch) -> Next {
        if client.is_plain() {
            return match self.proxy.handle(&mut client).await {
                After::Next => Next::Request(client),
                After::Rest(rest) => Next::Rest(Box::pin(rest.run(client))),
                After::Over => Next::Over,
            };
        }
        let handover = Handover::default();
        let Ok(session) = handover.carry(client) else { return Next::Over };
        Box::pin(self.shell.process_new_http(session, shutdown)).await;
        if let Some(rest) = handover.rest() {
            return Next::Rest(rest);
        }
        match handover.take() {
            Some(client) if client.status() > 0 => Next::Request(client),
            _ => Next::Over,
        }
    }
}

impl App for Front {
    async fn serve(&self, mut stream: Box<Downstream>, shutdown: ShutdownWatch) {
        match stream.speaks_http2().await {
            Ok(true) => Box::pin(self.http2(stream, shutdown)).await,
            Ok(false) => Box::pin(self.http1(stream, &shutdown)).await,
            Err(_) => {}
        }
    }
}
