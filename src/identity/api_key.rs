//! API keys: `mg_<id>_<secret>`. The id finds the record, the secret's hash has to be the one in it.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use super::accounts::ApiKeyRecord;
use super::principal::{Kind, Principal, Validity};
use super::standing::includes;
use super::token_error::TokenError;

/// The longest API key in bytes.
const KEY_MAX: usize = 256;
const ID_MAX: usize = 64;
const SECRET_MIN: usize = 16;

/// What every API key begins with.
const MARK: &str = "mg_";

/// An API key as it came.
#[derive(Clone, Copy)]
pub(super) struct ApiKey<'k> {
    pub(super) id: &'k str,
    secret: &'k str,
}

/// Whether this may be an API key and is no token: tokens have dots and begin otherwise.
pub fn is_api_key(credential: &[u8]) -> bool {
    credential.starts_with(MARK.as_bytes())
}

impl<'k> ApiKey<'k> {
    pub(super) fn parse(key: &'k [u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok().filter(|it| it.len() <= KEY_MAX)?;
        let (id, secret) = text.strip_prefix(MARK)?.split_once('_')?;
        let plain = |it: &str| it.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let sound = !id.is_empty() && id.len() <= ID_MAX && secret.len() >= SECRET_MIN && plain(id) && plain(secret);
        sound.then_some(Self { id, secret })
    }

    pub(super) fn opens(self, holder: &Holder, now: u64) -> Result<Arc<Principal>, TokenError> {
        let hash = digest(&SHA256, self.secret.as_bytes());
        let same = bool::from(hash.as_ref().ct_eq(&holder.hash));
        let over = holder.revoked || holder.expires.is_some_and(|it| now >= it);
        if same && !over { Ok(holder.principal.clone()) } else { Err(TokenError::ApiKey) }
    }
}

/// A record, and its principal made once.
#[derive(Debug)]
pub(super) struct Holder {
    hash: [u8; 32],
    expires: Option<u64>,
    revoked: bool,
    principal: Arc<Principal>,
}

impl Holder {
    pub(super) fn new(id: &str, record: ApiKeyRecord) -> Self {
        let words = |list: &[String]| list.iter().map(|it| Arc::from(it.as_str())).collect();
        let principal = Principal {
            tenant: record.tenant.as_deref().map(Arc::from),
            roles: words(&record.roles),
            scopes: words(&record.scopes),
            credential: Some(id.into()),
            validity: Validity { ends: record.expires, ..Validity::default() },
            ..Principal::new(Kind::ApiKey, record.subject.as_str())
        };
        let ApiKeyRecord { hash, expires, revoked, .. } = record;
        Self { hash, expires, revoked, principal: Arc::new(principal) }
    }

    /// Whether the key still counts, and for all that it did.
    pub(super) fn stands_by(&self, principal: &Principal) -> bool {
        !self.revoked
            && includes(&self.principal.roles, &principal.roles)
            && includes(&self.principal.scopes, &principal.scopes)
            && self.principal.tenant == principal.tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cret_s3cret_s3cret";

    fn holder() -> Holder {
        let hash = digest(&SHA256, SECRET.as_bytes()).as_ref().try_into().unwrap();
        let record = ApiKeyRecord {
            subject: "billing".into(),
            hash,
            tenant: None,
            roles: vec!["service".into()],
            scopes: Vec::new(),
            expires: Some(100),
            revoked: false,
        };
        Holder::new("k1", record)
    }

    #[test]
    fn an_api_key_opens_with_its_secret_until_it_ends() {
        let opens = |text: &str, holder: &Holder, now: u64| {
            ApiKey::parse(text.as_bytes()).is_some_and(|it| it.opens(holder, now).is_ok())
        };
        let good = format!("mg_k1_{SECRET}");
        assert!(opens(&good, &holder(), 99));
        assert!(!opens(&good, &holder(), 100));
        assert!(!opens(&good, &Holder { revoked: true, ..holder() }, 99));
        assert!(!opens(&format!("{good}x"), &holder(), 99));
        assert!(!opens(&good[..good.len() - 1], &holder(), 99));
        for bad in ["mg_k1", "mg__0123456789abcdef", "mg_k1_short", "xx_k1_0123456789abcdef", "mg_k/1_0123456789abcdef"]
        {
            assert!(ApiKey::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(ApiKey::parse(format!("mg_k1_{}", "x".repeat(300)).as_bytes()).is_none());
    }
}
