//! Who still calls a deprecated route: a series each, up to a bound.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, register_int_counter_vec};

use crate::base::unix_seconds;
use crate::identity::Principal;
use crate::pipeline::Exchange;

/// So many callers of a route get series of their own; the others share those of `other`.
const CALLERS_MAX: usize = 100;
/// Stands for the callers beyond the bound, and for those whose names are too long for a label.
const OTHER: &str = "other";
/// The longest name that becomes a label, in bytes.
const NAME_MAX: usize = 128;
/// A caller is told of in the log once in so many seconds.
const TOLD_EVERY: u64 = 3_600;

static REQUESTS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests to deprecated routes by who calls: 100 callers of a route each, the others as `other`";
    let labels = &["route", "tenant", "principal"];
    register_int_counter_vec!("moongate_deprecated_requests_total", help, labels).expect("the name is registered once")
});
static ROUTES: Lazy<Mutex<HashMap<Arc<str>, Weak<Callers>>>> = Lazy::new(Mutex::default);

/// The callers of one route, for as long as it is deprecated: a reload forgets none of them.
pub(super) struct Callers {
    route: Arc<str>,
    known: Mutex<HashMap<Name, Caller>>,
}

/// Tenant and principal, as the labels say it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Name(Arc<str>, Arc<str>);

struct Caller {
    requests: IntCounter,
    /// When the log told of it, in seconds since 1970.
    told: u64,
}

impl Callers {
    /// Those of the route of this name: the same as before a reload.
    pub(super) fn of(route: &Arc<str>) -> Arc<Self> {
        let mut routes = ROUTES.lock();
        if let Some(known) = routes.get(route).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(Self { route: route.clone(), known: Mutex::default() });
        routes.retain(|_, it| it.strong_count() > 0);
        routes.insert(route.clone(), Arc::downgrade(&made));
        made
    }

    /// Counts a request, and tells of its caller now and then.
    pub(super) fn count(&self, exchange: &Exchange, sunset: Option<u64>) {
        let now = unix_seconds();
        if !self.note(exchange.principal.as_deref(), now) {
            return;
        }
        let principal = exchange.principal.as_deref();
        tracing::info!(
            event = "deprecated_call", request_id = exchange.request_id.as_str(), route = %self.route,
            principal = principal.map(|it| &*it.subject).unwrap_or_default(),
            tenant = principal.and_then(|it| it.tenant.as_deref()).unwrap_or_default(),
            client = %exchange.client_ip, after_sunset = sunset.is_some_and(|it| it <= now),
            "a route that is on its way out is still called; each caller is told of once an hour"
        );
    }

    /// Whether the log shall tell of it.
    fn note(&self, principal: Option<&Principal>, now: u64) -> bool {
        let name = |it: Option<&Arc<str>>| match it {
            Some(name) if name.len() <= NAME_MAX => name.clone(),
            Some(_) => OTHER.into(),
            None => "".into(),
        };
        let mut caller = Name(name(principal.and_then(|it| it.tenant.as_ref())), name(principal.map(|it| &it.subject)));
        let mut known = self.known.lock();
        if known.len() >= CALLERS_MAX && !known.contains_key(&caller) {
            caller = Name(OTHER.into(), OTHER.into());
        }
        let route = &self.route;
        let caller = known.entry(caller).or_insert_with_key(|Name(tenant, principal)| {
            let requests = REQUESTS.with_label_values(&[&**route, &**tenant, &**principal]);
            Caller { requests, told: 0 }
        });
        caller.requests.inc();
        let tell = now.saturating_sub(caller.told) >= TOLD_EVERY;
        if tell {
            caller.told = now;
        }
        tell
    }
}

/// The route is deprecated no longer: its series go.
impl Drop for Callers {
    fn drop(&mut self) {
        let mut routes = ROUTES.lock();
        if routes.get(&self.route).is_some_and(|it| it.strong_count() > 0) {
            return; // it came back meanwhile, and the series are its own
        }
        routes.remove(&self.route);
        for Name(tenant, principal) in self.known.get_mut().keys() {
            let _ = REQUESTS.remove_label_values(&[&*self.route, &**tenant, &**principal]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Kind;

    #[test]
    fn the_number_of_series_has_a_bound_and_nobody_is_left_uncounted() {
        let callers = Callers::of(&Arc::from("bound-of-callers"));
        let of = |number: usize| Principal::new(Kind::User, format!("user-{number}"));
        let told = (0..CALLERS_MAX + 50).filter(|it| callers.note(Some(&of(*it)), 10_000)).count();
        assert_eq!(told, CALLERS_MAX + 1, "each by name once, and the others once");
        assert_eq!(callers.known.lock().len(), CALLERS_MAX + 1);
        let other = REQUESTS.with_label_values(&["bound-of-callers", OTHER, OTHER]);
        assert_eq!(other.get(), 50);
        assert!(callers.note(Some(&of(1)), 10_000 + TOLD_EVERY), "once an hour again");
        assert!(!callers.note(None, 0), "time that stands still tells of nobody twice");
    }
}
