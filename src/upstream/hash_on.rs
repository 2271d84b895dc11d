//! What is the same about requests that shall get the same endpoint.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use http::header::{COOKIE, HeaderMap, HeaderName};

use super::config::{Balance, HashOn, UpstreamConfig};
use crate::base::{At, Diagnostics};

/// Compiled: where the key of `consistent_hash` is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// In a field.
    Header(HeaderName),
    /// In a cookie.
    Cookie(String),
    /// In what the path captures under this name.
    Path(String),
    /// In the client's address.
    Ip,
}

impl HashKey {
    /// Reports what makes no sense; `None` without `consistent_hash`.
    pub(super) fn compile(config: &UpstreamConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match (config.balance, &config.hash_on) {
            (Balance::ConsistentHash, None) => {
                diagnostics
                    .error_at_key(&at.key("balance"), "`consistent_hash` needs to know what to hash")
                    .help("add `hash_on: { header: x-session-id }`, or one of cookie, path and ip");
                None
            }
            (Balance::ConsistentHash, Some(on)) => Self::of(on, &at.key("hash_on"), diagnostics),
            (_, Some(_)) => {
                diagnostics
                    .error_at_key(&at.key("hash_on"), "only `balance: consistent_hash` looks at this")
                    .help("set `balance: consistent_hash`, or remove it");
                None
            }
            (_, None) => None,
        }
    }

    fn of(on: &HashOn, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match on {
            HashOn::Header(name) => match HeaderName::try_from(name) {
                Ok(name) => Some(Self::Header(name)),
                Err(_) => {
                    diagnostics.error(&at.key("header"), format!("`{name}` is not the name of a field"));
                    None
                }
            },
            HashOn::Cookie(name) | HashOn::Path(name) if name.is_empty() => {
                diagnostics.error(at, "the name is missing");
                None
            }
            HashOn::Cookie(name) => Some(Self::Cookie(name.clone())),
            HashOn::Path(name) => Some(Self::Path(name.clone())),
            HashOn::Ip(true) => Some(Self::Ip),
            HashOn::Ip(false) => {
                diagnostics.error(&at.key("ip"), "that hashes nothing").help("write `ip: true`, or name another key");
                None
            }
        }
    }

    /// The key of a request, if it has what is hashed.
    pub fn of_request<'p>(
        &self,
        fields: &HeaderMap,
        client: IpAddr,
        captured: impl FnOnce(&str) -> Option<&'p str>,
    ) -> Option<u64> {
        match self {
            Self::Header(name) => fields.get(name).map(|it| hash(it.as_bytes())),
            Self::Cookie(name) => cookie(fields, name).map(hash),
            Self::Path(name) => captured(name).map(|it| hash(it.as_bytes())),
            Self::Ip => Some(hash(client.to_canonical().to_string().as_bytes())),
        }
    }
}

/// The value of the first cookie of this name (RFC 6265, 4.2).
pub(super) fn cookie<'f>(fields: &'f HeaderMap, name: &str) -> Option<&'f [u8]> {
    let lines = fields.get_all(COOKIE).iter().map(|it| it.as_bytes());
    let mut pairs = lines.flat_map(|it| it.split(|it| *it == b';')).map(<[u8]>::trim_ascii);
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The same in every process of this version: gateways agree on who goes where.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new(); // SipHash with fixed keys
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_was_named() {
        let mut fields = HeaderMap::new();
        fields.append(COOKIE, "a=1; sid=x".parse().unwrap());
        fields.insert("x-session", "x".parse().unwrap());
        let of = |key: HashKey| key.of_request(&fields, "::ffff:1.2.3.4".parse().unwrap(), |_| Some("x"));
        let wanted = Some(hash(b"x"));
        assert_eq!(of(HashKey::Cookie("sid".into())), wanted);
        assert_eq!(of(HashKey::Header(HeaderName::from_static("x-session"))), wanted);
        assert_eq!(of(HashKey::Path("session".into())), wanted);
        assert_eq!(of(HashKey::Ip), Some(hash(b"1.2.3.4")));
        assert_eq!(of(HashKey::Cookie("none".into())), None);
    }
}
