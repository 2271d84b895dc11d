//! The gateway, its four back ends, and what is done to them: reloads, and sudden death.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sizes::Sizes;
use crate::support::{DEADLINE, DemoProcess, Gateway, get};

/// So many lines of the gateway's explain a fault.
const LINES_MAX: usize = 100;
/// Streams are led by other endpoints than requests: a killed endpoint takes its streams along.
const STEADY: [&str; 2] = ["steady-one", "steady-two"];
const SHAKY: [&str; 2] = ["shaky-one", "shaky-two"];

/// Everybody calls from one address, and more than ten thousand at once.
const CONFIG: &str = "
listeners:
  public: [{ address: \"127.0.0.1:0\", limits: { connections: 50000, per_address: 0 } }]
  admin: { address: \"127.0.0.1:0\" }
";

/// The gateway and what does not change behind it.
pub struct Stage {
    pub gateway: Gateway,
    steady: Vec<DemoProcess>,
    shaky: [SocketAddr; 2],
}

/// Endpoints that have died and come back.
pub struct Shaken {
    pub deaths: usize,
    /// Alive for as long as this is: the load is still on.
    pub endpoints: Vec<DemoProcess>,
}

impl Stage {
    /// Starts everything; gives the endpoints that are there to be killed.
    pub fn set() -> (Self, Vec<DemoProcess>) {
        let steady: Vec<_> = STEADY.into_iter().map(DemoProcess::start).collect();
        let shaky: Vec<_> = SHAKY.into_iter().map(|name| DemoProcess::start_on(quiet_port(), name)).collect();
        let addresses = [shaky[0].address, shaky[1].address];
        let gateway = Gateway::with(routes(0, &steady, addresses)).config(CONFIG).start();
        (Self { gateway, steady, shaky: addresses }, shaky)
    }

    /// Generation `number` of `routes.yaml` by one of the three ways, each in its turn; returns when
    /// it serves.
    pub fn reload(&self, number: usize) {
        self.gateway.replace_routes(&routes(number, &self.steady, self.shaky));
        match number % 10 {
            3 => self.gateway.sighup(),
            6 => {} // the gateway watches the file
            _ => {
                let answer = self.gateway.reload();
                assert_eq!(answer.status, 200, "reload {number}: {}", answer.text());
            }
        }
        let serves = || get(self.gateway.public(), "/generation").text() == number.to_string();
        wait_until(&format!("generation {number} serves"), serves);
    }

    /// What the reload was about: the new route leads to the new upstream, the former one is gone.
    pub fn check(&self, number: usize) -> Result<(), String> {
        let (new, old) = (extra(number), extra(number - 1));
        let answer = get(self.gateway.public(), &format!("/{new}/here"));
        if answer.status != 200 {
            return Err(format!("/{new}/here: {} {}", answer.status, answer.text()));
        }
        match get(self.gateway.public(), &format!("/{old}/here")).status {
            404 => Ok(()),
            status => Err(format!("/{old}/here: {status}, though its route is gone")),
        }
    }

    /// Kills one endpoint after the other, and starts each again, until `stop` has lost its sender. Every other pair
    /// stays away until the gateway has noticed, the others come back at once.
    pub fn shake(&self, mut endpoints: Vec<DemoProcess>, sizes: &Sizes, stop: Receiver<()>) -> Shaken {
        for turn in 0.. {
            if turn >= sizes.kills && stop.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Disconnected) {
                return Shaken { deaths: turn, endpoints };
            }
            let victim = &mut endpoints[turn % 2];
            victim.process.signal("KILL");
            victim.process.wait_exit();
            if turn % 4 < 2 {
                let address = victim.address.to_string();
                wait_until("the dead endpoint is noticed", || self.health(&address) == "unhealthy");
            }
            *victim = DemoProcess::start_on(victim.address, SHAKY[turn % 2]);
            wait_until("all endpoints are back", || {
                self.shaky.iter().all(|it| self.health(&it.to_string()) == "healthy")
            });
            let _ = stop.recv_timeout(sizes.kill_pause);
        }
        unreachable!("the turns do not end by themselves")
    }

    fn health(&self, address: &str) -> String {
        let page: Value = self.gateway.admin_get("/admin/upstreams").json();
        let upstreams = page["upstreams"].as_array().unwrap().iter();
        let shaky = upstreams.filter(|it| it["name"] == "shaky");
        let mut endpoints = shaky.flat_map(|it| it["endpoints"].as_array().unwrap());
        let endpoint = endpoints.find(|it| it["address"] == address).unwrap();
        endpoint["health"].as_str().unwrap().to_owned()
    }

    /// The gateway's own words: answers that are no good, and what became of the endpoints.
    pub fn what_went_wrong(&self) -> String {
        let lines = self.gateway.log_lines().into_iter().filter(|it| match &it.json {
            Some(json) if json["event"] == "request" => json["status"].as_u64() >= Some(500),
            Some(json) => json["upstream"] == "shaky" || json["level"] != "info",
            None => true,
        });
        lines.take(LINES_MAX).map(|it| it.text + "\n").collect()
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.gateway.admin_get("/metrics").text();
        let mut lines = text.lines().filter_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
        lines.next().unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.gateway.admin_get("/metrics").text().lines().filter(|it| !it.starts_with('#')).count()
    }

    /// The gateway's memory in KiB.
    pub fn memory(&self) -> u64 {
        memory_of(self.gateway.pid())
    }

    /// The gateway's open files and sockets.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).unwrap().count()
    }
}

/// A process' memory in KiB.
pub fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// Outside the range from which the kernel takes the ports of outgoing connections: while the endpoint
/// is dead, one of these could sit on its port.
fn quiet_port() -> SocketAddr {
    let mut ports = std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], fastrand::u16(20_000..32_000))));
    ports.find(|it| TcpListener::bind(it).is_ok()).unwrap()
}

