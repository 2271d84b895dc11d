//! The demo back end: a small HTTP/1 server that shows what reached it.
//!
//! `make run`, the tests and the benches put it behind the gateway. It knows nothing of the
//! gateway's rooms, and nothing of the gateway knows it: it stands for somebody else's service.

mod answers;
mod startup;
mod streams;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get};
use tokio::net::TcpListener;

const BODY_BYTES_MAX: usize = 16 << 20;
/// A stream may outlive every patience; at the end it is cut.
const GRACE: Duration = Duration::from_secs(2);

/// What `moongate demo-backend` was asked to be.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The name it answers with, in `x-backend` and in its JSON.
    pub name: String,
}

/// Serves until SIGTERM or SIGINT, after one `listening` line with the real port.
pub async fn serve(options: DemoOptions) -> io::Result<()> {
    // The signals first: whoever reads the line may send one at once.
    let stop = startup::stop_signal()?;
    let listener = TcpListener::bind(options.listen).await?;
    startup::announce(listener.local_addr()?)?;
    serve_on(listener, &options.name, stop).await
}

/// Serves on a socket that is already bound, until `stop`; then ends what is under way, within a
/// few seconds.
pub async fn serve_on(
    listener: TcpListener,
    name: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let stop = async move {
        stop.await;
        // The grace ends a server whose receiver is still there; nobody else listens.
        let _ = stopping.send(true);
    };
    let router = router(Backend::new(name));
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop).into_future();
    let cut = async move {
        // An error means that the server is already gone, and `select!` has its result.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        result = serving => result,
        () = cut => Ok(()),
    }
}

fn router(backend: Backend) -> Router {
    let name = backend.name_header.clone();
    Router::new()
        .route("/health", get(answers::health))
        .route("/status/{code}", any(answers::status))
        .route("/slow", get(streams::slow))
        .route("/bytes/{n}", get(streams::bytes))
        .route("/sse", get(streams::sse))
        .route("/ws", get(streams::ws))
        .fallback(answers::echo)
        .method_not_allowed_fallback(answers::echo)
        .layer(map_response(move |mut response: Response| {
            let name = name.clone();
            async move {
                response.headers_mut().insert(HeaderName::from_static("x-backend"), name);
                response
            }
        }))
        .with_state(backend)
}

/// What the answers share.
#[derive(Clone)]
struct Backend {
    name: Arc<str>,
    name_header: HeaderValue,
    in_progress: Arc<AtomicUsize>,
}

impl Backend {
    fn new(name: &str) -> Self {
        // A name that no header can hold still shows in the JSON.
        let name_header = HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("unnamed"));
        Self { name: name.into(), name_header, in_progress: Arc::default() }
    }

    /// Counts a slow answer, a stream or a socket for as long as the value lives, so that a test
    /// can ask `/health` whether the gateway let go of it.
    fn progress(&self) -> Progress {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        Progress(self.in_progress.clone())
    }
}

struct Progress(Arc<AtomicUsize>);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
