//! What a local service is: an upstream that lives inside the process.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use parking_lot::Mutex;
use tokio::io::DuplexStream;

use crate::base::RequestId;
use crate::identity::Principal;
use crate::pipeline::Exchange;

/// The answer of a local service, under way.
pub type LocalFuture = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// Answers requests in process. The call is polled in the exchange's own task, together with the
/// request's body, so it must not block; it is dropped as soon as the client leaves.
pub trait LocalService: Send + Sync {
    /// Answers one request. Its extensions hold its [`Caller`] and, if credentials have proved one, the
    /// `Arc<Principal>`; for an upgrade, an [`UpgradeSlot`].
    fn call(&self, request: http::Request<Body>) -> LocalFuture;
}

/// The byte stream behind an upgrade, in the request's extensions: a service that answers 101 takes
/// it out and speaks through it.
#[derive(Clone)]
pub struct UpgradeSlot(pub Arc<Mutex<Option<DuplexStream>>>);

/// Who calls a local service, as far as it is known; in the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client, as far as trusted proxies can tell.
    pub client_ip: IpAddr,
    /// Names the request in every log line and answer.
    pub request_id: RequestId,
    /// Who the request acts for; `None` until credentials have proved it.
    pub principal: Option<Arc<Principal>>,
}

impl Caller {
    /// The one of this exchange.
    pub fn of(exchange: &Exchange) -> Self {
        let Exchange { client_ip, request_id, principal, .. } = exchange;
        Self { client_ip: *client_ip, request_id: *request_id, principal: principal.clone() }
    }
}
