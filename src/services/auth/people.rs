//! `/api/v1/users`: who may sign in, for principals with the role `admin` (US-009.3) whom this gateway itself vouches
//! for.
//!
//! An admin who counts for a tenant sees and changes nobody but those of this tenant, and gives no role that permits
//! more than their own: whoever could would be everything that they can make.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use crate::base::RequestId;
use crate::identity::{Principal, Revocation};
use crate::pipeline::Context;
use crate::services::auth::accounts::{NAME_RULE, ROLE_RULE, ROLES_MAX, is_role, is_user_name};
use crate::services::auth::fault::Fault;
use crate::services::auth::input::Input;
use crate::services::auth::passwords::Passwords;
use crate::services::auth::{Answer, Asked, Inner, json};
use crate::store::{NewUser, User, UserChange};
use crate::telemetry::Timestamp;

/// The role that it takes.
const ADMIN: &str = "admin";
/// The scopes that a credential needs, if it has any.
const READ: &str = "users.read";
const WRITE: &str = "users.write";
/// So many users on a page, unless the client asks for less.
const PAGE: u32 = 100;

impl Inner {
    pub(super) async fn create_user(&self, asked: Asked) -> Answer {
        let admin = self.admin(&asked.head, &asked.context, WRITE).await?;
        let input = Input::read(&asked.head.headers, asked.body).await?;
        let name = input.text("username")?;
        if !is_user_name(name) {
            return Err(Fault::Invalid("username", format!("can't be a name: {NAME_RULE}")));
        }
        let roles = input.optional_words("roles", ROLES_MAX, (is_role, ROLE_RULE))?.unwrap_or_default();
        self.check_known(&roles)?;
        check_grant(&admin, &roles, &asked.context)?;
        let tenant = tenant_of(&admin, input.optional_text("tenant")?)?;
        let password = input.secret("password")?;
        Passwords::check(&password).map_err(|it| Fault::Invalid("password", format!("can't be one: {it}")))?;
        let hash = self.passwords.hash(password, asked.context.client_ip).await?;
        let id = RequestId::random().as_str().to_owned();
        let user = NewUser { id, name: name.to_owned(), password_hash: Some(hash), roles, tenant };
        let user = self.store.add_user(user).await?;
        tracing::info!(event = "user_created", actor = %admin.subject, subject = %user.id, roles = ?user.roles);
        Ok(json(StatusCode::CREATED, &shown(&user)))
    }

    pub(super) async fn list_users(&self, asked: Asked) -> Answer {
        let admin = self.admin(&asked.head, &asked.context, READ).await?;
        let query = query(asked.head.uri.query().unwrap_or_default());
        let limit = match query.get("limit").map(|it| it.parse::<u32>()) {
            None => PAGE,
            Some(Ok(limit)) if (1..=PAGE).contains(&limit) => limit,
            Some(_) => return Err(Fault::Invalid("limit", format!("has to be a number from 1 to {PAGE}"))),
        };
        let after = query.get("after").map_or("", String::as_str);
        let users = self.store.users(after, limit, admin.tenant.as_deref()).await?;
        let next = users.last().filter(|_| users.len() == limit as usize).map(|it| it.name.clone());
        let list: Vec<Value> = users.iter().map(shown).collect();
        Ok(json(StatusCode::OK, &json!({ "users": list, "next": next })))
    }

    pub(super) async fn show_user(&self, id: &str, asked: Asked) -> Answer {
        let admin = self.admin(&asked.head, &asked.context, READ).await?;
        Ok(json(StatusCode::OK, &shown(&self.user_for(&admin, id).await?)))
    }

