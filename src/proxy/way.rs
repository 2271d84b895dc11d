//! The path of a request, as a table of contents: [`request_filters`], [`forward`](crate::forward),
//! [`deliver`](crate::deliver()), [`ResponseFilters`].
//!
//! The filters and their order are the [table's](filters::TABLE), the same for every route, and `moongate explain`
//! prints them. Here is when its parts are walked, and what is no filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LOCATION, HeaderValue, IF_RANGE, LOCATION, ORIGIN, RANGE,
    SEC_WEBSOCKET_EXTENSIONS, SET_COOKIE, VARY,
};
use http::{HeaderMap, Method, Uri, Version};
use parking_lot::{Mutex, MutexGuard};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::date::get_cached_date;

use crate::cache::{CachedResponse, Lookup};
use crate::client::Client;
use crate::config::{Action, ActiveConfig, Redirect, Respond, Route};
use crate::deliver::{DIGESTS, ResponseFilters, Streaming};
use crate::filters::{self, Reservation, ReserveOutcome, StoredResponse};
use crate::forward::{Destination, ForwardError, Policy, call_deadline, hold_body, show_whole, unless_gone};
use crate::http::{self as codec, Coding};
use crate::identity::ClientCertificate;
use crate::pipeline::{Exchange, Parts, Refusal, RequestContext, Scheme, Stop, Taps};
use crate::proxy::arrival::Arrival;
use crate::proxy::{Shared, cached, reply, strict, upgrade};
use crate::routing::{HostName, Outcome, Params, Request, Target, join_query, without_parameters};
use crate::upstream::split_key;

/// What the request filters decide.
pub(super) enum Decision {
    /// The request is forwarded to the destination of this route.
    Forward(Admitted),
    /// It is forwarded, as the first one under its idempotency key.
    Idempotent(Admitted, Reservation),
    /// Its response is cached; it fills the reservation of an idempotent request, too.
    Cached(Admitted, Box<CachedResponse>, Option<Reservation>),
    /// It is answered at once.
    Respond(Admitted, Box<ResponseHeader>, Bytes),
    /// It was answered before, and gets that answer again.
    Replayed(Admitted, Box<ResponseHeader>, Bytes),
}

/// The way of a route ends before its end.
enum Early {
    /// With an answer.
    Answered(Box<ResponseHeader>, Bytes),
    /// Without one.
    Ended(ForwardError),
}

impl From<ForwardError> for Early {
    fn from(why: ForwardError) -> Self {
        Self::Ended(why)
    }
}

impl From<Refusal> for Early {
    fn from(refusal: Refusal) -> Self {
        Self::Ended(ForwardError::Refused(refusal))
    }
}

impl From<Stop> for Early {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => refusal.into(),
            Stop::Answered(head, body) => Self::Answered(head, body),
        }
    }
}

/// The request filters ended early: why, and on which route, if it got so far.
pub(super) struct Stopped {
    pub(super) admitted: Option<Admitted>,
    pub(super) why: ForwardError,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { admitted: None, why: ForwardError::Refused(refusal) }
    }
}

/// A route's number, and what the cache has to do with its request.
pub(super) struct Admitted {
    pub(super) active: Arc<ActiveConfig>,
    pub(super) route: usize,
    /// Which of the route's destinations the request goes to.
    part: AtomicUsize,
    /// Of this request alone; it is never waited for.
    lookup: Mutex<Option<Box<Lookup>>>,
}

impl Admitted {
    fn new(active: Arc<ActiveConfig>, route: usize) -> Self {
        Self { active, route, part: AtomicUsize::new(0), lookup: Mutex::new(None) }
    }

    pub(super) fn route(&self) -> &Route {
        &self.active.snapshot.routes[self.route]
    }

