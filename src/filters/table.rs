//! The table of all filters: which there are, in which order, and why.
//!
//! Everything that has to know them is made from it: the [`Chain`] of a route, its compilation from what is written,
//! the walk in and out, the lines of `moongate explain`, and the list in docs/FILTERS.md. A request passes the table
//! from its beginning, a response from its end.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};

use super::auth::Auth;
use super::custom::Custom;
use super::forwarded::Forwarded;
use super::grpc_web::GrpcWeb;
use super::rate_limit::{self, PrincipalLimits, RateLimits};
use super::request_headers::RequestHeaders;
use super::request_id::RequestIds;
use super::response_headers::ResponseHeaders;
use super::settings::{Activation, BuiltIn, Layer, StepDescription};
use super::trace_context::Traces;
use super::{Basic, BodyRules, Cors, Deprecated, ErrorPages, Idempotency, Networks, Rewrite, SecurityHeaders};
use crate::base::{At, Diagnostics};
use crate::cache::Rules;
use crate::deliver::{CompressRules, EventRules, WebSocketRules};
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step, Taps};

/// A line of the table, for people.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The filter's name.
    pub name: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// Why it stands where it stands.
    pub why: &'static str,
    /// Whether requests pass it unseen.
    pub responses_only: bool,
}

/// Calls the last one first.
macro_rules! backwards {
    ($chain:ident, $exchange:ident, $response:ident:) => {};
    ($chain:ident, $exchange:ident, $response:ident: $first:ident $($rest:ident)*) => {
        backwards!($chain, $exchange, $response: $($rest)*);
        if let Some(filter) = &$chain.$first {
            filter.on_response($exchange, $response);
        }
    };
}

