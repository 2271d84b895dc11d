//! Who a request acts for.

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
    /// Its roles; what they permit is in the configuration.
    pub roles: Vec<Arc<str>>,
    /// What its credentials are for, beside its roles: the words of `scope`.
    pub scopes: Vec<Arc<str>>,
    /// Names the credentials themselves: the `jti` of a token, the id of a key.
    pub credential: Option<Arc<str>>,
    /// Names the sign-in that it comes from: the family of its refresh tokens.
    pub session: Option<Arc<str>>,
    /// What upstreams are shown of it, once it was made.
    pub identity_token: IdentityToken,
}

impl Principal {
    /// Somebody of whom nothing else is known.
    pub fn new(kind: Kind, subject: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            issuer: None,
            tenant: None,
            roles: Vec::new(),
            scopes: Vec::new(),
            credential: None,
            session: None,
            identity_token: IdentityToken::default(),
        }
    }
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token of somebody who signed in, here or at a trusted issuer.
    User,
    /// An API key.
    ApiKey,
    /// A token of a service.
    Service,
    /// A client certificate.
    Certificate,
}

impl Kind {
    /// The word that upstreams receive.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "jwt",
            Self::ApiKey => "api_key",
            Self::Service => "service_token",
            Self::Certificate => "mtls",
        }
    }
}
