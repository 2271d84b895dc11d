//! A million addresses, each of which asks once: what is remembered of them is bounded, and who had used up
//! their limit is not set free by the crowd.

use std::net::{Ipv4Addr, SocketAddr};

use crate::sizes::size;
use crate::support::Gateway;
use crate::support::http1::RawClient;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
trusted_proxies: [\"127.0.0.0/8\"]
state: { memory: { keys_max: 2000000 } }
";
const ROUTES: &str = "
version: 1
routes:
  - name: all
    match: { path: '/{*rest}' }
    respond: { body: ok }
    rate_limits: [{ per: ip, requests: 1, every: 1h }]
";
/// Requests that are sent before their answers are read.
const AT_ONCE: u32 = 64;
/// Connections that the requests come over at once, and how many requests one lives for: a listener ends them at some time.
const CLIENTS: u32 = 4;
const A_CONNECTION: u32 = 64 * AT_ONCE;
/// What a counter may take (issue: at most 100), and what everything else may, in bytes.
const COUNTER_MAX: u64 = 100;
const REST_MAX: u64 = 40 << 20;

#[test]
fn a_million_addresses_are_counted_and_none_is_forgotten_for_another() {
    let count = size("ADDRESSES", 20_000, 1_000_000) as u32;
    let gateway = Gateway::with(ROUTES).config(CONFIG).start();
    let mut one = RawClient::connect(gateway.public());
    let mut ask = |ip: Ipv4Addr| {
        one.send(request(ip));
        one.read_response().status
    };
    let known = Ipv4Addr::new(198, 51, 100, 1);
    assert_eq!((ask(known), ask(known)), (200, 429));
    let before = crate::stage::memory_of(gateway.pid());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let address = gateway.public();
            scope.spawn(move || flood(address, client, count / CLIENTS));
        }
    });
    assert_eq!((ask(known), ask(Ipv4Addr::new(10, 0, 0, 0))), (429, 429), "after the flood");
    let counters = &gateway.admin_get("/admin/limits").json()["rate_limits"]["counters"];
    let of = |name: &str| counters[name].as_u64().unwrap();
    let all = u64::from(count / CLIENTS * CLIENTS);
    assert_eq!((of("keys"), of("evicted")), (all + 1, 0), "{counters}");
    assert!(of("bytes") <= COUNTER_MAX * all, "{counters}");
    let grown = 1024 * (crate::stage::memory_of(gateway.pid()).saturating_sub(before));
    assert!(grown <= COUNTER_MAX * all + REST_MAX, "{grown} bytes for {all} addresses");
    println!("soak: {all} addresses, {} bytes of counters, {grown} bytes in all", of("bytes"));
}

fn request(ip: Ipv4Addr) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {ip}\r\n\r\n")
}

fn flood(gateway: SocketAddr, number: u32, count: u32) {
    let first = 0x0a00_0000 + number * count;
    let mut client = RawClient::connect(gateway);
    for start in (0..count).step_by(AT_ONCE as usize) {
        if start % A_CONNECTION == 0 {
            client = RawClient::connect(gateway);
        }
        let some = start..count.min(start + AT_ONCE);
        client.send(some.clone().map(|it| request(Ipv4Addr::from(first + it))).collect::<String>());
        some.for_each(|it| assert_eq!(client.read_response().status, 200, "{it}"));
    }
}
