//! What an upstream depends on (R6.5): its health is no better than theirs, and than that of those they depend on.
//!
//! While one of them can serve nothing, requests get an answer at once instead of work that can't be finished. Whether
//! it can is looked at when a request comes, which costs the others nothing, and by [`watch`](super::watch), so that a
//! change is told even if nobody asks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use prometheus::IntGauge;

use super::changes::{Change, Changes, Event};
use super::compile::Upstream;
use super::config::UpstreamConfig;
use super::live::Live;
use super::metrics;
use crate::base::{At, Diagnostics};

/// Reports the names in `depends_on` that no upstream has, and circles, spelled out.
pub fn check_dependencies(upstreams: &BTreeMap<String, UpstreamConfig>, at: &At<'_>, diagnostics: &mut Diagnostics) {
    for (name, upstream) in upstreams {
        let at = at.key(name);
        let at = at.key("depends_on");
        for (index, needed) in upstream.depends_on.iter().enumerate().filter(|it| !upstreams.contains_key(it.1)) {
            let diagnostic = diagnostics.error(&at.index(index), format!("no upstream `{needed}`"));
            diagnostic.suggest(needed, upstreams.keys().map(String::as_str).filter(|it| it != name));
        }
        // Each circle once: where the first of its names stands.
        if let Some(circle) = circle(name, upstreams).filter(|it| it.iter().all(|other| *other >= name.as_str())) {
            diagnostics
                .error(&at, format!("upstreams depend on one another in a circle: {}", circle.join(" → ")))
                .help("take one of them out: what depends on itself could never become healthy again");
        }
    }
}

/// The shortest way from an upstream back to it.
fn circle<'c>(start: &'c str, upstreams: &'c BTreeMap<String, UpstreamConfig>) -> Option<Vec<&'c str>> {
    let mut from: HashMap<&str, &str> = HashMap::new();
    let mut ahead = VecDeque::from([start]);
    while let Some(name) = ahead.pop_front() {
        for next in upstreams.get(name).into_iter().flat_map(|it| &it.depends_on) {
            if next == start {
                let back = std::iter::successors(Some(name), |it| from.get(it).copied());
                let mut circle: Vec<&str> = [start].into_iter().chain(back).collect();
                circle.reverse();
                return Some(circle);
            }
            if !from.contains_key(next.as_str()) {
                from.insert(next, name);
                ahead.push_back(next);
            }
        }
    }
    None
}

/// All that `live` depends on, the nearest first.
pub(super) fn needed_by(live: &Live, all: &HashMap<&str, &Arc<Live>>) -> Vec<Arc<Live>> {
    let mut known: HashSet<&str> = HashSet::from([&*live.upstream().name]);
    let mut ahead: VecDeque<&str> = live.upstream().depends_on.iter().map(|it| &**it).collect();
    let mut needed = Vec::new();
    while let Some(name) = ahead.pop_front() {
        if let Some(other) = all.get(name).filter(|_| known.insert(name)) {
            ahead.extend(other.upstream().depends_on.iter().map(|it| &**it));
            needed.push(Arc::clone(other));
        }
    }
    needed
}

/// The dependencies of one upstream.
pub(super) struct Dependencies {
    /// Those of its dependencies, too, the nearest first.
    needed: ArcSwap<Vec<Arc<Live>>>,
    /// What was told last.
    down: AtomicBool,
    changes: Arc<Changes>,
    gauge: IntGauge,
}

impl Dependencies {
    /// `None` if it has none. What was told before is not told again.
    pub(super) fn of(upstream: &Upstream, changes: &Arc<Changes>, former: Option<&Self>) -> Option<Self> {
        if upstream.depends_on.is_empty() {
            former.into_iter().for_each(Self::retire);
            return None;
        }
        let down = former.is_some_and(|it| it.down.load(Relaxed));
        let gauge = metrics::DEPENDENCIES.with_label_values(&[changes.upstream()]);
        gauge.set(i64::from(!down));
        let (needed, changes) = (ArcSwap::default(), Arc::clone(changes));
        Some(Self { needed, down: AtomicBool::new(down), changes, gauge })
    }

    /// From now on it depends on these.
    pub(super) fn link(&self, needed: Vec<Arc<Live>>) {
        self.needed.store(Arc::new(needed));
    }

    /// The upstreams that it depends on, and whether each can serve.
    pub(super) fn each(&self) -> Vec<(Arc<str>, bool)> {
        self.needed.load().iter().map(|it| (Arc::clone(&it.upstream().name), it.can_serve())).collect()
    }

    /// The nearest that can serve nothing.
    pub(super) fn missing(&self) -> Option<Arc<str>> {
        let needed = self.needed.load();
        let missing = needed.iter().find(|it| !it.can_serve());
        if missing.is_some() != self.down.load(Relaxed) {
            self.tell(missing);
        }
        missing.map(|it| Arc::clone(&it.upstream().name))
    }

    fn tell(&self, missing: Option<&Arc<Live>>) {
        if self.down.swap(missing.is_some(), Relaxed) == missing.is_some() {
            return; // somebody else was quicker
        }
        self.gauge.set(i64::from(missing.is_none()));
        let Some(missing) = missing else { return self.changes.tell(&Change::new(Event::DependencyUp, None)) };
        let name = &*missing.upstream().name;
        let reason = match missing.breaker_is_open() {
            true => format!("the breaker of `{name}` is open"),
            false => format!("no endpoint of `{name}` gets requests"),
        };
        let change = Change::new(Event::DependencyDown, None);
        self.changes.tell(&Change { reason: Some(&reason), dependency: Some(name), ..change });
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        let _ = metrics::DEPENDENCIES.remove_label_values(&[self.changes.upstream()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Vec<String> {
        let upstreams: BTreeMap<String, Vec<String>> = serde_yaml::from_str(yaml).unwrap();
        let of = |depends_on| UpstreamConfig { depends_on, ..UpstreamConfig::default() };
        let upstreams = upstreams.into_iter().map(|(name, depends_on)| (name, of(depends_on))).collect();
        let mut diagnostics = Diagnostics::default();
        check_dependencies(&upstreams, &At::ROOT, &mut diagnostics);
        diagnostics.iter().map(|it| format!("{}: {}", it.path, it.message)).collect()
    }

    #[test]
    fn r6_5_each_circle_is_spelled_out_once() {
        assert_eq!(check("{ a: [b, c], b: [c], c: [], d: [a, c] }"), [""; 0], "two ways to one are no circle");
        assert_eq!(check("{ a: [a] }"), ["/a/depends_on: upstreams depend on one another in a circle: a → a"]);
        let said = check("{ x: [b], a: [y], b: [c], c: [d], d: [b], y: [a] }");
        assert_eq!(
            said,
            [
                "/a/depends_on: upstreams depend on one another in a circle: a → y → a",
                "/b/depends_on: upstreams depend on one another in a circle: b → c → d → b",
            ]
        );
    }

    #[test]
    fn r6_5_a_name_that_no_upstream_has_is_a_fault() {
        assert_eq!(check("{ a: [b, narative], b: [] }"), ["/a/depends_on/1: no upstream `narative`"]);
    }
}