    /// What the cache has to do with the request.
    pub(super) fn lookup(&self) -> MutexGuard<'_, Option<Box<Lookup>>> {
        self.lookup.lock()
    }

    pub(super) fn set_lookup(&self, lookup: Lookup) {
        *self.lookup() = Some(Box::new(lookup));
    }

    /// The operator's word about fields counts for interim answers, too.
    pub(super) fn on_interim(&self, head: &mut ResponseHeader) {
        if let Some(edits) = &self.route().chain.response_headers {
            edits.edit_interim(head);
        }
    }

    /// What a response goes by that lasts.
    pub(super) fn streaming<'a>(&'a self, shared: &'a Shared) -> Streaming<'a> {
        let chain = &self.route().chain;
        Streaming {
            connections: &shared.connections,
            metrics: &self.active.routes[self.route].metrics,
            events: chain.sse.as_ref(),
            websocket: chain.websocket.as_ref(),
            compress: chain.compress.as_ref(),
        }
    }

    /// Where the route's requests go.
    pub(super) fn destination(&self) -> &Destination {
        let destination = self.destinations().get(self.part.load(Relaxed));
        destination.expect("what has none is answered at once")
    }

    fn destinations(&self) -> &[Destination] {
        &self.active.routes[self.route].destinations
    }

    /// The name of the upstream that it goes to, where several share the route's requests.
    pub(super) fn part(&self) -> Option<&str> {
        matches!(self.route().action, Action::Split(_)).then(|| &**self.destination().name())
    }
}

/// From a request's head to the decision what becomes of it.
pub(super) async fn request_filters(
    active: Arc<ActiveConfig>,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    arrival: &Arrival<'_>,
) -> Result<Decision, Stopped> {
    // Before anything reads a field: what could be read in two ways is not read at all.
    strict::check(client)?;
    // Likewise: what nobody vouches for is not there, on whatever way the request goes on.
    let request = client.request_mut();
    exchange.claims = arrival.settle(request);
    let peer_trusted = arrival.trusted;

    // Before the first refusal that can name them: every answer and line of the log does.
    let nothing = Params::default();
    let mut context = RequestContext { peer_trusted, ..RequestContext::new(exchange, request, &nothing) };
    match filters::before_the_route(&mut context).await {
        Ok(()) => {}
        Err(Stop::Refused(refusal)) => return Err(refusal.into()),
        Err(Stop::Answered(..)) => return Err(Refusal::Internal.into()), // no such filter has answers of its own
    }

    // Before the match: the bytes that are matched are the bytes that are sent on.
    if request.raw_path() == b"*" {
        if request.method != Method::OPTIONS {
            return Err(Refusal::BadRequest("the target * is for OPTIONS alone").into());
        }
        return Err(Refusal::RouteNotFound.into());
    }
    normalise(request)?;

    let websocket = upgrade::is_handshake(client);
    let request = client.request();
    let came = Came { websocket, https: exchange.scheme == Scheme::Https, listener: client.connection().listener() };
    let (route, params) = find(&active, request, request.uri.path(), came)?;
    let admitted = Admitted::new(active, route);
    exchange.route = Some(admitted.route().name.clone());
    exchange.host_verified = admitted.route().verifies_host;
    if let Err(refusal) = path_parameters(&admitted, request, came) {
        return Err(Stopped { admitted: Some(admitted), why: ForwardError::Refused(refusal) });
    }
    if let Some(notice) = shared.maintenance.notice().filter(|_| !admitted.route().ignores_maintenance) {
        // Pages of other origins may read that it is so.
        let cors = admitted.route().chain.cors.as_ref();
        exchange.origin = cors.and_then(|it| it.origin(client.request().headers.get(ORIGIN)));
        let refusal = Refusal::Maintenance { message: notice.message.as_str().into(), retry_after: notice.retry_after };
        return Err(Stopped { admitted: Some(admitted), why: ForwardError::Refused(refusal) });
    }
    match filter(&admitted, shared, exchange, client, peer_trusted, &params).await {
        Ok(RouteDecision::Forward) => {}
        Ok(RouteDecision::Idempotent(reservation)) => return Ok(Decision::Idempotent(admitted, reservation)),
        Ok(RouteDecision::Cached(cached, reservation)) => return Ok(Decision::Cached(admitted, cached, reservation)),
        Ok(RouteDecision::Replay(stored)) => {
            let (head, body) = replayed(stored);
            return Ok(Decision::Replayed(admitted, head, body));
        }
        Err(Early::Answered(head, body)) => return Ok(Decision::Respond(admitted, head, body)),
        Err(Early::Ended(why)) => return Err(Stopped { admitted: Some(admitted), why }),
    }
    match &admitted.route().action {
        Action::Upstream(_) | Action::Split(_) | Action::Aggregate(_) => Ok(Decision::Forward(admitted)),
        Action::Redirect(redirect) => match redirected(redirect, exchange, client.request(), &params) {
            Some(head) => Ok(Decision::Respond(admitted, head, Bytes::new())),
            None => {
                let why = ForwardError::Refused(Refusal::BadRequest("the target can't be redirected"));
                Err(Stopped { admitted: Some(admitted), why })
            }
        },
        Action::Respond(respond) => {
            let (head, body) = respond_with(respond);
            Ok(Decision::Respond(admitted, head, body))
        }
    }
}

