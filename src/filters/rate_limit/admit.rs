//! Who the caller is, what the counters say, and what becomes of the request.

use std::net::IpAddr;

use http::header::HeaderMap;

use super::fields::seconds;
use super::live::LiveLimits;
use super::shared::SharedCounts;
use super::{OnStateError, RateLimit, Rules, Subject};
use crate::base::network_of;
use crate::identity::{CallerKey, Principal};
use crate::pipeline::{Charge, Charges, Exchange, RateLimitStatus, Refusal};
use crate::state::{CounterKey, Moment, Quota, SharedCells, Taken};

/// Which of a route's limits are to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Those that need no principal: before credentials are looked at, so that guessing them counts.
    BeforeAuth,
    /// Those that count by principal.
    AfterAuth,
}

/// Whose count it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Count {
    Own,
    Shared,
}

/// A name to count by. Names of different kinds are never the same; those of principals are from 16 on.
#[derive(Debug, PartialEq)]
struct Counted<'r> {
    kind: u8,
    name: [&'r [u8]; 4],
}

impl<'r> From<CallerKey<'r>> for Counted<'r> {
    fn from(key: CallerKey<'r>) -> Self {
        Self { kind: key.tag, name: key.parts }
    }
}

/// The bytes of an address that are counted.
#[derive(Debug, PartialEq)]
enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    fn of(ip: IpAddr) -> Self {
        match network_of(ip) {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// What a name is made of.
struct Caller<'r> {
    address: Address,
    principal: Option<&'r Principal>,
    headers: &'r HeaderMap,
    route: &'r str,
}

impl Caller<'_> {
    /// A caller without the property that the limit counts by is counted by something broader, so that leaving a
    /// token or a field out sets nobody free.
    fn counted(&self, subject: &Subject) -> Counted<'_> {
        match subject {
            Subject::Ip => self.by_ip(),
            // An API key is a principal of its own.
            Subject::User | Subject::Key => self.by_user(),
            Subject::Tenant => match self.principal.and_then(Principal::tenant_key) {
                Some(tenant) => tenant.into(),
                None => self.by_user(),
            },
            Subject::Route => one(5, self.route.as_bytes()),
            Subject::Header(name) => match self.headers.get(name) {
                Some(value) => one(6, value.as_bytes()),
                None => self.by_ip(),
            },
        }
    }

    fn by_ip(&self) -> Counted<'_> {
        one(1, self.address.bytes())
    }

    fn by_user(&self) -> Counted<'_> {
        self.principal.map_or_else(|| self.by_ip(), |it| it.key().into())
    }
}

fn one(kind: u8, name: &[u8]) -> Counted<'_> {
    Counted { kind, name: [name, b"", b"", b""] }
}

impl LiveLimits {
    /// Takes one request from each limit of this part; if one refuses, all get theirs back, those of the
    /// part before, too. `taken` is what was taken so far: kept by the caller, since between the parts the
    /// fields of a request may change. In memory nothing is waited for.
    ///
    /// # Errors
    /// When a limit refuses, or can't be checked and the configuration wants a refusal then.
    pub async fn on_request(
        &self,
        limits: &Rules,
        phase: Phase,
        taken: &mut Charges,
        exchange: &mut Exchange,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let range = limits.range(phase);
        if range.is_empty() {
            return Ok(());
        }
        let now = self.limits.counters.now();
        let principal = exchange.principal.clone().filter(|_| phase == Phase::AfterAuth);
        let address = Address::of(exchange.client_ip);
        let caller = Caller { address, principal: principal.as_deref(), headers, route: &self.route };
        for number in range.clone() {
            let key = self.key(number, &limits.limits[number], &caller);
            let asked = match &self.limits.shared {
                None => Ok(Some((self.take(number, limits, key, now), Count::Own))),
                Some(shared) => Box::pin(self.take_shared(shared, number, limits, key, &caller)).await,
            };
            let (answer, count) = match asked {
                Ok(Some(asked)) => asked,
                Ok(None) => continue,
                Err(refusal) => {
                    self.give_back(limits, taken);
                    return Err(refusal);
                }
            };
            if !answer.granted {
                self.give_back(limits, taken);
                self.each[number].0.refused.inc();
                // Of all that refuse, the one that does so the longest speaks: before, nothing passes.
                let others = (number + 1..range.end).map(|it| (it, self.look(it, limits, &caller, now)));
                let longer = |one: (usize, Taken), other: (usize, Taken)| {
                    if other.1.retry_in > one.1.retry_in { other } else { one }
                };
                let (number, answer) = others.fold((number, answer), longer);
                return Err(self.refuse(number, limits, &answer, exchange));
            }
            self.tell(number, limits, &answer, exchange);
            // The last one has nobody behind it who could refuse.
            if number + 1 < limits.limits.len() {
                taken.push(Charge { number, key, shared: count == Count::Shared });
            }
        }
        Ok(())
    }

    fn key(&self, number: usize, limit: &RateLimit, caller: &Caller<'_>) -> CounterKey {
        let Counted { kind, name } = caller.counted(&limit.subject);
        self.limits.counters.key(&limit.id, self.each[number].0.number, kind, name)
    }

    fn thousandths(&self, number: usize) -> u32 {
        self.each[number].1.as_ref().map_or(1_000, |it| it.thousandths())
    }

    fn quota(&self, number: usize, limit: &RateLimit) -> Quota {
        limit.quota.slowed(self.thousandths(number))
    }

