//! What `/metrics` says of the process itself, of the build, and of each status.

use crate::support::tokens::now;
use crate::support::{Gateway, RawClient, RawUpstream, Script, eventually, figure};

fn figure_of(gateway: &Gateway, name: &str) -> f64 {
    figure(gateway, name).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn us_012_the_build_and_the_process_are_seen_under_the_names_that_dashboards_know() {
    let gateway = Gateway::start("version: 1\nroutes: [{ name: all, match: { path: / }, respond: {} }]\n");
    let build = format!("moongate_build_info{{profile=\"debug\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    let release = build.replace("debug", "release");
    assert_eq!(figure(&gateway, &build).or_else(|| figure(&gateway, &release)), Some(1.0));
    let started = figure_of(&gateway, "process_start_time_seconds");
    // To within the clock's own steps.
    assert!((started - now() as f64).abs() < 3600.0, "{started}");
    assert!(figure_of(&gateway, "process_resident_memory_bytes") > 1e6);
    assert!(figure_of(&gateway, "process_virtual_memory_bytes") > 1e6);
    assert!(figure_of(&gateway, "process_threads") >= 2.0);
    let (open, max) = (figure_of(&gateway, "process_open_fds"), figure_of(&gateway, "process_max_fds"));
    assert!(open >= 3.0 && open < max, "{open} of {max}");
    // They follow what they are about.
    let held: Vec<_> = (0..20).map(|_| RawClient::connect(gateway.public())).collect();
    eventually("twenty sockets more", || (figure_of(&gateway, "process_open_fds") >= open + 20.0).then_some(()));
    drop(held);
    let cpu = figure_of(&gateway, "process_cpu_seconds_total");
    eventually("work takes time", || {
        (0..50).for_each(|_| drop(gateway.get("/")));
        (figure_of(&gateway, "process_cpu_seconds_total") > cpu).then_some(())
    });
}

#[test]
fn us_012_requests_are_counted_by_the_code_of_their_status_and_unknown_ones_by_their_class() {
    let upstream = RawUpstream::start(|it| {
        let status: u16 = it.target()[1..].parse().unwrap();
        Script::answer(status, &[], "")
    });
    let gateway = crate::exchange::in_front_of(&upstream, "");
    let statuses = [200, 201, 404, 418, 429, 500, 502, 299, 499, 599, 520, 477];
    for status in statuses {
        assert_eq!(gateway.get(&format!("/{status}")).status, status);
    }
    let counted = eventually("all are counted", || {
        let text = gateway.admin_get("/metrics").text();
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|it| it.strip_prefix("moongate_requests_total{").map(str::to_owned))
            .filter(|it| it.contains("route=\"all\""))
            .collect();
        let sum: u64 = lines.iter().map(|it| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        lines.sort();
        (sum == statuses.len() as u64).then_some(lines)
    });
    let expected = [
        ("2xx", "200", 2),
        ("2xx", "201", 1),
        ("4xx", "400", 1),
        ("4xx", "404", 1),
        ("4xx", "418", 1),
        ("4xx", "429", 1),
        ("4xx", "499", 1),
        ("5xx", "500", 3),
        ("5xx", "502", 1),
    ];
    let expected =
        expected.map(|(class, code, count)| format!("class=\"{class}\",code=\"{code}\",route=\"all\"}} {count}"));
    assert_eq!(counted, expected);
}
