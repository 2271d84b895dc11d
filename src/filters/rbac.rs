//! Asks whether who is calling may do this (R4.2, R4.4, US-009): roles, permissions and scopes of a route.
//!
//! Which roles grant a permission is worked out when the configuration is compiled; a request costs a few
//! comparisons of words.

use std::sync::Arc;

use crate::base::{At, Diagnostics};
use crate::identity::{Kind, Principal, Roles};
use crate::pipeline::{Exchange, Missing, Refusal};

use super::auth::AuthConfig;

/// A compiled `auth` section, as far as it limits what the caller may do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rbac {
    /// One of them is needed; none: any role will do.
    roles: Vec<String>,
    permissions: Vec<Permission>,
    scopes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Permission {
    name: String,
    /// Those that say so themselves first.
    given_by: Vec<Arc<str>>,
}

impl Rbac {
    /// Reports roles and permissions that nobody can have; `None` if nothing is asked.
    pub(super) fn compile(
        config: &AuthConfig,
        roles: &Roles,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let AuthConfig { roles: needed, permissions, scopes, .. } = config;
        let list = at.key("roles");
        // Certificates have the roles that are named beside them.
        let own = config.mtls.as_ref().and_then(|it| it.roles.as_deref()).unwrap_or_default();
        for (number, role) in needed.iter().enumerate() {
            roles.check_role(role, own, &list.index(number), diagnostics);
        }
        let list = at.key("permissions");
        for (number, permission) in permissions.iter().enumerate() {
            roles.check_permission(permission, &list.index(number), diagnostics);
        }
        let list = at.key("scopes");
        for (number, scope) in scopes.iter().enumerate() {
            if scope.is_empty() || scope.bytes().any(|it| !it.is_ascii_graphic() || b"\"\\".contains(&it)) {
                diagnostics.error(&list.index(number), "not a scope").help("one word (RFC 6749, section 3.3)");
            }
        }
        if needed.is_empty() && permissions.is_empty() && scopes.is_empty() {
            return None;
        }
        let permission = |name: &String| Permission { name: name.clone(), given_by: roles.permitting(name) };
        Some(Self {
            roles: needed.clone(),
            permissions: permissions.iter().map(permission).collect(),
            scopes: scopes.clone(),
        })
    }

    /// Nobody in particular may do nothing.
    ///
    /// # Errors
    /// When the caller may not.
    pub(super) fn check(&self, exchange: &Exchange) -> Result<(), Refusal> {
        let missing = match exchange.principal.as_deref() {
            Some(principal) => self.missing(principal),
            None => self.missing(&Principal::new(Kind::User, "")),
        };
        missing.map_or(Ok(()), |it| Err(Refusal::Forbidden(Box::new(it))))
    }

    /// What a principal would need; `None` if it may.
    fn missing(&self, principal: &Principal) -> Option<Missing> {
        let has = |role: &str| principal.roles.iter().any(|it| **it == *role);
        let role = self.roles.is_empty() || self.roles.iter().any(|it| has(it));
        let lacks = |it: &&Permission| !it.given_by.iter().any(|role| has(role));
        let scoped = |it: &&String| !principal.scopes.iter().any(|scope| **scope == ***it);
        if role && !self.permissions.iter().any(|it| lacks(&it)) && !self.scopes.iter().any(|it| scoped(&it)) {
            return None;
        }
        let permissions: Vec<&Permission> = self.permissions.iter().filter(lacks).collect();
        let scopes: Vec<String> = self.scopes.iter().filter(scoped).cloned().collect();
        let roles = if role { Vec::new() } else { self.roles.clone() };
        let required = roles.first().cloned().or_else(|| role_with_all(&permissions).map(str::to_owned));
        let required = match (required, permissions.first()) {
            (Some(role), _) => format!("Required role: {role}."),
            (None, Some(permission)) => format!("Required permission: {}.", permission.name),
            (None, None) => format!("Required scope: {}.", scopes.join(" ")),
        };
        Some(Missing {
            sentence: format!("Insufficient permissions. {required}"), // US-009
            roles,
            permissions: permissions.iter().map(|it| it.name.clone()).collect(),
            scopes,
        })
    }
}

/// A role that grants all of these, the most modest one known.
fn role_with_all<'p>(permissions: &[&'p Permission]) -> Option<&'p str> {
    let (first, others) = permissions.split_first()?;
    let gives_all = |role: &&Arc<str>| others.iter().all(|it| it.given_by.contains(role));
    first.given_by.iter().find(gives_all).map(|it| &**it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: &str = "{ user: [chat.use], operator: [chat.use, plugins.manage, sessions.*], admin: ['*'] }";

    fn rbac(yaml: &str) -> (Option<Rbac>, Vec<String>) {
        let mut diagnostics = Diagnostics::default();
        let roles = Roles::compile(Some(&serde_yaml::from_str(ROLES).unwrap()), &At::ROOT, &mut diagnostics);
        let rbac = Rbac::compile(&serde_yaml::from_str(yaml).unwrap(), &roles, &At::ROOT, &mut diagnostics);
        (rbac, diagnostics.iter().map(|it| it.path.clone()).collect())
    }

    /// What is said to a caller with these roles and scopes; nothing if it passes.
    #[track_caller]
    fn check(yaml: &str, roles: &[&str], scopes: &[&str], sentence: Option<&str>) {
        let words = |list: &[&str]| list.iter().map(|it| Arc::from(*it)).collect();
        let principal = Principal { roles: words(roles), scopes: words(scopes), ..Principal::new(Kind::User, "ada") };
        let missing = rbac(yaml).0.unwrap().missing(&principal);
        assert_eq!(missing.map(|it| it.sentence).as_deref(), sentence, "{yaml} {roles:?} {scopes:?}");
    }

    #[test]
    fn us_009_1_who_lacks_something_is_told_the_role_that_has_it() {
        let operator = Some("Insufficient permissions. Required role: operator.");
        let admin = Some("Insufficient permissions. Required role: admin.");
        check("{ roles: [operator, admin] }", &["user"], &[], operator);
        check("{ roles: [operator, admin] }", &["admin"], &[], None);
        check("{ permissions: [plugins.manage] }", &["user"], &[], operator);
        check("{ permissions: [plugins.manage, sessions.end] }", &["user"], &[], operator);
        check("{ permissions: [plugins.manage, sessions.end] }", &["operator"], &[], None);
        check("{ permissions: [users.write] }", &["operator"], &[], admin);
        check("{ permissions: [users.write] }", &["admin"], &[], None);
        check("{ permissions: [chat.use] }", &["unknown", "Admin", ""], &[], operator);
        check("{ permissions: [chat.use] }", &[], &[], operator);
        check("{ roles: [user], permissions: [plugins.manage] }", &["user"], &[], operator);
        check("{ roles: [user], permissions: [plugins.manage] }", &["user", "operator"], &[], None);
    }

    #[test]
    fn px_5_scopes_are_the_credentials_own() {
        let bench = Some("Insufficient permissions. Required scope: bench.");
        check("{ scopes: [bench] }", &["admin"], &[], bench);
        check("{ scopes: [bench] }", &[], &["bench", "x"], None);
        check("{ scopes: [bench] }", &[], &["Bench"], bench);
    }

    #[test]
    fn what_nobody_can_have_is_reported() {
        assert_eq!(rbac("{ jwt: {} }"), (None, Vec::new()));
        let paths = rbac("{ roles: [user, oprator], permissions: [chat.us, 'sessions.x'], scopes: ['a b'] }").1;
        assert_eq!(paths, ["/roles/1", "/permissions/0", "/scopes/0"]);
    }
}