    fn take(&self, number: usize, limits: &Rules, key: CounterKey, now: Moment) -> Taken {
        self.limits.counters.take(key, self.quota(number, &limits.limits[number]), 1, now)
    }

    fn look(&self, number: usize, limits: &Rules, caller: &Caller<'_>, now: Moment) -> Taken {
        let limit = &limits.limits[number];
        self.limits.counters.look(self.key(number, limit, caller), self.quota(number, limit), 1, now)
    }

    /// `None`: it passes, and nobody counted it.
    async fn take_shared(
        &self,
        shared: &SharedCounts,
        number: usize,
        limits: &Rules,
        key: CounterKey,
        caller: &Caller<'_>,
    ) -> Result<Option<(Taken, Count)>, Refusal> {
        let limit = &limits.limits[number];
        let name = || {
            let Counted { kind, name } = caller.counted(&limit.subject);
            SharedCells::name(&limit.id, kind, name)
        };
        let counters = &self.limits.counters;
        match shared.take(key, self.quota(number, limit), name, counters).await {
            Ok(taken) => Ok(Some((taken, Count::Shared))),
            Err(_) => match limit.on_state_error {
                OnStateError::Local => Ok(Some((self.take(number, limits, key, counters.now()), Count::Own))),
                OnStateError::Allow => Ok(None),
                OnStateError::Deny => Err(Refusal::StateUnavailable),
            },
        }
    }

    /// A request that is refused eats from no other limit.
    fn give_back(&self, limits: &Rules, taken: &mut Charges) {
        for Charge { number, key, shared } in taken.drain(..) {
            match &self.limits.shared {
                Some(counts) if shared => counts.give_back(key),
                _ => self.limits.counters.give_back(key, self.quota(number, &limits.limits[number]), 1),
            }
        }
    }

    /// Of several limits the tightest speaks.
    fn tell(&self, number: usize, limits: &Rules, taken: &Taken, exchange: &mut Exchange) {
        let reset = seconds(taken.full_in);
        let tighter = |it: &RateLimitStatus| (taken.remaining, u64::MAX - reset) < (it.remaining, u64::MAX - it.reset);
        if exchange.rate_limit_status.as_ref().is_none_or(tighter) {
            exchange.rate_limit_status = Some(self.rate_limit_status(number, limits, taken));
        }
    }

    /// Zero remaining and a wait agree with `Retry-After`: both say when the next one passes.
    fn rate_limit_status(&self, number: usize, limits: &Rules, taken: &Taken) -> RateLimitStatus {
        let limit = &limits.limits[number];
        let share = u128::from(limit.requests) * u128::from(self.thousandths(number)) / 1_000;
        RateLimitStatus {
            name: limit.name.clone(),
            limit: u64::try_from(share).unwrap_or(u64::MAX).max(1),
            remaining: taken.remaining,
            more: if taken.granted { seconds(self.quota(number, limit).more_in(taken.full_in)) } else { wait(taken) },
            reset: seconds(taken.full_in),
            policies: limits.policies.clone(),
        }
    }

    fn refuse(&self, number: usize, limits: &Rules, taken: &Taken, exchange: &mut Exchange) -> Refusal {
        let status = exchange.rate_limit_status.insert(self.rate_limit_status(number, limits, taken));
        Refusal::RateLimited { name: Some(status.name.clone()), limit: status.limit, retry_after: status.more }
    }
}

/// How many seconds a client that was refused has to wait.
fn wait(taken: &Taken) -> u64 {
    seconds(taken.retry_in).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Kind;
    use http::HeaderValue;

    fn principal(kind: Kind, tenant: Option<&str>, credential: Option<&str>) -> Principal {
        Principal {
            issuer: Some("iss".into()),
            tenant: tenant.map(Into::into),
            credential: credential.map(Into::into),
            ..Principal::new(kind, "ada")
        }
    }

    #[track_caller]
    fn check(subject: Subject, principal: Option<&Principal>, field: Option<&'static str>, expected: Counted<'_>) {
        let mut headers = HeaderMap::new();
        field.map(|it| headers.insert("x-client", HeaderValue::from_static(it)));
        let address = Address::of("192.0.2.1".parse().unwrap());
        let caller = Caller { address, principal, headers: &headers, route: "r" };
        assert_eq!(caller.counted(&subject), expected, "{subject:?}");
    }

    #[test]
    fn nobody_escapes_by_leaving_something_out() {
        let (user, key) = (principal(Kind::User, Some("t"), None), principal(Kind::ApiKey, None, Some("k1")));
        let header = || Subject::Header("x-client".parse().unwrap());
        for subject in [Subject::User, Subject::Key] {
            check(subject.clone(), Some(&user), None, user.key().into());
            check(subject, Some(&key), None, key.key().into());
        }
        check(Subject::Tenant, Some(&user), None, user.tenant_key().unwrap().into());
        check(Subject::Tenant, Some(&key), None, key.key().into());
        check(Subject::Route, None, None, one(5, b"r"));
        check(header(), None, Some("c"), one(6, b"c"));
        assert!(Counted::from(user.key()).kind >= 16);
        for subject in [Subject::User, Subject::Key, Subject::Tenant, header()] {
            let address = Address::of("192.0.2.1".parse().unwrap());
            let caller = Caller { address, principal: None, headers: &HeaderMap::new(), route: "r" };
            assert_eq!(caller.counted(&subject), one(1, &[192, 0, 2, 1]), "{subject:?}");
        }
    }

    #[test]
    fn an_address_of_ipv6_counts_with_its_network() {
        let of = |text: &str| Address::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