fn extra(number: usize) -> String {
    format!("extra-{number}")
}

/// Every generation has a route and an upstream that no other has. The upstream under load changes, every
/// third time, and routes and upstream of the open streams are away every fifth time.
fn routes(number: usize, steady: &[DemoProcess], shaky: [SocketAddr; 2]) -> String {
    let extra = extra(number);
    let balance = ["round_robin", "random", "least_request"][number / 3 % 3];
    let weight = 1 + number / 3 % 2;
    let steady_list = format!("[\"{}\", \"{}\"]", steady[0].address, steady[1].address);
    let (one, two) = (shaky[0], shaky[1]);
    let mut upstreams = format!(
        r#"
  shaky:
    discovery: {{ static: [{{ address: "{one}", weight: {weight} }}, "{two}"] }}
    balance: {balance}
    health: {{ http: /health, every: 1s, timeout: 900ms, fail_after: 3, pass_after: 1 }}
  {extra}:
    discovery: {{ static: {steady_list} }}
    health: {{ tcp: true, every: 1s, timeout: 900ms, fail_after: 3 }}
"#
    );
    let mut routes = format!(
        r#"
  - {{ name: load, match: {{ path: "/load/{{*rest}}" }}, upstream: shaky }}
  - {{ name: bytes, match: {{ path: "/bytes/{{n}}" }}, upstream: shaky }}
  - {{ name: generation, match: {{ path: /generation }}, respond: {{ body: "{number}" }} }}
  - {{ name: {extra}, match: {{ path: "/{extra}/{{*rest}}" }}, upstream: {extra} }}
"#
    );
    if number % 5 != 4 {
        upstreams += &format!("  steady: {{ discovery: {{ static: {steady_list} }} }}\n");
        routes += "  - { name: events, match: { path: /sse }, upstream: steady }\n";
        routes += "  - { name: sockets, match: { path: /ws, websocket: true }, upstream: steady }\n";
    }
    // A machine that is busy is no fault.
    let defaults = "{ timeouts: { connect: 10s, first_byte: 30s, request: 60s } }";
    format!("version: 1\ndefaults: {defaults}\nupstreams:{upstreams}routes:{routes}")
}

/// Asks again and again, a moment apart.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + 3 * DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
