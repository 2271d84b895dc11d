//! Several upstreams that share a route's requests by weight: a canary beside what has served so far.
//!
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): each part draws
//! a number from the caller's key and its own name, and the one with the best draw for its weight has the caller. A
//! caller moves only if the weight of its own part falls against another one's, and only towards the one that has
//! risen; so a canary that grows keeps everybody whom it has. Nothing depends on the order of the list.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hash_on::{cookie, hash};
use super::ring::mix;
use crate::base::{At, Diagnostics};

/// The most parts of a split.
const PARTS_MAX: usize = 32;
/// The largest weight of a part.
const WEIGHT_MAX: u32 = 1_000_000;

/// One of the upstreams that share a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitPartConfig {
    /// The upstream.
    pub upstream: String,
    /// Its share, against the weights of the others: 0 to 1000000. With 0 it gets nothing.
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
}

/// What callers keep their part of a split by; one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitBy {
    /// Who calls: the principal; without one, the credentials that the request carries; without any, the client's
    /// address.
    Principal,
    /// The client's address.
    Ip,
    /// A field of the request. Without it, each request goes its own way.
    Header(String),
    /// A cookie. Without it, each request goes its own way.
    Cookie(String),
}

/// Compiled: the parts, and what decides between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    parts: Vec<SplitPart>,
    by: Option<SplitKey>,
}

/// A compiled part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// The number of its upstream.
    pub upstream: usize,
    /// Against those of the others.
    pub weight: u32,
    /// Of its name: what it draws by.
    seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SplitKey {
    Principal,
    Ip,
    Header(HeaderName),
    Cookie(String),
}

