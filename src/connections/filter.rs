//! Which connections are meant.

use super::entry::{Entry, Kind};

/// What a connection has to be to be meant; what is not named is no matter.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its kind.
    pub kind: Option<String>,
    /// Its route.
    pub route: Option<String>,
    /// The subject of who has opened it.
    pub principal: Option<String>,
    /// The tenant of who has opened it.
    pub tenant: Option<String>,
    /// The credential that has opened it: the `jti` of a token, the id of a key.
    pub token: Option<String>,
    /// The sign-in that it comes from.
    pub session: Option<String>,
}

impl Wanted {
    /// Whether everything is meant.
    pub fn is_everything(&self) -> bool {
        let Self { kind, route, principal, tenant, token, session } = self;
        [kind, route, principal, tenant, token, session].iter().all(|it| it.is_none())
    }

    /// Whether there is no such kind.
    pub fn names_no_kind(&self) -> bool {
        let kinds = [Kind::Events, Kind::WebSocket, Kind::Tunnel, Kind::Body];
        self.kind.as_ref().is_some_and(|kind| !kinds.iter().any(|it| it.as_str() == kind))
    }

    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let facts = &entry.facts;
        let of = facts.principal.as_deref();
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|it| is == Some(it));
        fits(&self.kind, Some(facts.kind.as_str()))
            && fits(&self.route, Some(&facts.route))
            && fits(&self.principal, of.map(|it| &*it.subject))
            && fits(&self.tenant, of.and_then(|it| it.tenant.as_deref()))
            && fits(&self.token, of.and_then(|it| it.credential.as_deref()))
            && fits(&self.session, of.and_then(|it| it.session.as_deref()))
    }
}
