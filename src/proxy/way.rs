//! The way of a request, as a table of contents: [`way_in`], [`forward`](crate::forward), [`deliver`](crate::deliver()), [`ResponseFilters`].
//!
//! The order is the same for every route, and `moongate explain` prints it. Each step says why it
//! stands where it stands.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION, ORIGIN, UPGRADE};
use http::{Method, StatusCode, Uri, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::date::get_cached_date;

use crate::cache::Given;
use crate::client::Client;
use crate::config::{Action, Respond, Route, Serving};
use crate::deliver::ResponseFilters;
use crate::filters::rate_limit::Part;
use crate::filters::{self, Begun, Deed, Idempotency, Kept};
use crate::forward::{Destination, ForwardError, hold_body, unless_gone};
use crate::identity::ClientCertificate;
use crate::pipeline::{Exchange, Refusal};
use crate::proxy::{Shared, cached, reply, strict};
use crate::routing::{Outcome, Params, Request, Target};

/// What the way in comes to.
pub(super) enum Arrival {
    /// The request goes to the destination of this route.
    Admitted(Admitted),
    /// It goes there, and is a deed that is done once.
    Deed(Admitted, Deed),
    /// Its answer is kept; with the deed that is done by giving it.
    Kept(Admitted, Box<Given>, Option<Deed>),
    /// It is answered at once.
    Answered(Admitted, Box<ResponseHeader>, Bytes),
}

/// The way in ended early: why, and on which route, if it got so far.
pub(super) struct Stopped {
    pub(super) admitted: Option<Admitted>,
    pub(super) why: ForwardError,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { admitted: None, why: ForwardError::Refused(refusal) }
    }
}

/// A route's number and what its way out needs of the request.
#[derive(Clone)]
pub(super) struct Admitted {
    pub(super) serving: Arc<Serving>,
    pub(super) route: usize,
    pub(super) origin: Option<HeaderValue>,
}

impl Admitted {
    pub(super) fn route(&self) -> &Route {
        &self.serving.snapshot.routes[self.route]
    }

    /// The operator's word about fields counts for interim answers, too.
    pub(super) fn on_interim(&self, head: &mut ResponseHeader) {
        self.route().chain.response_headers.on_response(head);
    }

    /// Where the route's requests go.
    pub(super) fn destination(&self) -> &Destination {
        let destination = self.serving.alive[self.route].destination.as_ref();
        destination.expect("what has none is answered at once")
    }
}

/// From a request's head to the decision what becomes of it.
pub(super) async fn way_in(
    serving: Arc<Serving>,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    peer_trusted: bool,
) -> Result<Arrival, Stopped> {
    // Before anything reads a field: what could be read in two ways is not read at all.
    strict::check(client)?;
    let request = client.request_mut();

    // Before the first refusal that can name them: every answer and line of the log does.
    filters::request_id::on_request(exchange, request, peer_trusted);
    filters::trace_context::on_request(exchange, request);

    // Before the match: the bytes that are matched are the bytes that are sent on.
    if request.raw_path() == b"*" {
        if request.method != Method::OPTIONS {
            return Err(Refusal::BadRequest("the target * is for OPTIONS alone").into());
        }
        return Err(Refusal::RouteNotFound.into());
    }
    normalise(request)?;

    let websocket = asks_for_websocket(client);
    let request = client.request_mut();
    let (route, params) = find(&serving, request, websocket)?;
    let origin = serving.snapshot.routes[route].chain.cors.as_ref().and_then(|_| request.headers.get(ORIGIN).cloned());
    let admitted = Admitted { serving, route, origin };
    // Before everything that asks for credentials: a preflight carries none.
    if let Some(head) = preflight(&admitted, request) {
        return Ok(Arrival::Answered(admitted, head, Bytes::new()));
    }
    match filter(&admitted, shared, exchange, client, &params).await {
        Ok(Onward::Free) => {}
        Ok(Onward::First(deed)) => return Ok(Arrival::Deed(admitted, deed)),
        Ok(Onward::Kept(given, deed)) => return Ok(Arrival::Kept(admitted, given, deed)),
        Ok(Onward::Replay(kept)) => {
            let (head, body) = replayed(kept);
            return Ok(Arrival::Answered(admitted, head, body));
        }
        Err(why) => return Err(Stopped { admitted: Some(admitted), why }),
    }
    match &admitted.route().action {
        Action::Upstream(_) => Ok(Arrival::Admitted(admitted)),
        Action::Redirect(redirect) => match redirected(redirect.status, &redirect.to, client.request(), &params) {
            Some(head) => Ok(Arrival::Answered(admitted, head, Bytes::new())),
            None => {
                let why = ForwardError::Refused(Refusal::BadRequest("the target can't be redirected"));
                Err(Stopped { admitted: Some(admitted), why })
            }
        },
        Action::Respond(respond) => {
            let (head, body) = respond_with(respond);
            Ok(Arrival::Answered(admitted, head, body))
        }
    }
}

