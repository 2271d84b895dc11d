//! What a local service is: an upstream that lives inside the process.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use parking_lot::Mutex;
use tokio::io::DuplexStream;

use super::Context;

/// The answer of a local service, under way.
pub type LocalFuture = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// Answers requests in process. The call is polled in the exchange's own task, together with the
/// request's body, so it must not block; it is dropped as soon as the client leaves.
pub trait LocalService: Send + Sync {
    /// Answers one request; the context says who the caller is. For an upgrade, the request's extensions hold an
    /// [`UpgradeSlot`].
    fn call(&self, request: http::Request<Body>, context: Context) -> LocalFuture;
}

/// The byte stream behind an upgrade, in the request's extensions: a service that answers 101 takes
/// it out and speaks through it.
#[derive(Clone)]
pub struct UpgradeSlot(pub Arc<Mutex<Option<DuplexStream>>>);
