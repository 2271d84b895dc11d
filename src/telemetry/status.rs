//! Requests by the status that they ended with: counters in an array, so that the request's way looks no label up, and
//! one family of metrics that reads them off when it is asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use once_cell::sync::Lazy;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use super::metrics::status_counts;

/// The statuses with a count of their own: those that IANA lists, and 499 for requests whose client left before it had
/// an answer. So the label is bounded, whatever upstreams think up.
const STATUSES: [u16; 64] = [
    100,
    101,
    102,
    103,
    104,
    200,
    201,
    202,
    203,
    204,
    205,
    206,
    207,
    208,
    226,
    300,
    301,
    302,
    303,
    304,
    305,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    406,
    407,
    408,
    409,
    410,
    411,
    412,
    413,
    414,
    415,
    416,
    417,
    421,
    422,
    423,
    424,
    425,
    426,
    428,
    429,
    431,
    451,
    CLIENT_LEFT,
    500,
    501,
    502,
    503,
    504,
    505,
    506,
    507,
    508,
    510,
    511,
    418,
];
const CLIENT_LEFT: u16 = 499;

/// Where each status is counted. One that is not listed counts as the x00 of its class (RFC 9110, section 15).
const PLACES: [u8; 600] = {
    let (mut places, mut status) = ([0; 600], 0);
    while status < 600 {
        let class = if status < 100 { CLIENT_LEFT } else { status - status % 100 };
        let (mut at, mut place) = (0, 0);
        while at < STATUSES.len() {
            if STATUSES[at] == status {
                place = at;
                break;
            }
            if STATUSES[at] == class {
                place = at;
            }
            at += 1;
        }
        places[status as usize] = place as u8;
        status += 1;
    }
    places
};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn class_of(status: u16) -> usize {
    usize::from(status / 100) - 1
}

/// How many requests of a route ended with each status.
#[derive(Debug)]
pub(super) struct StatusCounts([AtomicU64; STATUSES.len()]);

impl StatusCounts {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; STATUSES.len()])
    }

    /// Counts a request. Status 0 (nothing could be answered) counts as 499: the client left.
    pub(super) fn count(&self, status: u16) {
        let place = PLACES[usize::from(status.min(599))];
        self.0[usize::from(place)].fetch_add(1, Relaxed);
    }

    /// The statuses that there were.
    fn seen(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = STATUSES.into_iter().zip(self.0.iter().map(|it| it.load(Relaxed)));
        counts.filter(|it| it.1 > 0)
    }
}

/// The totals of all routes by class.
pub(super) fn requests_by_class() -> [u64; 5] {
    let mut totals = [0; 5];
    for route in status_counts() {
        route.by_status().seen().for_each(|(status, count)| totals[class_of(status)] += count);
    }
    totals
}

/// Makes the family known to whoever gathers; more than once is no harm.
pub(super) fn register_status_counts() {
    static REGISTERED: Lazy<()> = Lazy::new(|| {
        prometheus::register(Box::new(Family::new())).expect("the name is registered once");
    });
    Lazy::force(&REGISTERED);
}

const NAME: &str = "moongate_requests_total";
const HELP: &str = "Requests that ended, by route, and by class and code of their status";

struct Family(Desc);

impl Family {
    fn new() -> Self {
        let labels = ["class", "code", "route"].map(str::to_owned).to_vec();
        Self(Desc::new(NAME.to_owned(), HELP.to_owned(), labels, Default::default()).expect("all names are plain"))
    }
}

impl Collector for Family {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metrics = Vec::new();
        for route in status_counts() {
            metrics.extend(route.by_status().seen().map(|(status, count)| series(route.label(), status, count)));
        }
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(metrics);
        vec![family]
    }
}

fn series(route: &str, status: u16, count: u64) -> Metric {
    let label = |name: &str, value: String| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    let class = CLASSES[class_of(status)].to_owned();
    let labels = vec![label("class", class), label("code", status.to_string()), label("route", route.to_owned())];
    let mut metric = Metric::from_label(labels);
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    metric.set_counter(counter);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_counts_as_the_first_of_its_class() {
        let counts = StatusCounts::new();
        for (status, counted) in
            [(0, 499), (99, 499), (100, 100), (199, 100), (200, 200), (299, 200), (306, 300), (418, 418), (511, 511)]
                .into_iter()
                .chain([(520, 500), (599, 500), (600, 500), (999, 500)])
        {
            let before = counts.seen().find(|it| it.0 == counted).map_or(0, |it| it.1);
            counts.count(status);
            let after = counts.seen().find(|it| it.0 == counted).map_or(0, |it| it.1);
            assert_eq!(after, before + 1, "{status}");
        }
        let all: u64 = counts.seen().map(|it| it.1).sum();
        assert_eq!(all, 13);
    }
}