/// The steps of a route, in their order.
async fn filter(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    params: &Params,
) -> Result<Onward, ForwardError> {
    // Always, and before anything could believe them: only the gateway says who is calling.
    filters::auth::forget_claims(client.request_mut());
    upgrade(admitted.route(), client).map_err(ForwardError::Refused)?;
    admit(admitted, shared, exchange, client).await.map_err(ForwardError::Refused)?;
    // Before the body is read: what can be refused by its head is.
    let deed = match begin(admitted, shared, exchange, client).await? {
        Begun::Nothing => None,
        Begun::First(deed) => Some(deed),
        Begun::Replay(kept) => return Ok(Onward::Replay(kept)),
    };
    // Before the request is rewritten, since answers are kept under what clients ask for; after credentials
    // have been taken out of it.
    let mut kept = None;
    if let Some(subject) = cached::subject(admitted, shared, exchange, client.request(), params) {
        kept = cached::visit(admitted, shared, exchange, client, subject).await?;
        if let Some(given) = kept.take_if(|it| it.refresh.is_none()) {
            return Ok(Onward::Kept(given, deed));
        }
    }
    make_ready(admitted, exchange, client.request_mut(), params).map_err(ForwardError::Refused)?;
    // A stale answer is given only now: the upstream is going to be asked in the background.
    Ok(match (kept, deed) {
        (Some(given), deed) => Onward::Kept(given, deed),
        (None, Some(deed)) => Onward::First(deed),
        (None, None) => Onward::Free,
    })
}

/// Who is asking, whether they may, and whether it is too much.
async fn admit(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
) -> Result<(), Refusal> {
    // No `..` here: a new filter does not compile until it has been given its place.
    let filters::Chain {
        cors,
        rate_limits,
        auth,
        rbac,
        body: _,
        idempotency: _,
        cache: _,
        rewrite: _,
        request_headers: _,
        response_headers: _,
        security: _,
    } = &admitted.route().chain;

    let limits = rate_limits.as_ref().map(|it| (it, &admitted.serving.alive[admitted.route].limits));
    let mut counted = filters::rate_limit::Takings::new();
    // Before credentials are looked at: guessing them counts, too.
    if let Some((limits, live)) = limits {
        let headers = &client.request().headers;
        live.on_request(limits, Part::Arrival, &mut counted, exchange, headers).await?;
    }
    // Before all work that is done for somebody: from here on it is known for whom.
    if let Some(auth) = auth {
        let certificate = client_certificate(client);
        let request = client.request_mut();
        auth.on_request(&shared.identity, certificate.as_ref(), cors.as_ref(), exchange, request).await?;
    }
    if let Some(rbac) = rbac {
        rbac.on_request(exchange)?;
    }
    // Now that it is known who is asking. A repetition of a deed counts, too.
    if let Some((limits, live)) = limits {
        let headers = &client.request().headers;
        live.on_request(limits, Part::Principal, &mut counted, exchange, headers).await?;
    }
    Ok(())
}

/// What is asked, as far as the body tells, and whether it was asked before.
async fn begin(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
) -> Result<Begun, ForwardError> {
    let route = admitted.route();
    let filters::Chain { body, idempotency, cache, .. } = &route.chain;
    if !body.is_empty() {
        let has_body = !client.has_no_body();
        body.on_head(&client.request().headers, has_body).map_err(ForwardError::Refused)?;
    }
    // What comes on an upgraded connection is no body.
    if client.wants_upgrade() {
        if !client.has_no_body() {
            return Err(ForwardError::Refused(Refusal::BadRequest("a request to change protocols has a body")));
        }
        return Ok(Begun::Nothing);
    }
    let method = &client.request().method;
    let deed = |it: &&Idempotency| matches!(route.action, Action::Upstream(_)) && it.concerns(method);
    let idempotency = idempotency.as_ref().filter(deed);
    let cached_by_body = cache.as_ref().is_some_and(|it| it.needs_body(method));
    if body.need_body() || idempotency.is_some() || cached_by_body || shared.mocks {
        Box::pin(hold_body(client, exchange, &route.policy)).await?;
        let held = exchange.body.clone().unwrap_or_default();
        body.on_body(&client.request().method, &held).map_err(ForwardError::Refused)?;
        if shared.mocks && filters::rate_limit::triggered(&held) {
            return Err(ForwardError::Refused(Refusal::RateLimited { limit: 0, retry_after: 1 }));
        }
    }
    // After everything that may refuse: a refusal is no deed. Before what changes the request: the id
    // belongs to what the client asked for.
    let mark = idempotency.map(|it| it.mark(exchange, client.request())).transpose().map_err(ForwardError::Refused)?;
    let (Some(idempotency), Some(mark)) = (idempotency, mark.flatten()) else { return Ok(Begun::Nothing) };
    let begun = Box::pin(unless_gone(client, idempotency.begin(&shared.state.records, mark))).await?;
    begun.map_err(ForwardError::Refused)
}

