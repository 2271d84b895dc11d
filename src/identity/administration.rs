//! Who may administer: principals of our own, which no other issuer and no authority for certificates can make, within
//! what their credentials are for. The gateway itself is for those who count for no tenant.

use super::principal::{Kind, Principal};
use super::roles::Roles;
use super::verifier::Identity;

/// The roles that administer the gateway, whatever `roles` says that they permit.
const ADMINISTRATORS: [&str; 2] = ["admin", "operator"];

/// Why somebody may not administer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdministrator {
    /// Another one vouches for them.
    #[error("who administers is known to this gateway itself; another issuer's word does not count here")]
    Stranger,
    /// They count for a tenant.
    #[error("who counts for a tenant does not administer the gateway")]
    OfTenant,
    /// No role of theirs permits it.
    #[error("neither the role admin nor operator is there, nor one that permits {0}")]
    Role(&'static str),
    /// Their credential is for other things.
    #[error("the credential is limited to other scopes than {0}")]
    Scope(&'static str),
}

impl Identity {
    /// Whether this gateway vouches for a principal: it signed the token, or has the key on record.
    ///
    /// # Errors
    /// When somebody else does.
    pub fn vouch(&self, principal: &Principal) -> Result<(), NotAdministrator> {
        let ours = match principal.kind {
            Kind::User | Kind::Service => principal.issuer.as_deref() == Some(self.keys().issuer()),
            Kind::ApiKey => true,
            Kind::Certificate | Kind::Basic => false,
        };
        if ours { Ok(()) } else { Err(NotAdministrator::Stranger) }
    }

    /// Whether a principal may do what `permission` stands for with the gateway as a whole.
    ///
    /// # Errors
    /// Why not.
    pub fn may_administer(
        &self,
        principal: &Principal,
        roles: &Roles,
        permission: &'static str,
    ) -> Result<(), NotAdministrator> {
        self.vouch(principal)?;
        if principal.tenant.is_some() {
            return Err(NotAdministrator::OfTenant);
        }
        let has = |role: &str| principal.roles.iter().any(|it| **it == *role);
        if !ADMINISTRATORS.into_iter().any(has) && !roles.permit(principal, permission) {
            return Err(NotAdministrator::Role(permission));
        }
        principal.is_for(permission)
    }
}

impl Principal {
    /// Whether its credential is for what this scope stands for; one without scopes is for everything.
    ///
    /// # Errors
    /// When it is for other things.
    pub fn is_for(&self, scope: &'static str) -> Result<(), NotAdministrator> {
        let fits = self.scopes.is_empty() || self.scopes.iter().any(|it| **it == *scope);
        if fits { Ok(()) } else { Err(NotAdministrator::Scope(scope)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{At, Diagnostics};
    use crate::identity::TokensConfig;

    fn somebody(change: impl FnOnce(&mut Principal)) -> Principal {
        let mut principal = Principal::new(Kind::User, "ada");
        principal.issuer = Some("moongate".into());
        principal.roles = vec!["admin".into()];
        change(&mut principal);
        principal
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Principal), expected: Result<(), NotAdministrator>) {
        let tokens = TokensConfig::default().compile(&At::ROOT, &mut Diagnostics::default());
        let (identity, roles) = (Identity::begin(tokens), Roles::default());
        assert_eq!(identity.may_administer(&somebody(change), &roles, "metrics.read"), expected);
    }

    #[test]
    fn the_gateway_is_administered_by_its_own_people_without_a_tenant() {
        use NotAdministrator::{OfTenant, Role, Scope, Stranger};
        check(|_| (), Ok(()));
        check(|it| it.roles = vec!["operator".into()], Ok(()));
        check(|it| (it.kind, it.issuer) = (Kind::ApiKey, None), Ok(()));
        check(|it| it.scopes = vec!["read".into(), "metrics.read".into()], Ok(()));
        check(|it| it.issuer = Some("clinic".into()), Err(Stranger));
        check(|it| it.issuer = None, Err(Stranger));
        check(|it| (it.kind, it.issuer) = (Kind::Certificate, None), Err(Stranger));
        check(|it| it.tenant = Some("acme".into()), Err(OfTenant));
        check(|it| it.roles = vec!["user".into(), "Admin".into()], Err(Role("metrics.read")));
        check(|it| it.roles.clear(), Err(Role("metrics.read")));
        check(|it| it.scopes = vec!["read.only".into()], Err(Scope("metrics.read")));
    }
}
