//! Who a request acts for, and what makes two callers one.

use std::sync::Arc;

use super::identity_token::IdentityToken;

/// Who a request acts for, as its credentials prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What kind of credentials proved it.
    pub kind: Kind,
    /// Who it is: the `sub` of a token, the name of a key, of a service or of a certificate.
    pub subject: Arc<str>,
    /// Its issuer: the `iss` of a token; none for keys, which are this gateway's own records.
    pub issuer: Option<Arc<str>>,
    /// For whom it counts.
    pub tenant: Option<Arc<str>>,
    /// The issuer on whose word alone it counts for that tenant; none where that is our own word, or the operator's.
    pub tenant_issuer: Option<Arc<str>>,
    /// Its roles; what they permit is in the configuration.
    pub roles: Vec<Arc<str>>,
    /// What its credentials are for, beside its roles: the words of `scope`.
    pub scopes: Vec<Arc<str>>,
    /// Names the credentials themselves: the `jti` of a token, the id of a key.
    pub credential: Option<Arc<str>>,
    /// Names the sign-in that it comes from: the family of its refresh tokens.
    pub session: Option<Arc<str>>,
    /// For how long its credentials count.
    pub validity: Validity,
    /// What upstreams are shown of it, once it was made.
    pub identity_token: IdentityToken,
}

/// For how long credentials count: what has to be looked at again while a connection that they opened lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// When they were made, in seconds since 1970; 0 if they do not say so.
    pub issued: u64,
    /// When they end, the leeway included, in seconds since 1970; none: never.
    pub ends: Option<u64>,
    /// Whether they are a token of this gateway, which can take it back.
    pub own_token: bool,
}

impl Principal {
    /// Somebody of whom nothing else is known.
    pub fn new(kind: Kind, subject: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            issuer: None,
            tenant: None,
            tenant_issuer: None,
            roles: Vec::new(),
            scopes: Vec::new(),
            credential: None,
            session: None,
            validity: Validity::default(),
            identity_token: IdentityToken::default(),
        }
    }

    /// Who it is, for everything that compares callers: issuer, tenant and subject, or the key.
    pub fn key(&self) -> CallerKey<'_> {
        let credential = self.credential.as_deref().filter(|_| self.kind == Kind::ApiKey);
        CallerKey::new(
            self.kind as u8,
            [self.issuer.as_deref(), self.tenant.as_deref(), Some(&self.subject), credential],
        )
    }

    /// Its tenant, for everything that compares tenants: two issuers may mean two by one name.
    pub fn tenant_key(&self) -> Option<CallerKey<'_>> {
        let tenant = self.tenant.as_deref()?;
        Some(CallerKey::new(TENANT, [self.tenant_issuer.as_deref(), Some(tenant), None, None]))
    }
}

/// Behind the kinds of credentials.
const TENANT: u8 = 5;

/// What makes two callers one, wherever callers are compared: limits, cache, idempotency. There is no other way to
/// compare them, so that no feature can leave a part out.
///
/// Two are equal only if `tag` and all `parts` are; what is not there is not what is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerKey<'p> {
    /// What is compared, and which parts there are.
    pub tag: u8,
    /// Issuer, tenant, subject, key.
    pub parts: [&'p [u8]; 4],
}

impl<'p> CallerKey<'p> {
    fn new(kind: u8, parts: [Option<&'p str>; 4]) -> Self {
        let there = parts.iter().enumerate().map(|(bit, it)| u8::from(it.is_some()) << bit).sum::<u8>();
        Self { tag: kind << 4 | there, parts: parts.map(|it| it.unwrap_or_default().as_bytes()) }
    }
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token of somebody who signed in, here or at a trusted issuer.
    User = 1,
    /// An API key.
    ApiKey = 2,
    /// A token of a service.
    Service = 3,
    /// A client certificate.
    Certificate = 4,
    /// A name and a password of a file of the operator's.
    Basic = 5,
}

impl Kind {
    /// The word that upstreams receive.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "jwt",
            Self::ApiKey => "api_key",
            Self::Service => "service_token",
            Self::Certificate => "mtls",
            Self::Basic => "basic",
        }
    }
}

/// Who asks: the principal, and what a request shows beside it that nobody here has verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'p> {
    /// Whom verified credentials prove.
    pub principal: Option<&'p Principal>,
    /// A digest of all other credentials, if there are any: an upstream may go by them.
    pub unverified: Option<[u8; 32]>,
}

impl Caller<'_> {
    /// Gives all that distinguishes this caller from others to `part`, the same number of parts for everybody.
    pub fn key(&self, mut part: impl FnMut(&[u8])) {
        let none = CallerKey { tag: u8::MAX, parts: [b""; 4] };
        let key = self.principal.map_or(none, Principal::key);
        part(&[key.tag]);
        key.parts.iter().for_each(|it| part(it));
        part(self.unverified.as_ref().map_or(&b""[..], |it| it));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_one_only_if_issuer_tenant_and_subject_are() {
        let ada = |issuer: Option<&str>, tenant: Option<&str>| Principal {
            issuer: issuer.map(Into::into),
            tenant: tenant.map(Into::into),
            ..Principal::new(Kind::User, "ada")
        };
        let own = ada(Some("own"), Some("north"));
        assert_eq!(
            own.key(),
            Principal { roles: vec!["admin".into()], credential: Some("t".into()), ..own.clone() }.key()
        );
        let key = |id: &str| Principal { credential: Some(id.into()), ..Principal::new(Kind::ApiKey, "ada") };
        let others = [
            ada(Some("own"), Some("south")),
            ada(Some("own"), None),
            ada(Some("own"), Some("")),
            ada(Some("other"), Some("north")),
            ada(None, Some("north")),
            Principal { subject: "bob".into(), ..own.clone() },
            Principal { kind: Kind::Service, ..own.clone() },
            key("one"),
            key("two"),
            Principal::new(Kind::Certificate, "ada"),
        ];
        for (number, one) in others.iter().enumerate() {
            assert_ne!(one.key(), own.key(), "{one:?}");
            assert!(others[number + 1..].iter().all(|it| it.key() != one.key()), "{one:?}");
        }
    }

    #[test]
    fn a_tenant_that_another_issuer_names_is_not_ours() {
        let of = |issuer: Option<&str>, tenant: &str| Principal {
            tenant: Some(tenant.into()),
            tenant_issuer: issuer.map(Into::into),
            ..Principal::new(Kind::User, "ada")
        };
        assert_eq!(
            of(None, "north").tenant_key(),
            Principal { subject: "bob".into(), ..of(None, "north") }.tenant_key()
        );
        assert_ne!(of(None, "north").tenant_key(), of(Some("x"), "north").tenant_key());
        assert_ne!(of(None, "north").tenant_key(), of(None, "south").tenant_key());
        assert_eq!(Principal::new(Kind::User, "ada").tenant_key(), None);
        assert_ne!(of(None, "north").tenant_key(), Some(of(None, "north").key()));
    }

    #[test]
    fn what_nobody_has_verified_counts_beside_the_principal() {
        let key = |principal: Option<&Principal>, unverified| {
            let mut parts = Vec::new();
            Caller { principal, unverified }.key(|it| parts.push(it.to_vec()));
            parts
        };
        let ada = Principal::new(Kind::User, "ada");
        let all = [key(None, None), key(None, Some([1; 32])), key(Some(&ada), None), key(Some(&ada), Some([1; 32]))];
        for (number, one) in all.iter().enumerate() {
            assert!(one.len() == all[0].len() && all[number + 1..].iter().all(|it| it != one));
        }
    }
}