/// The request as the upstream is to see it.
fn make_ready(
    admitted: &Admitted,
    exchange: &mut Exchange,
    request: &mut RequestHeader,
    params: &Params,
) -> Result<(), Refusal> {
    let route = admitted.route();
    let filters::Chain { rewrite, request_headers, .. } = &route.chain;
    if request.version == Version::HTTP_2 && (rewrite.changes_path() || rewrite.changes_host()) {
        keep_authority(request);
    }
    // Upstreams are told the host that the client used.
    if rewrite.changes_host() {
        exchange.host_received = request.headers.get(http::header::HOST).cloned();
    }
    if rewrite.changes_path() {
        let path = request.uri.path();
        let Some(target) = rewrite.target(params, path, request.uri.query()) else {
            return Err(Refusal::BadRequest("the target can't be rewritten"));
        };
        exchange.target_received = Some(request.uri.clone());
        request.set_uri(target);
    }
    rewrite.on_request(request);
    // Last: the operator's word about a field is the last one, also about those of the gateway.
    if !request_headers.is_empty() {
        exchange.introduce_in(request);
        exchange.introduced = true;
        request_headers.on_request(request);
    }
    Ok(())
}

fn client_certificate(client: &Client) -> Option<Arc<ClientCertificate>> {
    client.connection().tls()?.client.clone()
}

/// How a request that nothing refused goes on.
enum Onward {
    /// To its destination.
    Free,
    /// To its destination, as the first of its kind.
    First(Deed),
    /// Its deed was done: this is the answer.
    Replay(Kept),
    /// Its answer is kept; with the deed that is done by giving it.
    Kept(Box<Given>, Option<Deed>),
}

fn replayed(kept: Kept) -> (Box<ResponseHeader>, Bytes) {
    let mut head = reply::head(kept.status);
    for (name, value) in &kept.headers {
        let _ = head.append_header(name, value);
    }
    let _ = head.insert_header("idempotency-replayed", HeaderValue::from_static("true"));
    (head, kept.body)
}

/// Back from an answer's head to the client, for refusals and errors too.
impl ResponseFilters for Admitted {
    fn on_response(&self, exchange: &mut Exchange, answer: &mut ResponseHeader) {
        way_out(&self.route().chain, self.origin.as_ref(), exchange, answer);
    }
}

/// What no route took leaves as a route with nothing but `defaults` would answer.
pub(super) struct Routeless {
    serving: Arc<Serving>,
    origin: Option<HeaderValue>,
}

impl Routeless {
    pub(super) fn new(serving: Arc<Serving>, request: &RequestHeader) -> Self {
        Self::of(serving, request.headers.get(ORIGIN).cloned())
    }

    pub(super) fn of(serving: Arc<Serving>, origin: Option<HeaderValue>) -> Self {
        Self { serving, origin }
    }
}

impl ResponseFilters for Routeless {
    fn on_response(&self, exchange: &mut Exchange, answer: &mut ResponseHeader) {
        way_out(&self.serving.snapshot.defaults, self.origin.as_ref(), exchange, answer);
    }
}

fn way_out(chain: &filters::Chain, origin: Option<&HeaderValue>, exchange: &mut Exchange, answer: &mut ResponseHeader) {
    let filters::Chain {
        cors,
        auth: _,
        rbac: _,
        rate_limits,
        body: _,
        idempotency: _,
        cache: _,
        rewrite: _,
        request_headers: _,
        response_headers,
        security,
    } = chain;

    // Before anything changes the answer: kept is what the upstream said.
    if let Some(visit) = &mut exchange.cache
        && !visit.on_response(answer)
    {
        exchange.recording = None;
    }
    if let Some(cors) = cors {
        cors.on_response(origin, answer);
    }
    security.on_response(exchange, answer);
    if rate_limits.is_some() {
        filters::rate_limit::on_response(exchange, answer);
    }
    response_headers.on_response(answer);
    common(exchange, answer);
}

fn common(exchange: &Exchange, answer: &mut ResponseHeader) {
    filters::request_id::on_response(exchange, answer);
    if !answer.headers.contains_key(http::header::DATE) {
        let _ = answer.insert_header(http::header::DATE, get_cached_date());
    }
}