/// The steps of a route, in their order.
async fn filter(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    peer_trusted: bool,
    params: &Params,
) -> Result<RouteDecision, Early> {
    upgrade::admit(admitted.route(), exchange, client)?;
    if admitted.route().chain.grpc_web.is_some() {
        client.take_grpc_web();
    }
    if !client.has_no_body() {
        exchange.deadline = call_deadline(client.request(), exchange.started, &admitted.route().policy)?;
    }
    let chain = &admitted.route().chain;
    let has_body = (chain.body_rules.is_some() || chain.custom.is_some()) && !client.has_no_body();
    let certificate = chain.auth.as_ref().and_then(|_| client_certificate(client));
    let context = RequestContext::new(exchange, client.request_mut(), params);
    let mut context = RequestContext { has_body, peer_trusted, certificate, ..context };
    chain.before_the_body(&mut context).await?;
    drop(context);
    choose_part(admitted, exchange, client.request());
    if let Action::Aggregate(aggregate) = &admitted.route().action {
        let targets = aggregate.targets(params, client.request().uri.path());
        exchange.parts = Some(Arc::new(Parts::new(targets)));
    }
    balance_by(admitted, exchange, client.request_mut(), params);
    as_it_can_be_used(chain, client);
    let reservation = match reserve(admitted, shared, exchange, client).await? {
        ReserveOutcome::NoKey => None,
        ReserveOutcome::First(reservation) => Some(reservation),
        ReserveOutcome::Replay(stored) => return Ok(RouteDecision::Replay(stored)),
    };
    let mut cached_response = None;
    if let Some(subject) = cached::subject(admitted, shared, exchange, client.request(), params) {
        cached_response = cached::lookup(admitted, shared, exchange, client, subject).await?;
        if let (Some(cached), Some(rewrite)) = (&cached_response, &chain.rewrite)
            && [LOCATION, CONTENT_LOCATION, SET_COOKIE].iter().any(|it| cached.head.headers.contains_key(it))
        {
            exchange.path_back = rewrite.path_back_of(exchange, client.request(), params);
        }
        if let Some(cached) = cached_response.take_if(|it| it.refresh.is_none()) {
            return Ok(RouteDecision::Cached(cached, reservation));
        }
    }
    let mut context = RequestContext::new(exchange, client.request_mut(), params);
    chain.before_the_upstream(&mut context).await?;
    drop(context);
    tap_request(admitted.route(), exchange, client, reservation.is_some()).await?;
    // A stale response is served only now: the upstream is going to be called in the background.
    Ok(match (cached_response, reservation) {
        (Some(cached), reservation) => RouteDecision::Cached(cached, reservation),
        (None, Some(reservation)) => RouteDecision::Idempotent(reservation),
        (None, None) => RouteDecision::Forward,
    })
}

