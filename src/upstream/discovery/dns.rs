//! Endpoints of names in DNS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::compile::{EndpointSpec, WEIGHTS};
use super::DnsName;
use super::feed::{Poll, until};
use super::resolver::{Resolver, ServiceRecord};

/// A name with a shorter lifetime is looked up again after this: what says 0 must not keep us busy.
const TTL_MIN: Duration = Duration::from_secs(1);
/// A name with a longer lifetime is looked up again after this all the same.
const TTL_MAX: Duration = Duration::from_secs(300);
/// So many hosts of one service are looked up; the others are left out.
const HOSTS_MAX: usize = 256;

/// The addresses of a name.
pub(super) struct Addresses {
    name: DnsName,
    resolver: Arc<Resolver>,
}

impl Addresses {
    pub(super) fn new(name: &DnsName, resolver: &Arc<Resolver>) -> Self {
        Self { name: name.clone(), resolver: resolver.clone() }
    }
}

impl Poll for Addresses {
    async fn look(&self) -> Result<(Vec<EndpointSpec>, Duration), String> {
        let DnsName { name, port, weight, zone, every } = &self.name;
        let answer = self.resolver.addresses(name).await?;
        let spec = |ip| EndpointSpec { address: SocketAddr::new(ip, *port), weight: *weight, zone: zone.clone() };
        Ok((answer.found.into_iter().map(spec).collect(), until(answer.valid, TTL_MIN, every.unwrap_or(TTL_MAX))))
    }
}

/// The services of a name, and the addresses of their hosts.
pub(super) struct Services {
    name: Arc<str>,
    every: Option<Duration>,
    resolver: Arc<Resolver>,
}

impl Services {
    pub(super) fn new(name: &Arc<str>, every: Option<Duration>, resolver: &Arc<Resolver>) -> Self {
        Self { name: name.clone(), every, resolver: resolver.clone() }
    }
}

impl Poll for Services {
    /// RFC 2782: the hosts of the best priority, by their weights. A host without an address is left out, as long as
    /// another one has any.
    async fn look(&self) -> Result<(Vec<EndpointSpec>, Duration), String> {
        let answer = self.resolver.services(&self.name).await?;
        let best = answer.found.iter().map(|it| it.priority).min();
        let mut records: Vec<_> = answer.found.into_iter().filter(|it| Some(it.priority) == best).collect();
        // A single record for the root says that there is no such service.
        records.retain(|it| it.host != ".");
        records.truncate(HOSTS_MAX);
        let hosts = join_all(records.iter().map(|it| self.resolver.addresses(&it.host))).await;
        let (mut endpoints, mut valid, mut failure) = (Vec::new(), answer.valid, None);
        for (record, host) in records.iter().zip(hosts) {
            match host {
                Ok(host) => {
                    valid = valid.min(host.valid);
                    endpoints.extend(host.found.into_iter().map(|ip| endpoint(record, ip)));
                }
                Err(reason) => failure = Some(format!("{}: {reason}", record.host)),
            }
        }
        match failure {
            Some(reason) if endpoints.is_empty() => Err(reason),
            _ => Ok((endpoints, until(valid, TTL_MIN, self.every.unwrap_or(TTL_MAX)))),
        }
    }
}

fn endpoint(record: &ServiceRecord, ip: std::net::IpAddr) -> EndpointSpec {
    // A weight of 0 is "hardly ever"; the least that an endpoint can have.
    let weight = u32::from(record.weight).clamp(*WEIGHTS.start(), *WEIGHTS.end());
    EndpointSpec { address: SocketAddr::new(ip, record.port), weight, zone: None }
}
