//! One route's match, compiled, and what makes it more specific than another.

use std::cmp::Reverse;

use http::HeaderMap;

use crate::base::{At, Diagnostics};

use super::accept::{self, Media, Quality};
use super::pattern::{Host, Pattern};
use super::predicates::{Methods, Predicate};
use super::table::Request;
use super::written::{MatchConfig, SchemeMatch, WebSocketMatch};

/// A compiled `match:` section.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) pattern: Pattern,
    /// None: any host.
    pub(super) hosts: Vec<Host>,
    pub(super) methods: Methods,
    pub(super) predicates: Vec<Predicate>,
    pub(super) accept: Vec<Media>,
    pub(super) scheme: Option<SchemeMatch>,
    pub(super) listener: Option<String>,
    pub(super) websocket: WebSocketMatch,
    /// Which route it is of: one with several paths has a `Route` for each.
    pub(super) number: usize,
    /// Where among the captures of all paths each of its own stands, if that is not simply in order.
    pub(super) places: Option<Box<[usize]>>,
    /// What orders routes of the same host and shape, before any request is looked at.
    pub(super) weight: Weight,
    /// As written, as far as people may see it: what explanations quote.
    pub(super) shown: Box<MatchConfig>,
}

/// More conditions, more exact ones, longer prefixes, methods listed. Greater goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weight {
    narrowness: (usize, usize, usize),
    methods: bool,
}

/// How well a route of the same weight fits a request: the method by its own name, then what the
/// client likes best. Greater goes first; the name decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    own_method: bool,
    /// `None` if the route names no types, and so is the less specific one.
    quality: Option<Quality>,
}

impl Route {
    /// Reports all faults; returns the route and whether it has none.
    pub(super) fn compile(
        name: &str,
        written: &MatchConfig,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> (Self, bool) {
        // No `..`: a new condition does not compile until it has its meaning here.
        let MatchConfig { path: _, paths: _, hosts, scheme, listener, methods, headers, query, accept, websocket } =
            written;
        let before = diagnostics.iter().count();
        let pattern = Pattern::default();
        let hosts = hosts_of(hosts, &at.key("hosts"), diagnostics);
        let methods = Methods::compile(methods, &at.key("methods"), diagnostics);
        let mut predicates = Predicate::headers(headers, &at.key("headers"), diagnostics);
        predicates.extend(Predicate::query(query, &at.key("query"), diagnostics));
        let accept = list(accept, &at.key("accept"), diagnostics, Media::compile);
        // RFC 6455, section 4.1, and RFC 8441, section 4: a handshake is a GET or a CONNECT.
        let shakes = |it: &http::Method| *it == http::Method::GET || *it == http::Method::CONNECT;
        if websocket.takes() && !methods.any() && !methods.list.iter().any(shakes) {
            diagnostics
                .error(&at.key("methods"), "no request matches: a WebSocket handshake is a `GET`")
                .help("leave `methods` out");
        }
        let mut narrowness = Predicate::narrowness(&predicates);
        let conditions = [websocket.only(), scheme.is_some(), listener.is_some()];
        narrowness.0 += conditions.into_iter().filter(|it| *it).count();
        let weight = Weight { narrowness, methods: !methods.any() };
        let name = name.to_owned();
        let (websocket, scheme, listener) = (*websocket, *scheme, listener.clone());
        let shown = Box::new(written.shown());
        let route = Self {
            name,
            pattern,
            hosts,
            methods,
            predicates,
            accept,
            scheme,
            listener,
            websocket,
            number: 0,
            places: None,
            weight,
            shown,
        };
        (route, diagnostics.iter().count() == before)
    }

    /// The names that its hosts capture.
    pub(super) fn host_captures(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter_map(Host::capture)
    }

    /// Whether the conditions hold that are no business of method and media type.
    pub(super) fn conditions_hold(&self, request: &Request<'_>) -> bool {
        (!self.websocket.only() || request.websocket)
            && self.scheme.is_none_or(|it| (it == SchemeMatch::Https) == request.https)
            && self.listener.as_deref().is_none_or(|it| request.listener.is_none_or(|name| name == it))
            && self.predicates.iter().all(|it| it.holds(request.headers, request.query))
    }

    /// How well the request fits, if all holds that is not host and path.
    pub(super) fn fit(&self, request: &Request<'_>) -> Option<Fit> {
        let own_method = self.methods.fit(request.method)?;
        if !self.conditions_hold(request) {
            return None;
        }
        let quality = self.quality(request.headers)?;
        Some(Fit { own_method, quality })
    }

    /// `Some(None)` if it does not matter, `None` if the client accepts nothing of what there is.
    pub(super) fn quality(&self, headers: &HeaderMap) -> Option<Option<Quality>> {
        if self.accept.is_empty() {
            return Some(None);
        }
        accept::best(&self.accept, headers).map(Some)
    }

    /// The order in which routes of the same host and shape are tried.
    pub(super) fn order(&self) -> impl Ord {
        (Reverse(self.weight), &self.name)
    }

    /// Whether some request of the same host and shape fits both, and equally well.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        self.number != other.number
            && self.weight == other.weight
            && !differ(self.scheme.as_ref(), other.scheme.as_ref())
            && !differ(self.listener.as_ref(), other.listener.as_ref())
            && self.methods.overlap(&other.methods)
            && same_accept(&self.accept, &other.accept)
            && !Predicate::disjoint(&self.predicates, &other.predicates)
    }
}

/// Whether no request can satisfy both.
fn differ<T: PartialEq>(left: Option<&T>, right: Option<&T>) -> bool {
    left.zip(right).is_some_and(|(left, right)| left != right)
}

/// `*` alone stands for any host, as nothing does.
fn hosts_of(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Host> {
    match written {
        [any] if any == "*" => Vec::new(),
        written => list(written, at, diagnostics, Host::compile),
    }
}

/// Types of different names are distinguished by what the client likes best.
fn same_accept(left: &[Media], right: &[Media]) -> bool {
    (left.is_empty() && right.is_empty()) || left.iter().any(|it| right.contains(it))
}

fn list<T: PartialEq>(
    written: &[String],
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
    compile: impl Fn(&str, &At<'_>, &mut Diagnostics) -> Option<T>,
) -> Vec<T> {
    let mut list = Vec::new();
    for (index, text) in written.iter().enumerate() {
        if let Some(entry) = compile(text, &at.index(index), diagnostics)
            && !list.contains(&entry)
        {
            list.push(entry);
        }
    }
    list
}