fn normalise(request: &mut RequestHeader) -> Result<(), Refusal> {
    let absolute = !request.raw_path().starts_with(b"/");
    let raw: &[u8] = if absolute { absolute_path(request)? } else { request.raw_path() };
    let target =
        Target::normalise(raw).map_err(|_| Refusal::BadRequest("the target's path can be read in two ways"))?;
    if target.is_unchanged() && !absolute {
        return Ok(());
    }
    let uri: Uri = target.to_string().parse().map_err(|_| Refusal::BadRequest("the target is not a URI"))?;
    if request.version == Version::HTTP_2 {
        keep_authority(request);
    }
    request.set_uri(uri);
    Ok(())
}

/// The path of `GET http://host/path`. Pingora has refused a host that is not the one in `Host`.
fn absolute_path(request: &RequestHeader) -> Result<&[u8], Refusal> {
    let malformed = Refusal::BadRequest("the target is neither a path nor a URL");
    let target = request.raw_path();
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|it| target.get(..it.len()).is_some_and(|start| start.eq_ignore_ascii_case(it)));
    let Some(scheme) = scheme else { return Err(malformed) };
    let rest = &target[scheme.len()..];
    // The authority ends at the first of these; a slash in a query begins no path.
    match rest.iter().position(|it| b"/?#".contains(it)) {
        None => Ok(b"/"),
        Some(end) if rest[end] == b'/' => Ok(&rest[end..]),
        Some(_) => Err(malformed),
    }
}

/// In HTTP/2 the authority is a part of the target: it stays when the path is written anew.
fn keep_authority(request: &mut RequestHeader) {
    let authority = request.uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    if let Some(authority) = authority
        && !request.headers.contains_key(http::header::HOST)
    {
        let _ = request.insert_header(http::header::HOST, authority);
    }
}

/// Whether it is the handshake of a WebSocket (RFC 6455, section 4.1).
fn asks_for_websocket(client: &Client) -> bool {
    let request = client.request();
    let protocol = || request.headers.get(UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    client.wants_upgrade() && request.method == Method::GET && protocol()
}

/// Only a route for WebSockets changes protocols. Elsewhere their handshake is refused, since no answer to its GET is
/// what its client waits for; a wish for anything else is ignored (RFC 9110, section 7.8).
fn upgrade(route: &Route, client: &mut Client) -> Result<(), Refusal> {
    if !client.wants_upgrade() {
        return Ok(());
    }
    match asks_for_websocket(client) {
        true if route.description.r#match.websocket => Ok(()),
        true => Err(Refusal::UpgradeNotAllowed { protocol: "websocket".to_owned() }),
        false => {
            client.ignore_upgrade();
            Ok(())
        }
    }
}

fn find(serving: &Serving, request: &RequestHeader, websocket: bool) -> Result<(usize, Params), Refusal> {
    let host = request.headers.get(http::header::HOST).and_then(|it| it.to_str().ok());
    let asked = Request {
        host: host.or_else(|| request.uri.authority().map(|it| it.as_str())),
        path: request.uri.path(),
        query: request.uri.query(),
        method: &request.method,
        headers: &request.headers,
        websocket,
    };
    // A preflight is answered by the route of the request that it announces.
    if let Some(method) = filters::announced_method(&request.method, &request.headers)
        && let Outcome::Found { route, params } = serving.snapshot.table.find(&Request { method: &method, ..asked })
        && serving.snapshot.routes[route].chain.cors.is_some()
    {
        return Ok((route, params));
    }
    match serving.snapshot.table.find(&asked) {
        Outcome::Found { route, params } => Ok((route, params)),
        Outcome::NotFound => Err(Refusal::RouteNotFound),
        Outcome::MethodNotAllowed { allow } => Err(Refusal::MethodNotAllowed { allow }),
        Outcome::NotAcceptable => Err(Refusal::NotAcceptable),
    }
}

fn preflight(admitted: &Admitted, request: &RequestHeader) -> Option<Box<ResponseHeader>> {
    let route = admitted.route();
    route.chain.cors.as_ref()?.preflight(&request.method, &request.headers, &route.methods)
}

fn redirected(
    status: StatusCode,
    to: &crate::routing::Template,
    request: &RequestHeader,
    params: &Params,
) -> Option<Box<ResponseHeader>> {
    let mut place = String::new();
    to.expand(params, request.uri.path(), &mut place);
    if let Some(query) = request.uri.query() {
        place.push(if place.contains('?') { '&' } else { '?' });
        place.push_str(query);
    }
    let mut head = reply::head(status);
    head.insert_header(LOCATION, HeaderValue::from_str(&place).ok()?).ok()?;
    Some(head)
}

fn respond_with(respond: &Respond) -> (Box<ResponseHeader>, Bytes) {
    let mut head = reply::head(respond.status);
    let _ = head.insert_header(http::header::CONTENT_TYPE, respond.content_type.clone());
    (head, respond.body.clone())
}
