//! The smallest useful Pingora proxy: one upstream, connections kept on both sides, nothing else.
//!
//! It is the anchor that the gateway's cost is held against, so it must stay what anybody would
//! write in an afternoon: stock `ProxyHttp`, the system's allocator, no feature of ours. Being a
//! server and not a loop around a function, it ignores what `cargo bench` passes and serves until
//! it is told to stop; `benches/lab/bench.py` starts it, loads it and reads its clock.
//!
//! The environment sets it: `LISTEN`, `UPSTREAM` (addresses), `POOL` (idle upstream connections
//! kept, for all upstreams together), `STEAL` (work stealing), `H2C` (HTTP/2 without TLS).

use std::net::SocketAddr;
use std::str::FromStr;

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Server, Session};
use pingora::proxy::ProxyServiceBuilder;
use pingora::server::configuration::ServerConf;

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// A setting, or `default` where it is not set. A value that can't be read ends the process: a
/// benchmark that quietly measures something else is worse than none.
fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Err(_) => default,
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value} can't be read")),
    }
}

fn main() {
    let conf = ServerConf {
        threads: 1,
        work_stealing: setting("STEAL", false),
        upstream_keepalive_pool_size: setting("POOL", ServerConf::default().upstream_keepalive_pool_size),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut options = HttpServerOptions::default();
    options.h2c = setting("H2C", true);
    let bare = Bare { upstream: setting("UPSTREAM", SocketAddr::from(([127, 0, 0, 1], 19000))) };
    let mut service = ProxyServiceBuilder::new(&server.configuration, bare).server_options(options).build();
    let listen = setting("LISTEN", SocketAddr::from(([127, 0, 0, 1], 19104)));
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever();
}