macro_rules! table {
    (
        every_request { $( $(#[doc = $every_why:literal])+ $every:ident, )+ }
        before_the_body { $( $(#[doc = $head_why:literal])+ $head:ident: $Head:ty, )+ }
        before_the_upstream { $( $(#[doc = $ready_why:literal])+ $ready:ident: $Ready:ty, )+ }
    ) => {
        /// The table.
        pub const TABLE: &[Row] = &[
            $( row::<$every>(concat!($($every_why),+)), )+
            $( row::<$Head>(concat!($($head_why),+)), )+
            $( row::<$Ready>(concat!($($ready_why),+)), )+
        ];

        /// What a route's requests and responses pass, beside what all of them do. What a route does not have is
        /// `None`, and costs that question.
        #[derive(Default)]
        pub struct Chain {
            $( $(#[doc = $head_why])+ pub $head: Option<$Head>, )+
            $( $(#[doc = $ready_why])+ pub $ready: Option<$Ready>, )+
            /// Whether one of them may hand out taps: where none does, that is all that taps cost.
            taps: TapsWanted,
        }

        impl Chain {
            /// The filters of a route, from the layers of its settings. Each layer by itself was [checked](Self::check)
            /// where it stands.
            pub fn compile(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Self {
                $( <$Head as BuiltIn>::check_on_route(layers, scope, diagnostics); )+
                $( <$Ready as BuiltIn>::check_on_route(layers, scope, diagnostics); )+
                let told = &mut Diagnostics::default();
                let mut chain = Self {
                    $( $head: compiled(layers, scope, told), )+
                    $( $ready: compiled(layers, scope, told), )+
                    taps: TapsWanted::default(),
                };
                $( chain.taps.add(chain.$head.as_ref()); )+
                $( chain.taps.add(chain.$ready.as_ref()); )+
                chain
            }

            /// Reports every fault of one layer.
            pub fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
                $( <$Head as BuiltIn>::check(layer, scope, diagnostics); )+
                $( <$Ready as BuiltIn>::check(layer, scope, diagnostics); )+
            }

            /// The filters in words: those that requests meet, in their order, then those that only responses meet, in
            /// theirs.
            pub fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
                let (mut steps, mut behind) = (Vec::new(), Vec::new());
                $( steps.push(StepDescription::new($every::NAME, &())); )+
                $( describe::<$Head>(layers, scope, &mut steps, &mut behind); )+
                $( describe::<$Ready>(layers, scope, &mut steps, &mut behind); )+
                steps.extend(behind.into_iter().rev());
                steps
            }

            /// Lets each take hold of what it needs to serve.
            pub fn activate(&mut self, activation: &Activation<'_>) {
                $( if let Some(filter) = &mut self.$head { filter.activate(activation); } )+
                $( if let Some(filter) = &mut self.$ready { filter.activate(activation); } )+
            }

            /// The first part of the way in: by what the head says.
            ///
            /// # Errors
            /// When a filter ends the way.
            pub async fn before_the_body(&self, context: &mut RequestContext<'_>) -> Step {
                $( if let Some(filter) = &self.$head { filter.on_request(context).await?; } )+
                Ok(())
            }

            /// Whether a filter has to see the body of such a request.
            pub fn needs_body(&self, method: &Method) -> bool {
                $( self.$head.as_ref().is_some_and(|it| it.needs_body(method)) || )+
                $( self.$ready.as_ref().is_some_and(|it| it.needs_body(method)) || )+
                false
            }

            /// Shows the body to those who need it.
            ///
            /// # Errors
            /// When a filter ends the way.
            pub async fn on_body(&self, exchange: &mut Exchange, request: &RequestHeader, body: &Bytes) -> Step {
                $( on_body(self.$head.as_ref(), exchange, request, body).await?; )+
                $( on_body(self.$ready.as_ref(), exchange, request, body).await?; )+
                Ok(())
            }

            /// The last part of the way in: the request is admitted, and becomes what the upstream is to see.
            ///
            /// # Errors
            /// When a filter ends the way.
            pub async fn before_the_upstream(&self, context: &mut RequestContext<'_>) -> Step {
                $( if let Some(filter) = &self.$ready { filter.on_request(context).await?; } )+
                Ok(())
            }

            /// The taps of a request that is about to go on.
            pub fn request_taps(&self, exchange: &Exchange, request: &RequestHeader) -> Option<Box<Taps>> {
                if !self.taps.requests {
                    return None;
                }
                let mut taps = Taps::default();
                $( if let Some(filter) = &self.$head { filter.tap_request(exchange, request, &mut taps); } )+
                $( if let Some(filter) = &self.$ready { filter.tap_request(exchange, request, &mut taps); } )+
                (!taps.is_empty()).then(|| Box::new(taps))
            }

            /// The taps of a response, of which nothing has gone to the client yet.
            pub fn response_taps(&self, exchange: &Exchange, response: &ResponseHeader) -> Option<Box<Taps>> {
                if !self.taps.responses {
                    return None;
                }
                let mut taps = Taps::default();
                $( if let Some(filter) = &self.$head { filter.tap_response(exchange, response, &mut taps); } )+
                $( if let Some(filter) = &self.$ready { filter.tap_response(exchange, response, &mut taps); } )+
                taps.reverse();
                (!taps.is_empty()).then(|| Box::new(taps))
            }

            /// The way out.
            pub fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
                let chain = self;
                backwards!(chain, exchange, response: $($head)+ $($ready)+);
            }
        }

        /// What every request passes before a route is looked for.
        ///
        /// # Errors
        /// When a filter ends the way.
        pub async fn before_the_route(context: &mut RequestContext<'_>) -> Step {
            $( $every.on_request(context).await?; )+
            Ok(())
        }

        /// What every response passes last.
        pub fn behind_the_route(exchange: &mut Exchange, response: &mut ResponseHeader) {
            $( $every.on_response(exchange, response); )+
        }
    };
}

table! {
    every_request {
        /// Before the first refusal: every answer and every line of the log names the request.
        RequestIds,
        /// Likewise.
        Traces,
    }
    before_the_body {
        /// Before everything that looks at the request: from here on it is a call like any other. On the way out it comes
        /// last, and writes refusals for the web, too.
        grpc_web: GrpcWeb,
        /// Responses pass it last of all: the operator's word about a field is the last one, also about those of the
        /// gateway.
        response_headers: ResponseHeaders,
        /// Behind everything that makes a response what it is: only what is missing is added.
        security_headers: SecurityHeaders,
        /// Responses pass it behind everything that makes them errors.
        error_pages: ErrorPages,
        /// Behind the cache, which keeps one form, and before the operator's word about fields. On the way in it only notes
        /// what the client accepts, before anything changes that.
        compress: CompressRules,
        /// First of those that may refuse: it is the cheapest, and who may not be here shall cost nothing.
        networks: Networks,
        /// Before everything that requires credentials: a preflight carries none.
        cors: Cors,
        /// Before credentials are looked at: guessing them counts, too.
        rate_limits: RateLimits,
        /// Before all work for a caller: from here on the caller is known, and permitted.
        auth: Auth,
        /// In the place of `auth`, on routes for people with a browser and nothing else.
        basic: Basic,
        /// Now that the caller is known. A repetition of a request counts, too.
        principal_limits: PrincipalLimits,
        /// Now that the caller is known, too: it is counted who still calls.
        deprecated: Deprecated,
        /// Before the body is read: what can be refused by its head is.
        body_rules: BodyRules,
        /// Behind all that admits, so that they see only requests that may be here; before anything is remembered of
        /// the request, so that what they refuse leaves no trace.
        custom: Custom,
    }
    before_the_upstream {
        /// After everything that may refuse: a refusal uses up no key. Before what changes the request: the key belongs
        /// to what the client requested.
        idempotency: Idempotency,
        /// Before the request is rewritten, since responses are cached under what clients request; after credentials
        /// have been taken out of it. On the way out first: stored is what the upstream sent.
        cache: Arc<Rules>,
        /// Behind the cache, which keeps what the upstream sent and not what is said meanwhile.
        sse: EventRules,
        /// Likewise; of handshakes nothing is cached.
        websocket: WebSocketRules,
        /// Behind everything that reads what the client said of itself.
        forwarded: Forwarded,
        /// Behind the forwarded headers, which may be edited, too; the route's own word comes last.
        request_headers: RequestHeaders,
        /// Last: the operator's word about the request is the last one, also about the headers that the gateway adds.
        rewrite: Rewrite,
    }
}

const fn row<F: Filter>(why: &'static str) -> Row {
    Row { name: F::NAME, summary: F::SUMMARY, why, responses_only: F::RESPONSES_ONLY }
}

fn compiled<F: BuiltIn>(layers: &[Layer<'_>], scope: &Scope<'_>, told: &mut Diagnostics) -> Option<F> {
    F::compile(&F::settings(layers, scope)?, scope, &At::ROOT, told)
}

fn describe<F: BuiltIn>(
    layers: &[Layer<'_>],
    scope: &Scope<'_>,
    steps: &mut Vec<StepDescription>,
    behind: &mut Vec<StepDescription>,
) {
    let list = if F::RESPONSES_ONLY { behind } else { steps };
    list.extend(F::describe(layers, scope));
}

async fn on_body<F: Filter>(
    filter: Option<&F>,
    exchange: &mut Exchange,
    request: &RequestHeader,
    body: &Bytes,
) -> Step {
    match filter.filter(|it| it.needs_body(&request.method)) {
        Some(filter) => filter.on_body(exchange, request, body).await,
        None => Ok(()),
    }
}

/// What a route's filters may want to see.
#[derive(Clone, Copy, Default)]
struct TapsWanted {
    requests: bool,
    responses: bool,
}

impl TapsWanted {
    fn add<F: Filter>(&mut self, filter: Option<&F>) {
        self.requests |= filter.is_some_and(F::taps_requests);
        self.responses |= filter.is_some_and(F::taps_responses);
    }
}

impl Chain {
    /// Whether a filter may want to see what clients send.
    pub fn taps_requests(&self) -> bool {
        self.taps.requests
    }

    /// Whether a filter may want to see what upstreams send.
    pub fn taps_responses(&self) -> bool {
        self.taps.responses
    }

    /// All limits of the route.
    pub fn limits(&self) -> Option<&rate_limit::Rules> {
        let by_principal = || self.principal_limits.as_ref().map(PrincipalLimits::rules);
        self.rate_limits.as_ref().map(RateLimits::rules).or_else(by_principal)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").finish_non_exhaustive()
    }
}
