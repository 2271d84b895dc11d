//! The identity token: what upstreams receive as a proof of who the caller is, a short-lived token about the
//! principal. Made once for a while and not for each request, with the fields that tell of the principal in the clear.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::principal::Principal;

/// How long an identity token is valid, in seconds; it is sent for the first half of that.
const LIFE: u64 = 60;

/// The type that upstreams find in its header; nobody takes it for an access token.
pub(super) const TYPE: &str = "moongate-identity+jwt";

/// Whom it is for.
const AUDIENCE: &str = "upstreams";

/// Fields that are the same for each request of a principal.
pub type Fields = [(HeaderName, HeaderValue)];

/// Caches the identity token of a principal, and what goes with it. Whether one was made says nothing about the
/// principal.
#[derive(Default)]
pub struct IdentityToken(ArcSwapOption<Made>);

struct Made {
    fields: Arc<Fields>,
    ends: u64,
    /// Under which keys it was signed.
    epoch: u64,
}

/// The claims of an identity token.
#[derive(Serialize)]
pub(super) struct IdentityClaims<'a> {
    iss: &'a str,
    aud: &'static str,
    sub: &'a str,
    /// The issuer of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    idp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    roles: Vec<&'a str>,
    scope: String,
    amr: [&'static str; 1],
    iat: u64,
    exp: u64,
}

impl<'a> IdentityClaims<'a> {
    pub(super) fn of(principal: &'a Principal, issuer: &'a str, now: u64) -> Self {
        let words = |list: &'a [Arc<str>]| list.iter().map(|it| &**it).collect::<Vec<_>>();
        Self {
            iss: issuer,
            aud: AUDIENCE,
            sub: &principal.subject,
            idp: principal.issuer.as_deref(),
            tenant: principal.tenant.as_deref(),
            roles: words(&principal.roles),
            scope: words(&principal.scopes).join(" "),
            amr: [principal.kind.as_str()],
            iat: now,
            exp: now + LIFE,
        }
    }
}

impl IdentityToken {
    /// What is there, or is made now.
    pub(super) fn get(&self, now: u64, epoch: u64, make: impl FnOnce() -> Arc<Fields>) -> Arc<Fields> {
        let fresh = |it: &Arc<Made>| it.epoch == epoch && now + LIFE / 2 <= it.ends;
        if let Some(made) = self.0.load().as_ref().filter(|it| fresh(it)) {
            return made.fields.clone();
        }
        let fields = make();
        self.0.store(Some(Arc::new(Made { fields: fields.clone(), ends: now + LIFE, epoch })));
        fields
    }
}

/// A copy of a principal may be changed: it makes its own.
impl Clone for IdentityToken {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for IdentityToken {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for IdentityToken {}

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityToken")
    }
}
