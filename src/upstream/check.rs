//! The checks of one upstream. Pingora's health checks do the probing by HTTP and TCP; thresholds, intervals and
//! what follows from a result are ours, because upstreams come and go with reloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::compile::{HealthPolicy, Probe, Upstream};
use super::config::Protocol;
use super::endpoint::{self, Endpoint};
use super::failure::in_words;
use super::grpc_check::GrpcCheck;
use super::live::Live;
use crate::base::Period;

/// How many endpoints of an upstream are checked at the same time.
const CHECKS_AT_ONCE: usize = 64;

/// What one check does.
enum Check {
    Pingora(Box<dyn HealthCheck + Send + Sync>),
    Grpc(Box<GrpcCheck>),
}

impl Check {
    /// One check; why it failed, in plain words.
    async fn run(&self, address: SocketAddr) -> Result<(), String> {
        match self {
            Self::Pingora(check) => {
                let backend = Backend::new(&address.to_string()).expect("a socket address reads as it is shown");
                check.check(&backend).await.map_err(|error| in_words(&error))
            }
            Self::Grpc(check) => check.check(address).await,
        }
    }
}

/// Checks every endpoint of `live` at once and then again and again, those that come later, too, until it is dropped.
pub(super) async fn check_all(live: Arc<Live>) {
    let Some(policy) = &live.upstream().health else { return };
    let check = match check(live.upstream(), policy) {
        Ok(check) => check,
        Err(error) => {
            let upstream = &live.upstream().name;
            let reason = in_words(&error);
            tracing::error!(event = "health_check_impossible", upstream = %upstream, reason, "no endpoint is checked");
            return std::future::pending().await;
        }
    };
    let permits = Semaphore::new(CHECKS_AT_ONCE);
    let (mut generations, mut known) = (live.generations(), Vec::new());
    let mut checking = FuturesUnordered::new();
    loop {
        let now = live.endpoints();
        let fresh: Vec<_> = now.iter().filter(|it| !known.iter().any(|known| Arc::ptr_eq(known, it))).collect();
        for endpoint in fresh {
            endpoint.state.await_check();
            checking.push(check_one(&live, endpoint.clone(), policy, &check, &permits));
        }
        known = now;
        loop {
            tokio::select! {
                _ = generations.changed() => break,
                Some(()) = checking.next() => {}
            }
        }
    }
}

/// Checks an endpoint for as long as it is one.
async fn check_one(live: &Live, endpoint: Arc<Endpoint>, policy: &HealthPolicy, check: &Check, permits: &Semaphore) {
    while live.has(&endpoint) {
        let permit = permits.acquire().await.expect("the semaphore is never closed");
        let result = timeout(policy.timeout, check.run(endpoint.address())).await;
        drop(permit);
        match result {
            Ok(Ok(())) => live.observe(&endpoint, Ok(())),
            Ok(Err(reason)) => live.observe(&endpoint, Err(&reason)),
            Err(_) => live.observe(&endpoint, Err(&format!("it does not answer within {}", Period(policy.timeout)))),
        }
        sleep(jittered(policy)).await;
    }
}

fn jittered(policy: &HealthPolicy) -> Duration {
    policy.every.mul_f64(1.0 + policy.jitter * (2.0 * fastrand::f64() - 1.0))
}

fn check(upstream: &Upstream, policy: &HealthPolicy) -> pingora::Result<Check> {
    let named = |host: &Option<String>| host.as_deref().unwrap_or_else(|| name_of(upstream)).to_owned();
    Ok(match &policy.probe {
        Probe::Tcp => Check::Pingora(Box::new(tcp(policy))),
        Probe::Http { path, host, expect } => {
            Check::Pingora(Box::new(http(upstream, policy, (path, &named(host)), expect.clone())?))
        }
        Probe::Grpc { service, host } => {
            Check::Grpc(Box::new(GrpcCheck::new(peer(upstream, policy), &named(host), service)?))
        }
    })
}

/// The template of a check's connections: each endpoint's address is put in, everything else is as for a request.
fn peer(upstream: &Upstream, policy: &HealthPolicy) -> HttpPeer {
    let mut peer = endpoint::peer(upstream, ([0, 0, 0, 0], 1).into());
    let options = &mut peer.options;
    options.connection_timeout = Some(policy.timeout);
    options.total_connection_timeout = Some(policy.timeout);
    options.read_timeout = Some(policy.timeout);
    options.write_timeout = Some(policy.timeout);
    peer
}

fn tcp(policy: &HealthPolicy) -> TcpHealthCheck {
    let mut check = TcpHealthCheck::default();
    check.peer_template.options.connection_timeout = Some(policy.timeout);
    check
}

/// The name that all endpoints have: addresses have none but the one that their certificates bear.
fn name_of(upstream: &Upstream) -> &str {
    upstream.tls.as_ref().map_or(&upstream.name, |it| &it.sni)
}

fn http(
    upstream: &Upstream,
    policy: &HealthPolicy,
    (path, host): (&str, &str),
    expect: Vec<u16>,
) -> pingora::Result<HttpHealthCheck> {
    let mut check = HttpHealthCheck::new("localhost", upstream.tls.is_some());
    check.peer_template = peer(upstream, policy);
    check.req = RequestHeader::build("GET", path.as_bytes(), Some(2))?;
    check.req.insert_header("host", host)?;
    check.req.insert_header("user-agent", "moongate-health-check")?;
    // A new connection proves more; HTTP/2's must be returned, for Pingora keeps it in any case.
    check.reuse_connection = upstream.protocol == Protocol::Http2;
    check.validator = Some(Box::new(move |answer| validate(answer, &expect)));
    Ok(check)
}

fn validate(answer: &ResponseHeader, expect: &[u16]) -> pingora::Result<()> {
    let status = answer.status.as_u16();
    if expect.contains(&status) {
        return Ok(());
    }
    Error::e_explain(ErrorType::HTTPStatus(status), "not a status that passes")
}