/// Which of several upstreams gets the request. Before anything goes by where it goes: the cache, sessions, the endpoint.
fn choose_part(admitted: &Admitted, exchange: &Exchange, request: &RequestHeader) {
    let Action::Split(split) = &admitted.route().action else { return };
    let idempotency = admitted.route().chain.idempotency.as_ref().filter(|it| it.concerns(&request.method));
    let by_caller = || {
        let caller = exchange.caller(&request.headers, &[]);
        let named = caller.principal.is_some() || caller.unverified.is_some();
        named.then(|| split_key(|part| caller.key(|it| part(it))))
    };
    // What is repeated under a key goes where it went: there it may have been done already.
    let repeated = idempotency.filter(|_| !split.is_sticky()).map(|_| match idempotency_field(&request.headers) {
        Some(key) => split_key(|part| part(key)),
        None => by_caller().unwrap_or_else(|| split_key(|part| part(exchange.client_ip.to_string().as_bytes()))),
    });
    let key = repeated.or_else(|| split.key(&request.headers, exchange.client_ip, by_caller));
    let can_serve = |number: usize| match admitted.destinations().get(number) {
        Some(Destination::Upstream(live)) => idempotency.is_some() || !live.is_down(),
        Some(Destination::Local(..)) => true,
        None => false,
    };
    admitted.part.store(split.choose(key, can_serve), Relaxed);
}

/// The key of an idempotent request, where it stands in a field; with quotes or without, it is the same one.
fn idempotency_field(fields: &HeaderMap) -> Option<&[u8]> {
    let field = fields.get("idempotency-key").or_else(|| fields.get("x-idempotency-key"))?.as_bytes().trim_ascii();
    Some(field.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(field))
}

/// What the endpoint goes by, where the upstream balances by a key or has sticky sessions. Before a rewrite: captures are
/// of the path as it came; and before requests are compared: the cookie of a session makes none another.
fn balance_by(admitted: &Admitted, exchange: &mut Exchange, request: &mut RequestHeader, params: &Params) {
    let Some(Destination::Upstream(live)) = admitted.destinations().get(admitted.part.load(Relaxed)) else { return };
    if let Some(key) = &live.upstream().hash_on {
        let table = &admitted.active.snapshot.table;
        let captured = |name: &str| table.param(admitted.route, params, request.uri.path(), name);
        exchange.balance_key = key.of_request(&request.headers, exchange.client_ip, captured);
    }
    exchange.sticky = live.session(request);
    if let Some(session) = exchange.sticky {
        exchange.balance_key = exchange.balance_key.or(session.balance_key());
    }
}

