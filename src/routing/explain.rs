//! Why a request goes where it goes: the outcome, and the routes that nearly took it.
//!
//! For people, so it may be slow: it looks at every route by itself. Values of the request are not
//! repeated where they could be secrets. How it is printed is the command's business.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::pattern::{HostName, Nearness};
use super::route::Route;
use super::table::{Outcome, Request, Table};
use super::written::SchemeMatch;

/// The most near misses of an explanation; the others are counted.
const NEAR_MAX: usize = 20;

/// What becomes of a request, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What the table says.
    pub outcome: Verdict,
    /// Routes that nearly took it, the nearest first.
    pub near: Vec<NearMiss>,
    /// How many more there are.
    pub more: usize,
}

/// An [`Outcome`] with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A route takes it.
    Found {
        /// The route's name.
        route: String,
        /// Its path pattern, as written.
        path: String,
        /// What the pattern captured, by name.
        params: BTreeMap<String, String>,
    },
    /// No route takes it: 404.
    NotFound,
    /// No route takes it with this method: 405.
    MethodNotAllowed {
        /// The value for `Allow`.
        allow: String,
    },
    /// No route produces what the client accepts: 406.
    NotAcceptable,
}

/// A route that did not take the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NearMiss {
    /// The route's name.
    pub route: String,
    /// Its path pattern, as written.
    pub path: String,
    /// Why not: at least one reason.
    pub reasons: Vec<String>,
}

impl Table {
    /// Explains what becomes of a request.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let outcome = self.find(request);
        let winner = match &outcome {
            Outcome::Found { route, .. } => Some(*route),
            _ => None,
        };
        let host = HostName::of(request.host);
        let mut near: Vec<(bool, NearMiss)> = Vec::new();
        for route in self.routes() {
            let better = winner.map(|it| self.name(it));
            if winner != Some(route.number)
                && let Some(found) = near_miss(route, host.as_ref(), request, better)
            {
                near.push(found);
            }
        }
        near.sort_by_key(|(other_path, it)| (*other_path, it.reasons.len()));
        // Of a route with several paths the nearest one counts.
        let mut told = HashSet::new();
        near.retain(|(_, it)| told.insert(it.route.clone()));
        let more = near.len().saturating_sub(NEAR_MAX);
        let near = near.into_iter().take(NEAR_MAX).map(|(_, it)| it).collect();
        Explanation { outcome: self.verdict(outcome, request), near, more }
    }

    fn verdict(&self, outcome: Outcome, request: &Request<'_>) -> Verdict {
        match outcome {
            Outcome::Found { route, params } => {
                let named =
                    |(index, name): (usize, &String)| Some((name.clone(), params.at(index, request.path)?.to_owned()));
                let params = self.captures(route).iter().enumerate().filter_map(named).collect();
                let path = self.pattern_taken(request).unwrap_or_default().to_owned();
                Verdict::Found { route: self.name(route).to_owned(), path, params }
            }
            Outcome::NotFound => Verdict::NotFound,
            Outcome::MethodNotAllowed { allow } => Verdict::MethodNotAllowed { allow },
            Outcome::NotAcceptable => Verdict::NotAcceptable,
        }
    }
}

/// Whether it is the path, too, that does not match, and the miss.
fn near_miss(
    route: &Route,
    host: Option<&HostName>,
    request: &Request<'_>,
    winner: Option<&str>,
) -> Option<(bool, NearMiss)> {
    let host = host_reason(route, host);
    let path = match route.pattern.nearness(request.path) {
        Nearness::Matches => None,
        Nearness::Near(reason) if host.is_none() => Some(reason),
        Nearness::Near(_) | Nearness::Far => return None,
    };
    let other_path = path.is_some();
    let mut reasons: Vec<String> = host.into_iter().chain(path).collect();
    reasons.extend(condition_reasons(route, request));
    if reasons.is_empty() {
        reasons.push(format!("less specific than route {}", winner?));
    }
    let path = route.pattern.text.clone();
    Some((other_path, NearMiss { route: route.name.clone(), path, reasons }))
}

fn host_reason(route: &Route, host: Option<&HostName>) -> Option<String> {
    let taken = |name: &HostName| route.hosts.iter().any(|it| it.takes(name.as_str()));
    if route.hosts.is_empty() || host.is_some_and(taken) {
        return None;
    }
    let wanted = route.shown.hosts.join(" or ");
    Some(match host {
        Some(name) => format!("host is {}, not {wanted}", name.as_str()),
        None => format!("host is missing or no name, not {wanted}"),
    })
}

fn condition_reasons(route: &Route, request: &Request<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if route.methods.fit(request.method).is_none() {
        let listed: Vec<&str> = route.methods.list.iter().map(|it| it.as_str()).collect();
        reasons.push(format!("method {} not in [{}]", request.method, listed.join(", ")));
    }
    if let Some(scheme) = route.scheme
        && (scheme == SchemeMatch::Https) != request.https
    {
        reasons.push(format!("scheme is not {}", scheme.as_str()));
    }
    if let (Some(wanted), Some(name)) = (&route.listener, request.listener)
        && wanted != name
    {
        reasons.push(format!("listener is {name}, not {wanted}"));
    }
    if route.websocket.only() && !request.websocket {
        reasons.push("not a WebSocket handshake".to_owned());
    }
    let predicates = route.predicates.iter();
    reasons.extend(predicates.filter_map(|it| it.reason(request.headers, request.query, &route.shown)));
    if route.quality(request.headers).is_none() {
        let types: Vec<String> = route.accept.iter().map(|it| it.text()).collect();
        reasons.push(format!("header accept admits none of [{}]", types.join(", ")));
    }
    reasons
}