    /// Tokens that say otherwise don't count from the next request on.
    pub(super) async fn change_user(&self, id: &str, asked: Asked) -> Answer {
        let admin = self.admin(&asked.head, &asked.context, WRITE).await?;
        let input = Input::read(&asked.head.headers, asked.body).await?;
        let mut change = UserChange {
            roles: input.optional_words("roles", ROLES_MAX, (is_role, ROLE_RULE))?,
            active: input.optional_truth("active")?,
            password_hash: None,
        };
        let password = input.optional_secret("password")?;
        if password.is_none() && change == UserChange::default() {
            return Err(Fault::Invalid("body", "changes nothing: give roles, active or password".to_owned()));
        }
        self.check_known(change.roles.as_deref().unwrap_or_default())?;
        let user = self.user_for(&admin, id).await?;
        // Whoever sets a password can sign in with it.
        check_grant(&admin, &user.roles, &asked.context)?;
        check_grant(&admin, change.roles.as_deref().unwrap_or_default(), &asked.context)?;
        if let Some(password) = password {
            Passwords::check(&password).map_err(|it| Fault::Invalid("password", format!("can't be one: {it}")))?;
            change.password_hash = Some(self.passwords.hash(password, asked.context.client_ip).await?);
        }
        let life = self.revoked_for();
        let user = self.store.change_user(&user.id, change, life).await?.ok_or(Fault::Unknown("user"))?;
        let before = u64::try_from(user.changed).unwrap_or(0);
        let until = before + life.as_secs();
        self.spread(Revocation::Subject { subject: user.id.clone(), before, until }).await;
        tracing::info!(
            event = "user_changed", actor = %admin.subject, subject = %user.id, roles = ?user.roles, active = user.active
        );
        Ok(json(StatusCode::OK, &shown(&user)))
    }

    async fn admin(&self, head: &Parts, context: &Context, scope: &'static str) -> Result<Arc<Principal>, Fault> {
        let principal = self.principal(head, context).await?;
        self.identity.vouch(&principal).map_err(Fault::NotAdministrator)?;
        if !principal.roles.iter().any(|it| &**it == ADMIN) {
            return Err(Fault::Role(ADMIN));
        }
        principal.is_for(scope).map_err(Fault::NotAdministrator)?;
        Ok(principal)
    }

    /// Roles have to be there, as on the command line: a misspelt one would permit nothing, and nobody would notice.
    fn check_known(&self, roles: &[String]) -> Result<(), Fault> {
        let known = self.identity.roles();
        let unknown = roles.iter().find_map(|it| Some((it, known.find(it, &[]).err()?)));
        match unknown {
            Some((role, help)) => {
                Err(Fault::Invalid("roles", format!("has `{role}`, and there is no such role: {help}")))
            }
            None => Ok(()),
        }
    }

    /// Who is of another tenant is not there.
    async fn user_for(&self, admin: &Principal, id: &str) -> Result<User, Fault> {
        let user = self.store.user(id).await?;
        let theirs = |it: &User| admin.tenant.is_none() || it.tenant.as_deref() == admin.tenant.as_deref();
        user.filter(theirs).ok_or(Fault::Unknown("user"))
    }
}

/// Whether an admin may deal with these roles: one of a tenant with those alone that permit no more than their own.
fn check_grant(admin: &Principal, roles: &[String], context: &Context) -> Result<(), Fault> {
    let beyond = |role: &String| context.role_is_beyond(role, &admin.roles);
    if admin.tenant.is_some() && roles.iter().any(beyond) { Err(Fault::RoleBeyond) } else { Ok(()) }
}

fn tenant_of(admin: &Principal, wished: Option<&str>) -> Result<Option<String>, Fault> {
    let wrong = |why: String| Err(Fault::Invalid("tenant", why));
    match (admin.tenant.as_deref(), wished) {
        (Some(own), Some(other)) if own != other => wrong("is not yours".to_owned()),
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, Some(name)) if !is_role(name) => wrong(format!("can't be one: {ROLE_RULE}")),
        (None, name) => Ok(name.map(str::to_owned)),
    }
}

fn shown(user: &User) -> Value {
    let moment = |it: i64| Timestamp::of_seconds(it.max(0).unsigned_abs()).as_str().to_owned();
    json!({
        "id": user.id,
        "username": user.name,
        "roles": user.roles,
        "tenant": user.tenant,
        "active": user.active,
        "created": moment(user.created),
        "changed": moment(user.changed),
    })
}

/// The parameters of a query; of two of one name, the last counts.
pub(super) fn query(text: &str) -> HashMap<String, String> {
    // A base is needed to parse one; it is not looked at.
    let url = reqwest::Url::parse(&format!("http://localhost/?{text}"));
    url.map(|it| it.query_pairs().into_owned().collect()).unwrap_or_default()
}