/// What taps are going to look through comes whole and in no encoding, and what the cache keeps in one form.
fn as_it_can_be_used(chain: &filters::Chain, client: &mut Client) {
    if let Some(rules) = &chain.cache {
        rules.drop_ignored_cookies(client.request_mut());
    }
    // What is kept once is compressed anew for each client, and not by the upstream for the first one.
    if chain.compress.is_some() && chain.cache.is_some() {
        let _ = client.request_mut().insert_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if !chain.taps_requests() && !chain.taps_responses() {
        return;
    }
    let upgrades = client.wants_upgrade();
    let request = client.request_mut();
    if upgrades {
        request.remove_header(&SEC_WEBSOCKET_EXTENSIONS);
    }
    if chain.taps_responses() {
        request.remove_header(&RANGE);
        request.remove_header(&IF_RANGE);
        let _ = request.insert_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Shows taps the body where they want it whole; else they go with it.
async fn tap_request(route: &Route, exchange: &mut Exchange, client: &mut Client, held: bool) -> Result<(), Early> {
    if !route.chain.taps_requests() || !route.action.forwards() {
        return Ok(());
    }
    let upgrades = client.wants_upgrade();
    if client.has_no_body() && !upgrades {
        return Ok(());
    }
    let Some(mut taps) = route.chain.request_taps(exchange, client.request()) else { return Ok(()) };
    if !upgrades && codec::is_encoded(&client.request().headers) {
        decode_request(&mut taps, client, &route.policy)?;
    }
    let whole = !upgrades && (held || exchange.body.is_some() || taps.want_whole_body());
    if whole {
        Box::pin(hold_body(client, exchange, &route.policy)).await?;
        exchange.body = Some(show_whole(&mut taps, exchange.body.take().unwrap_or_default())?);
    }
    // Of what goes on as it comes nobody knows yet what is going to change.
    if !upgrades && (!whole || taps.have_changed()) {
        DIGESTS.iter().for_each(|it| {
            client.request_mut().remove_header(*it);
        });
    }
    exchange.request_taps = (!whole).then_some(taps);
    Ok(())
}

/// What taps have to read is decoded, and goes on so: who says what it is can't say later what it is not.
fn decode_request(taps: &mut Taps, client: &mut Client, policy: &Policy) -> Result<(), Refusal> {
    let codings = Coding::of_body(&client.request().headers);
    let Some([coding]) = codings.as_deref() else {
        let accepted = "any, with one Content-Encoding of br, zstd and gzip, or without".to_owned();
        return Err(Refusal::UnsupportedMediaType { accepted });
    };
    let max = usize::try_from(policy.body_limit).unwrap_or(usize::MAX);
    taps.decode(*coding, Some(max)).map_err(|_| Refusal::CheckBusy)?;
    client.request_mut().remove_header(&CONTENT_ENCODING);
    Ok(())
}

/// The steps that need the body, and the reservation of an idempotent request.
async fn reserve(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
) -> Result<ReserveOutcome, Early> {
    let route = admitted.route();
    // What comes on an upgraded connection is no body.
    if client.wants_upgrade() {
        if !client.has_no_body() {
            return Err(Refusal::BadRequest("a request to change protocols has a body").into());
        }
        return Ok(ReserveOutcome::NoKey);
    }
    if route.chain.needs_body(&client.request().method) || shared.mocks {
        Box::pin(hold_body(client, exchange, &route.policy)).await?;
        let held = exchange.body.clone().unwrap_or_default();
        let request = client.shared_request();
        Box::pin(unless_gone(client, route.chain.on_body(exchange, &request, &held))).await??;
        if shared.mocks && filters::rate_limit::triggered(&held) {
            return Err(Refusal::RateLimited { name: None, limit: 0, retry_after: 1 }.into());
        }
    }
    let idempotency = route.chain.idempotency.as_ref().filter(|it| it.concerns(&client.request().method));
    let key = idempotency.map(|it| it.key(exchange, client.request())).transpose()?;
    let (Some(idempotency), Some(key)) = (idempotency, key.flatten()) else { return Ok(ReserveOutcome::NoKey) };
    let outcome = Box::pin(unless_gone(client, idempotency.reserve(&shared.state.records, key))).await??;
    if let ReserveOutcome::First(reservation) = &outcome {
        shared.orphans.admit(reservation.network())?;
    }
    Ok(outcome)
}

fn client_certificate(client: &Client) -> Option<Arc<ClientCertificate>> {
    client.connection().tls()?.client.clone()
}

/// How a request that nothing refused goes on.
enum RouteDecision {
    /// To its destination.
    Forward,
    /// To its destination, as the first one under its idempotency key.
    Idempotent(Reservation),
    /// It was answered before: this is the stored response.
    Replay(StoredResponse),
    /// Its response is cached; it fills the reservation of an idempotent request, too.
    Cached(Box<CachedResponse>, Option<Reservation>),
}

fn replayed(stored: StoredResponse) -> (Box<ResponseHeader>, Bytes) {
    let mut head = reply::head(stored.status);
    for (name, value) in &stored.headers {
        let _ = head.append_header(name, value);
    }
    let _ = head.insert_header("idempotency-replayed", HeaderValue::from_static("true"));
    (head, stored.body)
}

/// What an answer passes on its way to the client, and what stands in the place of a refusal.
pub(super) trait Way: ResponseFilters {
    /// The filters of the route; without one, those of `defaults`.
    fn chain(&self) -> &filters::Chain;
}

impl Way for Admitted {
    fn chain(&self) -> &filters::Chain {
        &self.route().chain
    }
}

impl Way for DefaultResponse {
    fn chain(&self) -> &filters::Chain {
        &self.active.snapshot.defaults
    }
}

/// Back from an answer's head to the client, for refusals and errors too.
impl ResponseFilters for Admitted {
    fn on_refusal(&self, exchange: &mut Exchange) {
        cached::abandon(exchange, self); // requests that wait for this response wait in vain
    }

    fn on_response(&self, exchange: &mut Exchange, answer: &mut ResponseHeader) {
        // Before anything changes the response: stored is what the upstream sent.
        if let Some(lookup) = &mut *self.lookup()
            && !lookup.on_response(answer)
        {
            exchange.recording = None;
        }
        if let Some(back) = exchange.path_back.take() {
            let endpoint = exchange.attempt.endpoint.map(|it| it.to_string());
            back.apply(answer, endpoint.as_deref());
        }
        if self.route().negotiates {
            vary_by_accept(answer);
        }
        // Behind what is stored: a session is one client's.
        if let Some(cookie) = exchange.attempt.sticky_cookie.take() {
            let _ = answer.append_header(SET_COOKIE, cookie);
        }
        response_filters(&self.route().chain, exchange, answer);
    }

    fn response_taps(&self, exchange: &Exchange, head: &ResponseHeader) -> Option<Box<Taps>> {
        self.route().chain.response_taps(exchange, head)
    }
}

/// The response to a request that no route took: as a route with nothing but `defaults` would answer.
pub(super) struct DefaultResponse {
    active: Arc<ActiveConfig>,
    origin: Option<HeaderValue>,
}

impl DefaultResponse {
    pub(super) fn new(active: Arc<ActiveConfig>, request: &RequestHeader) -> Self {
        Self::of(active, request.headers.get(ORIGIN).cloned())
    }

    pub(super) fn of(active: Arc<ActiveConfig>, origin: Option<HeaderValue>) -> Self {
        Self { active, origin }
    }
}

impl ResponseFilters for DefaultResponse {
    fn on_response(&self, exchange: &mut Exchange, answer: &mut ResponseHeader) {
        let chain = &self.active.snapshot.defaults;
        exchange.origin = chain.cors.as_ref().and_then(|it| it.origin(self.origin.as_ref()));
        response_filters(chain, exchange, answer);
    }
}

fn response_filters(chain: &filters::Chain, exchange: &mut Exchange, answer: &mut ResponseHeader) {
    chain.on_response(exchange, answer);
    filters::behind_the_route(exchange, answer);
    dated(answer);
}

/// Another `Accept` would have got another route's response (RFC 9110, section 12.5.5).
fn vary_by_accept(answer: &mut ResponseHeader) {
    let named = |it: &[u8]| it.eq_ignore_ascii_case(b"accept") || it == b"*";
    let mut members = answer.headers.get_all(VARY).iter().flat_map(|it| it.as_bytes().split(|it| *it == b','));
    if !members.any(|it| named(it.trim_ascii())) {
        let _ = answer.append_header(VARY, HeaderValue::from_static("Accept"));
    }
}

fn dated(answer: &mut ResponseHeader) {
    if !answer.headers.contains_key(http::header::DATE) {
        let _ = answer.insert_header(http::header::DATE, get_cached_date());
    }
}

fn normalise(request: &mut RequestHeader) -> Result<(), Refusal> {
    let target = Target::normalise(request.raw_path())
        .map_err(|_| Refusal::BadRequest("the target's path can be read in two ways"))?;
    if target.is_unchanged() {
        return Ok(());
    }
    let uri: Uri = target.to_string().parse().map_err(|_| Refusal::BadRequest("the target is not a URI"))?;
    if request.version == Version::HTTP_2 {
        filters::keep_authority(request);
    }
    request.set_uri(uri);
    Ok(())
}

/// What is protected is so too against servers that cut parameters off a path.
fn path_parameters(admitted: &Admitted, request: &RequestHeader, came: Came<'_>) -> Result<(), Refusal> {
    let Some(cut) = without_parameters(request.uri.path()) else { return Ok(()) };
    let refused = Refusal::BadRequest("the path's parameters can be read in two ways");
    let Ok(target) = Target::normalise(cut.as_bytes()) else { return Err(refused) };
    let other = find(&admitted.active, request, target.path(), came).ok().map(|it| it.0);
    if admitted.active.snapshot.takes_parameters(admitted.route, other) { Ok(()) } else { Err(refused) }
}

/// How a request came, as far as routes ask for it.
#[derive(Clone, Copy)]
struct Came<'a> {
    websocket: bool,
    https: bool,
    listener: &'a str,
}

fn find(
    active: &ActiveConfig,
    request: &RequestHeader,
    path: &str,
    came: Came<'_>,
) -> Result<(usize, Params), Refusal> {
    let host = request.headers.get(http::header::HOST).and_then(|it| it.to_str().ok());
    let asked = Request {
        host: host.or_else(|| request.uri.authority().map(|it| it.as_str())),
        path,
        query: request.uri.query(),
        method: &request.method,
        headers: &request.headers,
        websocket: came.websocket,
        https: came.https,
        listener: Some(came.listener),
    };
    // A preflight is answered by the route of the request that it announces.
    if let Some(method) = filters::announced_method(&request.method, &request.headers)
        && let Outcome::Found { route, params } = active.snapshot.table.find(&Request { method: &method, ..asked })
        && active.snapshot.routes[route].chain.cors.is_some()
    {
        return Ok((route, params));
    }
    match active.snapshot.table.find(&asked) {
        Outcome::Found { route, params } => Ok((route, params)),
        Outcome::NotFound => Err(Refusal::RouteNotFound),
        Outcome::MethodNotAllowed { allow } => Err(Refusal::MethodNotAllowed { allow }),
        Outcome::NotAcceptable => Err(Refusal::NotAcceptable),
    }
}

fn redirected(
    redirect: &Redirect,
    exchange: &Exchange,
    request: &RequestHeader,
    params: &Params,
) -> Option<Box<ResponseHeader>> {
    let mut place = String::new();
    let host = filters::named_host(exchange, request);
    let host = host.as_ref().map(HostName::as_str);
    // A path is one of the client's: what a proxy has taken away from its beginning belongs to it.
    let prefix = exchange.proxied.as_ref().and_then(|it| it.prefix.as_ref()?.to_str().ok()).unwrap_or_default();
    match &redirect.to {
        Some(to) => {
            let values = filters::Filling::of(exchange, host, request.uri.path(), params);
            to.expand_with(params, request.uri.path(), &values, &mut place);
            if place.starts_with('/') {
                place.insert_str(0, prefix);
            }
        }
        None => place.extend(["https://", host?, prefix, request.uri.path()]),
    }
    join_query(&mut place, request.uri.query());
    let mut head = reply::head(redirect.status);
    head.insert_header(LOCATION, HeaderValue::from_str(&place).ok()?).ok()?;
    Some(head)
}

fn respond_with(respond: &Respond) -> (Box<ResponseHeader>, Bytes) {
    let mut head = reply::head(respond.status);
    let _ = head.insert_header(http::header::CONTENT_TYPE, respond.content_type.clone());
    (head, respond.body.clone())
}
