//! The route table: from a request to one route, or to the reason why there is none.
//!
//! Built once for a snapshot and never changed. Answers are data; that a miss becomes a 404, 405
//! or 406 is the proxy's.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};

use crate::base::{At, Diagnostics};

use super::pattern::{ANYTHING, Host, HostName, Pattern};
use super::predicates::allow;
use super::route::{Fit, Route};
use super::trie::{CAPTURES_MAX, Params, TextMap, Trie, Visit};
use super::written::MatchConfig;

/// What of a request decides about its route. The path and the query are those of a
/// [`Target`](super::Target), normalised.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The authority: `Host` or `:authority`, with or without a port.
    pub host: Option<&'a str>,
    /// The path, normalised.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// Whether it is a WebSocket handshake (RFC 6455, section 4.1; RFC 8441).
    pub websocket: bool,
    /// Whether its client came over TLS.
    pub https: bool,
    /// The name of the listener that it came to; `None` if that is not known, and does not count.
    pub listener: Option<&'a str>,
}

/// What a table says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A route takes it.
    Found {
        /// The route's number in the list that the table was compiled from.
        route: usize,
        /// What its pattern captured.
        params: Params,
    },
    /// No route has such a host and path, or the conditions of those that have do not hold.
    NotFound,
    /// Only the method is wrong (RFC 9110, section 15.5.6).
    MethodNotAllowed {
        /// The value for `Allow`.
        allow: String,
    },
    /// Only the media type is wrong (RFC 9110, section 15.5.7).
    NotAcceptable,
}

/// All routes, compiled.
///
/// Among the routes whose every condition holds, the most specific one wins, whatever the order in
/// the file. In turn, the first difference decides:
///
/// 1. the host: an exact name, then `{name}.`, then `*.` before the longer name, then any host;
/// 2. the path, segment by segment: literal, then `{name}`, then `{*rest}`;
/// 3. more conditions on headers and query (`websocket`, `scheme` and `listener` are such), then more exact ones among them,
///    then the longer prefixes;
/// 4. methods listed, then any; for `HEAD`, a route that lists it before one that lists `GET`;
/// 5. media types listed, by the client's quality, then those named in full; then none listed;
/// 6. types the client likes equally well: the route's name, so that there always is an answer.
///
/// Routes that would get to the end with a type in common, or without any, can't be distinguished: an
/// error. Every step narrows what a route takes, so no single route can hide a less specific one.
///
/// `/a/{*rest}` also takes `/a`, with nothing captured.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// One for each path of each route.
    routes: Vec<Route>,
    /// Of each route: the first of its paths, and the names of what they all capture.
    numbers: Vec<(usize, Vec<String>)>,
    exact: TextMap<Trie>,
    /// By the name behind the label that is captured.
    label: TextMap<Trie>,
    /// By the name behind `*.`.
    below: TextMap<Trie>,
    any: Trie,
}

impl Table {
    /// Compiles routes with their names; `at` is the place of their list. Reports all faults.
    pub fn compile(routes: &[(&str, &MatchConfig)], at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut table = Self::default();
        for (index, (name, written)) in routes.iter().enumerate() {
            let at = at.index(index);
            table.add(index, name, written, &at.key("match"), diagnostics);
        }
        table.order(at, diagnostics);
        table
    }

    /// Explains routes by these words, one for each in their order, in place of what they were compiled from.
    pub fn explain_by(&mut self, shown: impl Iterator<Item = MatchConfig>) {
        let shown: Vec<MatchConfig> = shown.collect();
        for route in &mut self.routes {
            if let Some(shown) = shown.get(route.number) {
                route.shown.clone_from(&Box::new(shown.clone()));
            }
        }
    }

    /// Which route takes a request. Allocates nothing when one does.
    pub fn find(&self, request: &Request<'_>) -> Outcome {
        let host = self.host_of(request);
        let choose = &mut |candidates: &[usize]| self.choose(candidates, request);
        match self.walk(host.as_ref(), request.path, choose) {
            Some((path, params)) => self.found(path, params),
            None => self.miss(host.as_ref(), request),
        }
    }

    /// The name of the route number `route`.
    pub fn name(&self, route: usize) -> &str {
        &self.routes[self.numbers[route].0].name
    }

