//! What counting a request costs: one limit per address with few and with ten million live counters, and
//! a whole walk with two limits.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use moongate::filters::rate_limit::{Limits, Phase, Rules, ScopedLimit};
use moongate::pipeline::{Charges, Exchange, Scheme};
use moongate::state::{Counters, Quota, State};

fn counters(criterion: &mut Criterion) {
    let quota = Quota::new(60, Duration::from_secs(60), 60).expect("a quota");
    for keys in [1_000_u64, 10_000_000] {
        let counters = Counters::new(14_000_000);
        // Far from over while the bench runs.
        let slow = Quota::new(1, Duration::from_secs(86_400), 10).expect("a quota");
        let now = counters.now();
        for subject in 0..keys {
            counters.take(counters.key("defaults/ip", 0, 1, [&subject.to_le_bytes(), b"", b"", b""]), slow, 1, now);
        }
        let fill = counters.fill();
        eprintln!("{keys} keys: {} in memory, {:.1} bytes each", fill.keys, fill.bytes as f64 / fill.keys as f64);
        let mut subject = 0_u64;
        criterion.bench_function(&format!("limits: one of {keys} counters"), |bencher| {
            bencher.iter(|| {
                subject = (subject + 7_919) % keys;
                let key = counters.key("defaults/ip", 0, 1, [&subject.to_le_bytes(), b"", b"", b""]);
                black_box(counters.take(key, quota, 1, counters.now()))
            });
        });
    }
}

fn walk(criterion: &mut Criterion) {
    let limits = Limits::new(&State::in_memory());
    let list = serde_yaml::from_str::<Vec<_>>(
        "[{ per: ip, requests: 1000000000, every: 1m }, { per: { header: x-client }, requests: 1000000000, every: 1m }]",
    );
    let list = list.expect("two limits");
    let list: Vec<_> = list.into_iter().map(|limit| ScopedLimit { scope: "defaults".to_owned(), limit }).collect();
    let compiled = Rules::compile(&list).expect("two limits");
    let live = limits.activate(&Arc::from("route"), Some(&compiled), None);
    let mut headers = HeaderMap::new();
    headers.insert("x-client", http::HeaderValue::from_static("somebody"));
    let mut exchange = Exchange::new("192.0.2.1".parse().expect("an address"), Scheme::Http);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    criterion.bench_function("limits: the walk of two limits", |bencher| {
        bencher.iter(|| {
            exchange.rate_limit_status = None;
            runtime
                .block_on(live.on_request(&compiled, Phase::BeforeAuth, &mut Charges::new(), &mut exchange, &headers))
                .is_ok()
        });
    });
}

criterion_group!(benches, counters, walk);
criterion_main!(benches);
