//! What picking one of a thousand endpoints costs by every algorithm, and what a change among them does, which is
//! prepared off the requests' way.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use moongate::base::{At, Diagnostics};
use moongate::upstream::{Live, Outcome, Picked, Upstream, UpstreamConfig, UpstreamRegistry};

const ENDPOINTS: usize = 1_000;
/// Requests that are under way while others are picked for, so that loads differ.
const UNDER_WAY: usize = 256;

/// Every algorithm, and what is switched on beside it.
const ALGORITHMS: [(&str, &str); 6] = [
    ("round_robin", "balance: round_robin"),
    ("random", "balance: random"),
    ("least_request", "balance: least_request"),
    ("peak_ewma", "balance: peak_ewma"),
    ("consistent_hash", "balance: consistent_hash\nhash_on: { header: x-session }"),
    (
        "least_request, with breaker, outliers and slow start",
        "balance: least_request\nbreaker: { per: endpoint }\noutliers: { consecutive_5xx: 5 }\nslow_start: 30s",
    ),
];

fn compile(name: &str, settings: &str, endpoints: usize) -> Arc<Upstream> {
    let mut yaml = format!("{settings}\ndiscovery:\n  static:\n");
    for index in 0..endpoints {
        let (high, low, weight) = (index / 200, index % 200 + 1, index % 3 + 1);
        writeln!(yaml, "    - {{ address: \"127.1.{high}.{low}:8080\", weight: {weight} }}").expect("a line");
    }
    // As the loader reads it: `hash_on: { header: … }` is a choice of JSON's kind.
    let written: serde_json::Value = serde_yaml::from_str(&yaml).expect("YAML");
    let config: UpstreamConfig = serde_json::from_value(written).expect("an upstream");
    let mut diagnostics = Diagnostics::default();
    let upstream = Upstream::compile(name, &config, None, &At::ROOT, &mut diagnostics);
    let faults: Vec<_> = diagnostics.iter().map(|it| &it.message).collect();
    Arc::new(upstream.unwrap_or_else(|| panic!("{name}: {faults:?}")))
}

/// Any number for each request; neighbours differ in all bits.
fn key(request: u64) -> Option<u64> {
    Some(request.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn picked(live: &Live, keyed: bool, request: u64) -> Picked {
    live.pick(key(request).filter(|_| keyed), &[]).expect("all are healthy")
}

fn picks(criterion: &mut Criterion) {
    for (name, settings) in ALGORITHMS {
        let registry = UpstreamRegistry::new();
        let live = registry.apply(&[compile("picks", settings, ENDPOINTS)]).remove(0);
        let keyed = settings.contains("hash_on");
        let under_way: Vec<_> = (0..UNDER_WAY as u64).map(|it| picked(&live, keyed, it)).collect();
        let mut request = UNDER_WAY as u64;
        criterion.bench_function(&format!("balance: a pick among {ENDPOINTS} by {name}"), |bencher| {
            bencher.iter(|| {
                request += 1;
                black_box(picked(&live, keyed, request)).done(Outcome::Success, std::time::Duration::from_micros(800));
            });
        });
        drop(under_way);
    }
}

fn changes(criterion: &mut Criterion) {
    for (name, settings) in ALGORITHMS {
        let registry = UpstreamRegistry::new();
        let sets = [ENDPOINTS, ENDPOINTS - 1].map(|it| [compile("changes", settings, it)]);
        registry.apply(&sets[0]);
        let mut turn = 0;
        criterion.bench_function(&format!("balance: a change among {ENDPOINTS} by {name}"), |bencher| {
            bencher.iter(|| {
                turn += 1;
                black_box(registry.apply(&sets[turn % 2]));
            });
        });
    }
}

criterion_group!(benches, picks, changes);
criterion_main!(benches);