impl Split {
    /// Reports all faults. `find` reports an upstream that is not there, and says which number it has.
    pub fn compile(
        parts: &[SplitPartConfig],
        by: Option<&SplitBy>,
        (at, by_at): (&At<'_>, &At<'_>),
        diagnostics: &mut Diagnostics,
        mut find: impl FnMut(&str, &At<'_>, &mut Diagnostics) -> usize,
    ) -> Self {
        if parts.is_empty() || parts.len() > PARTS_MAX {
            diagnostics.error(at, format!("a split has 1 to {PARTS_MAX} parts, this one has {}", parts.len()));
        } else if parts.iter().all(|it| it.weight == 0) {
            diagnostics
                .error(at, "every weight is 0: nobody would get a request")
                .help("give one of them a weight, such as 100");
        }
        let mut compiled: Vec<SplitPart> = Vec::with_capacity(parts.len());
        for (number, part) in parts.iter().enumerate() {
            let at = at.index(number);
            if part.weight > WEIGHT_MAX {
                diagnostics.error(&at.key("weight"), format!("at most {WEIGHT_MAX}"));
            }
            if let Some(first) = parts[..number].iter().position(|it| it.upstream == part.upstream) {
                diagnostics
                    .error(&at.key("upstream"), format!("upstream `{}` is a part already", part.upstream))
                    .help(format!("add the weight to that of part {}", first + 1));
            }
            let upstream = find(&part.upstream, &at.key("upstream"), diagnostics);
            compiled.push(SplitPart { upstream, weight: part.weight, seed: hash(part.upstream.as_bytes()) });
        }
        Self { parts: compiled, by: by.and_then(|it| SplitKey::compile(it, by_at, diagnostics)) }
    }

    /// The parts, in the order of the file.
    pub fn parts(&self) -> &[SplitPart] {
        &self.parts
    }

    /// The part with the largest weight; of equals, the first.
    pub fn heaviest(&self) -> usize {
        let best = self.parts.iter().enumerate().rev().max_by_key(|it| it.1.weight);
        best.map_or(0, |it| it.0)
    }

    /// Whether callers keep their part.
    pub fn is_sticky(&self) -> bool {
        self.by.is_some()
    }

    /// What a request keeps its part by; `None` if nothing is said, or the request has nothing of the kind. `caller`
    /// is a digest of the principal or the credentials, if there are any.
    pub fn key(&self, fields: &HeaderMap, client: IpAddr, caller: impl FnOnce() -> Option<u64>) -> Option<u64> {
        match self.by.as_ref()? {
            SplitKey::Principal => Some(caller().unwrap_or_else(|| key_of(client))),
            SplitKey::Ip => Some(key_of(client)),
            SplitKey::Header(name) => fields.get(name).map(|it| hash(it.as_bytes())),
            SplitKey::Cookie(name) => cookie(fields, name).map(hash),
        }
    }

    /// The part of a request with this key, among those that `may_serve`; any by weight without a key. If none of them
    /// may, the one that it would have if all might.
    pub fn choose(&self, key: Option<u64>, may_serve: impl Fn(usize) -> bool) -> usize {
        let key = key.unwrap_or_else(|| fastrand::u64(..));
        let able = self.best(key, may_serve);
        able.or_else(|| self.best(key, |_| true)).unwrap_or(0)
    }

    fn best(&self, key: u64, may_serve: impl Fn(usize) -> bool) -> Option<usize> {
        let able = self.parts.iter().enumerate().filter(|(number, it)| it.weight > 0 && may_serve(*number));
        let drawn = able.map(|(number, it)| (number, it.draw(key)));
        drawn.max_by(|left, right| left.1.total_cmp(&right.1)).map(|it| it.0)
    }
}

impl SplitPart {
    /// Exponentially distributed with the weight as its rate, negated: the largest wins.
    fn draw(&self, key: u64) -> f64 {
        // 53 bits, and never 0, whose logarithm is none.
        let uniform = ((mix(key, self.seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        uniform.ln() / f64::from(self.weight)
    }
}

impl SplitKey {
    fn compile(by: &SplitBy, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match by {
            SplitBy::Principal => Some(Self::Principal),
            SplitBy::Ip => Some(Self::Ip),
            SplitBy::Header(name) => {
                let field = HeaderName::try_from(name).ok();
                if field.is_none() {
                    diagnostics.error(&at.key("header"), format!("`{name}` is not the name of a field"));
                }
                field.map(Self::Header)
            }
            SplitBy::Cookie(name) if name.is_empty() => {
                diagnostics.error(&at.key("cookie"), "the name is missing");
                None
            }
            SplitBy::Cookie(name) => Some(Self::Cookie(name.clone())),
        }
    }
}

fn key_of(client: IpAddr) -> u64 {
    hash(client.to_canonical().to_string().as_bytes())
}

/// The same in every process of this version: of what is the same about requests that go the same way.
pub fn split_key(parts: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u64 {
    let mut hasher = DefaultHasher::new(); // SipHash with fixed keys
    parts(&mut |it| it.hash(&mut hasher));
    hasher.finish()
}

/// The shares of parts by their names, in hundredths of all, as people read them.
pub fn shares(parts: &[SplitPartConfig]) -> Vec<(Arc<str>, f64)> {
    let all: u64 = parts.iter().map(|it| u64::from(it.weight)).sum();
    let share = |weight: u32| if all == 0 { 0.0 } else { f64::from(weight) * 10_000.0 / all as f64 };
    parts.iter().map(|it| (it.upstream.as_str().into(), share(it.weight).round() / 100.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLERS: u64 = 20_000;

    fn split(parts: &[(&str, u32)]) -> Split {
        let written: Vec<SplitPartConfig> =
            parts.iter().map(|it| SplitPartConfig { upstream: it.0.to_owned(), weight: it.1 }).collect();
        let find = |name: &str, _: &At<'_>, _: &mut Diagnostics| name.len();
        let mut diagnostics = Diagnostics::default();
        let split = Split::compile(&written, None, (&At::ROOT, &At::ROOT), &mut diagnostics, find);
        assert!(diagnostics.is_empty());
        split
    }

    /// The upstream of each caller, by the length of its name.
    fn owners(parts: &[(&str, u32)]) -> Vec<usize> {
        let split = split(parts);
        let owner = |it: u64| split.parts()[split.choose(Some(hash(&it.to_be_bytes())), |_| true)].upstream;
        (0..CALLERS).map(owner).collect()
    }

    #[test]
    fn each_part_has_the_share_of_its_weight() {
        let owners = owners(&[("a", 90), ("bb", 9), ("ccc", 1), ("dddd", 0)]);
        let share = |part: usize| owners.iter().filter(|it| **it == part).count() as f64 / CALLERS as f64;
        assert!((share(1) - 0.9).abs() < 0.02 && (share(2) - 0.09).abs() < 0.01 && (share(3) - 0.01).abs() < 0.005);
        assert_eq!(share(4), 0.0);
    }

    #[test]
    fn a_canary_that_grows_keeps_everybody_whom_it_has() {
        let mut before = owners(&[("a", 99), ("bb", 1)]);
        for weight in [2, 5, 10, 25, 50, 75, 100] {
            let after = owners(&[("a", 100 - weight), ("bb", weight)]);
            assert!(before.iter().zip(&after).all(|(before, after)| *before == 1 || *after == 2), "at {weight}");
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64;
            let grown = after.iter().filter(|it| **it == 2).count() - before.iter().filter(|it| **it == 2).count();
            assert_eq!(moved, grown as f64, "nobody moves but those who make up the new share");
            before = after;
        }
    }

    #[test]
    fn the_order_of_the_parts_moves_nobody_and_neither_does_a_common_factor() {
        let owners_of = owners(&[("a", 3), ("bb", 1)]);
        assert_eq!(owners_of, owners(&[("bb", 1), ("a", 3)]));
        assert_eq!(owners_of, owners(&[("a", 75), ("bb", 25)]));
    }

    #[test]
    fn only_callers_of_a_part_that_can_not_serve_go_elsewhere() {
        let split = split(&[("a", 50), ("bb", 30), ("ccc", 20)]);
        for caller in 0..1_000u64 {
            let key = Some(hash(&caller.to_be_bytes()));
            let (usual, without_b) = (split.choose(key, |_| true), split.choose(key, |it| it != 1));
            assert!(usual == without_b || (usual == 1 && without_b != 1));
            assert_eq!(split.choose(key, |_| false), usual, "where nobody can serve, the own part says so");
        }
    }
}