    /// The pattern that takes a request, of a route that may have several.
    pub(super) fn pattern_taken(&self, request: &Request<'_>) -> Option<&str> {
        let host = HostName::of(request.host);
        let (path, _) = self.walk(host.as_ref(), request.path, &mut |candidates| self.choose(candidates, request))?;
        Some(&self.routes[path].pattern.text)
    }

    fn found(&self, path: usize, params: Params) -> Outcome {
        let Route { number, places, .. } = &self.routes[path];
        let params = match places {
            Some(places) => params.placed(places, self.numbers[*number].1.len()),
            None => params.widened(self.numbers[*number].1.len()),
        };
        Outcome::Found { route: *number, params }
    }

    /// The (first) path pattern of the route number `route`, as written.
    pub fn pattern(&self, route: usize) -> &str {
        &self.routes[self.numbers[route].0].pattern.text
    }

    /// The names of what the hosts of the route number `route` capture.
    pub fn host_captures(&self, route: usize) -> Vec<String> {
        self.routes[self.numbers[route].0].host_captures().map(str::to_owned).collect()
    }

    /// The names of what the route number `route` captures, in the order of [`Params::at`].
    pub fn captures(&self, route: usize) -> &[String] {
        &self.numbers[route].1
    }

    /// What a path that was matched captured under a name.
    pub fn param<'p>(&self, route: usize, params: &Params, path: &'p str, name: &str) -> Option<&'p str> {
        let index = self.captures(route).iter().position(|it| it == name)?;
        params.at(index, path)
    }

    /// Whether the route number `wide` takes whatever comes where the paths of the route number `other` are, at a host
    /// that both may take.
    pub fn covers(&self, wide: usize, other: usize) -> bool {
        let of = |number: usize| self.routes.iter().filter(move |it| it.number == number);
        of(wide).any(|wide| of(other).any(|other| Self::path_covers(wide, other)))
    }

    fn path_covers(wide: &Route, other: &Route) -> bool {
        let meet = |one: &Host, two: &Host| one == two || one.takes(&two.text()) || two.takes(&one.text());
        let hosts = wide.hosts.is_empty()
            || other.hosts.is_empty()
            || wide.hosts.iter().any(|one| other.hosts.iter().any(|two| meet(one, two)));
        hosts && wide.pattern.covers(&other.pattern)
    }

    /// The number of routes.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are no routes.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Adds a route: each of its paths, with conditions that are checked once.
    fn add(&mut self, number: usize, name: &str, written: &MatchConfig, at: &At<'_>, diagnostics: &mut Diagnostics) {
        if written.says_nothing() {
            let diagnostic = diagnostics.error(at, "it does not say which requests are meant");
            diagnostic.help("write `path: \"/api/{*rest}\"`, or `path: \"/{*rest}\"` for all of them");
        }
        if !written.path.is_empty() && !written.paths.is_empty() {
            diagnostics.error(&at.key("paths"), "`path` stands beside it").help("put it into `paths`, too");
        }
        let (list, single) = (at.key("paths"), at.key("path"));
        let mut pattern = |(place, text): (usize, &str)| {
            let before = diagnostics.iter().count();
            let at = if written.paths.is_empty() { single } else { list.index(place) };
            let pattern = Pattern::compile(text, &at, diagnostics);
            (pattern, diagnostics.iter().count() == before)
        };
        let patterns: Vec<(Pattern, bool)> = written.patterns().into_iter().enumerate().map(&mut pattern).collect();
        let (route, sound) = Route::compile(name, written, at, diagnostics);
        let mut names: Vec<String> = Vec::new();
        let first = self.routes.len();
        for (pattern, fine) in patterns {
            let places: Box<[usize]> = pattern.names.iter().map(|name| place_of(name, &mut names)).collect();
            let in_order = places.iter().enumerate().all(|(own, place)| own == *place);
            let route = Route { pattern, number, places: (!in_order).then_some(places), ..route.clone() };
            if sound && fine {
                self.insert(&route, self.routes.len());
            }
            self.routes.push(route);
        }
        if written.says_nothing() {
            names = vec![ANYTHING.to_owned()]; // no template is blamed for that
        }
        if names.len() > CAPTURES_MAX {
            diagnostics.error(&list, format!("more than {CAPTURES_MAX} captures in all"));
        }
        self.numbers.push((first, names));
    }

    fn insert(&mut self, route: &Route, index: usize) {
        if route.hosts.is_empty() {
            self.any.insert(&route.pattern, index);
        }
        for host in &route.hosts {
            let (map, name) = match host {
                Host::Exact(name) => (&mut self.exact, name),
                Host::Label(_, name) => (&mut self.label, name),
                Host::Below(name) => (&mut self.below, name),
            };
            map.entry(name.as_str().into()).or_default().insert(&route.pattern, index);
        }
    }

    /// Sorts the routes that share host and shape, and reports those that can't be distinguished.
    fn order(&mut self, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let Self { routes, exact, label, below, any, .. } = self;
        let mut clashes = BTreeSet::new();
        let tries = exact.values_mut().chain(label.values_mut()).chain(below.values_mut()).chain([any]);
        for leaf in tries.flat_map(Trie::leaves_mut) {
            leaf.sort_by(|left, right| routes[*left].order().cmp(&routes[*right].order()));
            for (place, left) in leaf.iter().enumerate() {
                let mut equals = leaf[place + 1..].iter().take_while(|it| routes[**it].weight == routes[*left].weight);
                // One clash a route is enough to report: many alike would make many pairs.
                if let Some(right) = equals.find(|it| routes[*left].clashes(&routes[**it])) {
                    let (left, right) = (routes[*left].number, routes[*right].number);
                    clashes.insert((left.max(right), left.min(right)));
                }
            }
        }
        for (later, earlier) in clashes {
            let name = |number: usize| routes.iter().find(|it| it.number == number).map_or("", |it| &it.name);
            let names = (name(later), name(earlier));
            let message = format!(
                "routes `{}` and `{}` can take the same request, and neither is more specific",
                names.1, names.0
            );
            diagnostics.error(&at.index(later).key("match"), message).help(
                "let them differ in `path`, `hosts`, `methods` or `accept`, or give one of them \
                 one more condition under `headers` or `query`",
            );
        }
    }

    /// Shows all lists of routes whose host and path match, most specific first.
    /// The host that a request names, where any route goes by it.
    fn host_of(&self, request: &Request<'_>) -> Option<HostName> {
        if self.exact.is_empty() && self.below.is_empty() { None } else { HostName::of(request.host) }
    }

    fn walk(&self, host: Option<&HostName>, path: &str, visit: Visit<'_>) -> Option<(usize, Params)> {
        if !path.starts_with('/') {
            return None;
        }
        if let Some(host) = host.map(HostName::as_str) {
            if let Some(trie) = self.exact.get(host)
                && let Some(found) = trie.walk(path, visit)
            {
                return Some(found);
            }
            if let Some((_, name)) = host.split_once('.')
                && let Some(trie) = self.label.get(name)
                && let Some(found) = trie.walk(path, visit)
            {
                return Some(found);
            }
            let mut rest = if self.below.is_empty() { None } else { host.split_once('.') };
            while let Some((_, name)) = rest {
                if let Some(trie) = self.below.get(name)
                    && let Some(found) = trie.walk(path, visit)
                {
                    return Some(found);
                }
                rest = name.split_once('.');
            }
        }
        self.any.walk(path, visit)
    }

    /// The best of the routes that share host and shape, which stand in their order.
    fn choose(&self, candidates: &[usize], request: &Request<'_>) -> Option<usize> {
        let mut best: Option<(Fit, usize)> = None;
        for index in candidates {
            let route = &self.routes[*index];
            if best.is_some_and(|(_, it)| self.routes[it].weight != route.weight) {
                break;
            }
            if let Some(fit) = route.fit(request)
                && best.is_none_or(|(it, _)| fit > it)
            {
                best = Some((fit, *index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// Why no route takes a request. Walks once more, so that a hit pays nothing for this.
    fn miss(&self, host: Option<&HostName>, request: &Request<'_>) -> Outcome {
        let mut methods = BTreeSet::new();
        let mut not_acceptable = false;
        self.walk(host, request.path, &mut |candidates| {
            let routes = candidates.iter().map(|it| &self.routes[*it]);
            for route in routes.filter(|it| it.conditions_hold(request)) {
                not_acceptable |= route.methods.fit(request.method).is_some();
                methods.extend(route.methods.list.iter().map(Method::as_str));
            }
            None
        });
        if not_acceptable {
            Outcome::NotAcceptable
        } else if methods.is_empty() {
            Outcome::NotFound
        } else {
            Outcome::MethodNotAllowed { allow: allow(methods) }
        }
    }
}

/// Where a capture stands among those of all paths of a route.
fn place_of(name: &str, names: &mut Vec<String>) -> usize {
    names.iter().position(|it| it == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}
