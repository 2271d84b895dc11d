//! What a local service is: an upstream that lives inside the process.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::io::DuplexStream;

use super::{Context, Refusal};
use crate::base::{At, Diagnostics};
use crate::identity::Roles;

/// The answer of a local service, under way.
pub type LocalFuture = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// The answer of an upstream that a local service calls, under way.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Refusal>> + Send>>;

/// Answers requests in process. The call is polled in the exchange's own task, together with the
/// request's body, so it must not block; it is dropped as soon as the client leaves.
pub trait LocalService: Send + Sync {
    /// Answers one request; the context says who the caller is, and calls upstreams ([`Context::call`]). For an
    /// upgrade, the request's extensions hold an [`UpgradeSlot`]. What can't be answered is [`refused`].
    fn call(&self, request: http::Request<Body>, context: Context) -> LocalFuture;
}

/// A local service with settings of its own: `settings:` beside `local:` in routes.yaml. It is there once, for as long
/// as the process; each upstream that names it gets what [`Configurable::activate`] makes of that upstream's settings.
pub trait Configurable: Send + Sync + 'static {
    /// As an operator writes them: unknown keys must be faults (`deny_unknown_fields`), and each field says in a doc
    /// comment what it is for.
    type Config: DeserializeOwned + JsonSchema;
    /// Compiled: once for each snapshot.
    type Settings: Send + Sync + 'static;

    /// Reports every fault at its place; `None` if there is one.
    fn compile(
        config: &Self::Config,
        scope: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self::Settings>;

    /// The service under these settings, when they begin to serve. What it remembers of traffic it has in `self`: a
    /// reload makes only this anew.
    fn activate(&self, settings: Arc<Self::Settings>) -> Arc<dyn LocalService>;
}

/// What the settings of a service may refer to.
#[derive(Clone, Copy, Debug)]
pub struct ServiceScope<'a> {
    /// The names in `upstreams:`.
    pub upstreams: &'a [&'a str],
}

impl ServiceScope<'_> {
    /// The name of an upstream, if there is one of this name; else that is a fault.
    pub fn upstream(&self, name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Arc<str>> {
        if self.upstreams.contains(&name) {
            return Some(name.into());
        }
        diagnostics.error(at, format!("no upstream `{name}`")).suggest(name, self.upstreams.iter().copied());
        None
    }
}

/// The upstreams of the configuration that a request began with, for a local service that it came to.
pub trait Upstreams: Send + Sync {
    /// Sends a request on, as a client's would be: under the policy of the client's route, with the same retries. The
    /// upstream learns who the caller is from `context`. To be polled on the thread of the service's own call.
    fn call(&self, upstream: &str, request: http::Request<Body>, context: &Context) -> CallFuture;

    /// What roles permit in that configuration.
    fn roles(&self) -> &Roles;
}

impl fmt::Debug for dyn Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstreams")
    }
}

impl Context {
    /// Whether a role permits more than these, by the configuration that the client's request began with; it does where
    /// that is not known.
    pub fn role_is_beyond(&self, role: &str, own: &[Arc<str>]) -> bool {
        self.upstreams.as_ref().is_none_or(|it| it.roles().is_beyond(role, own))
    }

    /// Calls an upstream of `routes.yaml` by its name, a local service as well as a remote one. The caller's principal,
    /// trace, request id and address go along, and what is left of the request's time bounds it. The request's body is
    /// held (as much as the route's `body_limit` lets through), so that it can be sent again; that of the response
    /// streams, without trailers, and has to be read to its end for the connection to serve again.
    ///
    /// A service that answers for longer than a request may take, with a stream, begins a new time for a later call by
    /// setting [`Context::started`].
    ///
    /// # Errors
    /// The refusal that a client would get for it: see [`refused`].
    pub async fn call(&self, upstream: &str, request: http::Request<Body>) -> Result<http::Response<Body>, Refusal> {
        match &self.upstreams {
            Some(upstreams) => upstreams.call(upstream, request, self).await,
            None => Err(Refusal::UnknownUpstream), // nothing is forwarded yet
        }
    }
}

/// The answer of a local service that has none: the gateway writes the body, as it does for its own refusals.
pub fn refused(refusal: Refusal) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::empty());
    *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    answer.extensions_mut().insert(refusal);
    answer
}

/// The refusal in the place of an answer.
pub fn take_refusal(answer: &mut http::Response<Body>) -> Option<Refusal> {
    answer.extensions_mut().remove()
}

/// The whole body of a request, if it is not larger than `limit`.
///
/// # Errors
/// When it is, or when it breaks off.
pub async fn whole_body(body: Body, limit: u64) -> Result<Bytes, Refusal> {
    let mut pieces = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Refusal::BadRequest("its body broke off"))?;
        if (whole.len() + piece.len()) as u64 > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The byte stream behind an upgrade, in the request's extensions: a service that answers 101 takes
/// it out and speaks through it.
#[derive(Clone)]
pub struct UpgradeSlot(pub Arc<Mutex<Option<DuplexStream>>>);
