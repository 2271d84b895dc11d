//! The walk of the filters that every route has: request id, trace, forwarding fields on the way in;
//! CORS, security fields and the request id on the way out.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::HeaderValue;
use moongate::base::{At, Diagnostics};
use moongate::filters::{
    Chain, Cors, CorsConfig, Filling, HeaderEdits, HeaderEditsConfig, Hsts, Security, SecurityConfig, SecurityHeaders,
    request_id, trace_context,
};
use moongate::pipeline::{Exchange, Filter, Kind, Scheme, Scope, Tap, Taps, Unit, Verdict};
use moongate::routing::{Captures, Params};
use pingora::http::{RequestHeader, ResponseHeader};

fn request() -> RequestHeader {
    let mut request = RequestHeader::build("GET", b"/api/items/7", Some(8)).expect("a plain request");
    let fields = [
        ("host", "api.example.org"),
        ("user-agent", "bench/1"),
        ("accept", "application/json"),
        ("origin", "http://localhost:1"),
    ];
    for (name, value) in fields {
        request.insert_header(name, value).expect("a plain field");
    }
    request
}

fn answer() -> ResponseHeader {
    let mut answer = ResponseHeader::build_no_case(200, Some(16)).expect("a plain answer");
    answer.insert_header("content-type", "application/json").expect("a plain field");
    answer.insert_header("content-length", "130").expect("a plain field");
    answer
}

fn walk(criterion: &mut Criterion) {
    let client = "198.51.100.7".parse().expect("an address");
    let mut diagnostics = Diagnostics::default();
    let cors = CorsConfig { origins: vec!["http://localhost:*".to_owned()], ..CorsConfig::default() };
    let cors = Cors::compile(&cors, &Scope::nowhere(), &At::ROOT, &mut diagnostics).expect("a policy");
    let edits = HeaderEdits::compile(&HeaderEditsConfig::default(), Captures::default(), &At::ROOT, &mut diagnostics);
    let origin = HeaderValue::from_static("http://localhost:1");

    criterion.bench_function("filters: way in", |bencher| {
        bencher.iter_batched_ref(
            request,
            |request| {
                let mut exchange = Exchange::new(client, Scheme::Http);
                request_id::on_request(&mut exchange, request, false);
                trace_context::on_request(&mut exchange, request);
                let mut written = Vec::with_capacity(1024);
                exchange.forwarded_headers(request, |name, value| {
                    written.extend_from_slice(name.as_str().as_bytes());
                    value.iter().for_each(|it| written.extend_from_slice(it));
                });
                edits.on_request(request, &Filling::of(&exchange, None, "/", &Params::default()));
                black_box((exchange, written));
            },
            BatchSize::SmallInput,
        );
    });
    for (name, security, with_cors) in [
        ("plain", Security::Off, false),
        ("security fields", Security::Strict, false),
        ("both", Security::Strict, true),
    ] {
        let config = SecurityConfig { security, hsts: Hsts::Host };
        let security = SecurityHeaders::compile(&config, &Scope::nowhere(), &At::ROOT, &mut Diagnostics::default());
        let mut exchange = Exchange::new(client, Scheme::Http);
        exchange.origin = cors.origin(Some(&origin));
        criterion.bench_function(&format!("filters: way out, {name}"), |bencher| {
            bencher.iter_batched_ref(
                answer,
                |answer| {
                    if with_cors {
                        cors.on_response(&mut exchange, answer);
                    }
                    if let Some(security) = &security {
                        security.add_to(&exchange, answer);
                    }
                    edits.on_response(answer, Some(&Filling::of_answer(&exchange)));
                    request_id::on_response(&exchange, answer);
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// Sees everything, and changes nothing.
struct Observer(Unit);

impl Tap for Observer {
    fn unit(&self) -> Unit {
        self.0
    }

    fn on_unit(&mut self, _: Kind, unit: &Bytes) -> Verdict {
        black_box(unit);
        Verdict::Pass
    }
}

/// What a response costs without taps, and what a piece of it does with one.
fn taps(criterion: &mut Criterion) {
    let exchange = Exchange::new("198.51.100.7".parse().expect("an address"), Scheme::Http);
    let (chain, answer) = (Chain::default(), answer());
    criterion.bench_function("taps: none on the route", |bencher| {
        bencher.iter(|| black_box(&chain).response_taps(black_box(&exchange), black_box(&answer)).is_some());
    });
    let event = Bytes::from_static(b"id: 7\ndata: {\"token\":\"moon\"}\n\n");
    for (name, unit) in [("a piece", Unit::Piece), ("an event", Unit::Event)] {
        let mut taps = Taps::default();
        taps.add(Observer(unit));
        criterion.bench_function(&format!("taps: {name}"), |bencher| {
            bencher.iter(|| taps.piece(black_box(event.clone())).map(|it| it.units.len()));
        });
    }
}

criterion_group!(benches, walk, taps);
criterion_main!(benches);
