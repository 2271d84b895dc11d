//! How long it takes to find a route among few and among many: it should make little difference.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use moongate::base::{At, Diagnostics};
use moongate::routing::{MatchConfig, Outcome, Request, Table, Target};

fn written(path: String, methods: &[&str]) -> MatchConfig {
    let methods = methods.iter().map(|it| (*it).to_owned()).collect();
    MatchConfig { path, methods, ..MatchConfig::default() }
}

/// Every service has two routes, and there is one for all others.
fn table(routes: usize) -> Table {
    let services = 0..routes / 2;
    let configs = services.flat_map(|it| {
        [
            written(format!("/api/v1/service{it}/{{id}}/items/{{item}}"), &["GET"]),
            written(format!("/api/v1/service{it}/{{*rest}}"), &["GET", "POST"]),
        ]
    });
    let mut configs: Vec<MatchConfig> = configs.collect();
    configs.push(written("/{*rest}".to_owned(), &[]));
    let names: Vec<String> = (0..configs.len()).map(|it| format!("route{it}")).collect();
    let list: Vec<_> = names.iter().map(String::as_str).zip(&configs).collect();
    let mut diagnostics = Diagnostics::default();
    let table = Table::compile(&list, &At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    table
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routing/find");
    let headers = HeaderMap::new();
    for routes in [10, 1_000, 10_000] {
        let table = table(routes);
        let last = routes / 2 - 1;
        let paths = [
            ("literal", format!("/api/v1/service{last}/42/items/7")),
            ("back", format!("/api/v1/service{last}/42/orders/7")),
            ("other", "/static/app.js".to_owned()),
        ];
        for (name, path) in &paths {
            let request = Request {
                host: Some("api.example.org:8080"),
                path,
                query: None,
                method: &Method::GET,
                headers: &headers,
                websocket: false,
                https: false,
                listener: None,
            };
            assert!(matches!(table.find(&request), Outcome::Found { .. }));
            group.bench_with_input(BenchmarkId::new(*name, routes), &request, |bencher, it| {
                bencher.iter(|| table.find(black_box(it)));
            });
        }
    }
    group.finish();
}

fn normalise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routing/normalise");
    for (name, raw) in [
        ("normal", "/api/v1/service42/players/7?fields=name"),
        ("rewritten", "/api/v1//service42/./players/%37?fields=name"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Target::normalise(black_box(raw.as_bytes())).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, find, normalise);
criterion_main!(benches);
