//! `moongate users`: who may sign in.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::app::inspect::{columns, pretty};
use crate::app::prompt::{self, keeping, moment, with_store};
use crate::app::{Failure, Files, Format};
use crate::base::{RequestId, Secret};
use crate::config::{Keeping, known_roles};
use crate::services::auth::{NAME_RULE, Passwords, ROLE_RULE, ROLES_MAX, is_role, is_user_name, random_password};
use crate::store::{NewUser, Store, StoreError, User, UserChange};

/// So many users are read at once.
const PAGE: u32 = 500;
/// The configuration may have set longer lifetimes to tokens that are still about.
const MARGIN: Duration = Duration::from_secs(86_400);

/// A user to add.
#[derive(Clone, Debug)]
pub struct NewUserArgs {
    /// What they sign in with.
    pub name: String,
    /// Their roles.
    pub roles: Vec<String>,
    /// For whom they count.
    pub tenant: Option<String>,
    /// Whether a password is made, instead of prompted for.
    pub generate: bool,
}

/// `moongate users add`: prompts for a password, or makes one and shows it, once.
///
/// # Errors
/// When the name is taken or can't be one, there is no such role, the password is too short, or the store can't be
/// reached.
pub fn add_user(files: &Files, args: NewUserArgs) -> Result<String, Failure> {
    let keeping = keeping(&files.gateway)?;
    check_name(&args.name)?;
    check_roles(&args.roles, &keeping, &files.routes)?;
    if args.tenant.as_deref().is_some_and(|it| !is_role(it)) {
        return Err(Failure(format!("not a tenant: {ROLE_RULE}")));
    }
    let password = chosen_password(args.generate)?;
    let NewUserArgs { name, roles, tenant, generate } = args;
    let shown = generate.then(|| password.clone());
    let taken = format!("there is a user `{name}` already");
    let added = keeping.with_store(|store| async move {
        // Before the work of hashing: what can't be opened is reported at once.
        store.open().await.map_err(|it| it.to_string())?;
        let hash = hash(password).await?;
        let id = RequestId::random().as_str().to_owned();
        let added = store.add_user(NewUser { id, name, password_hash: Some(hash), roles, tenant }).await;
        added.map_err(|error| if error == StoreError::Conflict { taken } else { error.to_string() })
    });
    let user = added.map_err(Failure)?.map_err(Failure)?;
    let mut said = format!("user `{}` added, id {}, roles: {}\n", user.name, user.id, listed(&user.roles));
    if let Some(password) = shown {
        said.push_str(&format!("password, shown this once: {}\n", password.expose()));
    }
    Ok(said)
}

/// `moongate users password`: another one, prompted for or made. Signs the user out everywhere.
///
/// # Errors
/// As [`add_user`].
pub fn set_password(gateway: &Path, name: &str, generate: bool) -> Result<String, Failure> {
    let keeping = keeping(gateway)?;
    let password = chosen_password(generate)?;
    let shown = generate.then(|| password.clone());
    let hash = keeping.with_store(|_| hash(password)).map_err(Failure)?.map_err(Failure)?;
    let change = UserChange { password_hash: Some(hash), ..UserChange::default() };
    let user = changed(&keeping, name, change)?;
    let mut said = format!("user `{}` has another password and is signed out\n", user.name);
    if let Some(password) = shown {
        said.push_str(&format!("password, shown this once: {}\n", password.expose()));
    }
    Ok(said)
}

/// `moongate users roles`, `disable` and `enable`: tokens that say otherwise don't count any more.
///
/// # Errors
/// When there is no such user or role, or the store can't be reached.
pub fn change_user(files: &Files, name: &str, change: UserChange) -> Result<String, Failure> {
    let keeping = keeping(&files.gateway)?;
    if let Some(roles) = &change.roles {
        check_roles(roles, &keeping, &files.routes)?;
    }
    let user = changed(&keeping, name, change)?;
    let state = if user.active { "active" } else { "disabled" };
    Ok(format!("user `{}` is {state}, roles: {}\n", user.name, listed(&user.roles)))
}

/// `moongate users list`.
///
/// # Errors
/// When the store can't be reached.
pub fn list_users(gateway: &Path, format: Format) -> Result<String, Failure> {
    let users = with_store(&keeping(gateway)?, all)?;
    if format == Format::Json {
        let shown = users.iter().map(|it| {
            json!({
                "id": it.id, "name": it.name, "roles": it.roles, "tenant": it.tenant, "active": it.active,
                "created": moment(it.created), "changed": moment(it.changed),
            })
        });
        return Ok(pretty(&shown.collect()));
    }
    let mut rows = vec![["USER", "ROLES", "TENANT", "STATE", "CHANGED", "ID"].map(str::to_owned)];
    for user in users {
        rows.push([
            user.name,
            user.roles.join(","),
            user.tenant.unwrap_or_else(|| "-".to_owned()),
            if user.active { "active".to_owned() } else { "disabled".to_owned() },
            moment(user.changed),
            user.id,
        ]);
    }
    Ok(columns(&rows))
}

async fn all(store: Store) -> Result<Vec<User>, StoreError> {
    let mut users: Vec<User> = Vec::new();
    loop {
        let after = users.last().map(|it| it.name.clone()).unwrap_or_default();
        let page = store.users(&after, PAGE, None).await?;
        if page.is_empty() {
            return Ok(users);
        }
        users.extend(page);
    }
}

fn changed(keeping: &Keeping, name: &str, change: UserChange) -> Result<User, Failure> {
    let life = keeping.access_life + MARGIN;
    let changed = with_store(keeping, |store| async move {
        match store.user_named(name).await? {
            Some(user) => store.change_user(&user.id, change, life).await,
            None => Ok(None),
        }
    });
    changed?.ok_or_else(|| Failure(format!("there is no user `{name}`; see: moongate users list")))
}

fn chosen_password(generate: bool) -> Result<Secret, Failure> {
    let password =
        if generate { random_password().map_err(|it| Failure(it.to_string()))? } else { prompt::password()? };
    Passwords::check(&password).map_err(|it| Failure(it.to_string()))?;
    Ok(password)
}

async fn hash(password: Secret) -> Result<String, String> {
    let passwords = Passwords::default();
    passwords.hash(password, Ipv4Addr::LOCALHOST.into()).await.map_err(|it| it.to_string())
}

fn check_name(name: &str) -> Result<(), Failure> {
    if is_user_name(name) { Ok(()) } else { Err(Failure(format!("`{name}` is not a name for a user: {NAME_RULE}"))) }
}

/// Roles have to be there: in `roles` of routes.yaml or among the default ones, or given by name in gateway.yaml.
pub(super) fn check_roles(roles: &[String], keeping: &Keeping, routes: &Path) -> Result<(), Failure> {
    if roles.len() > ROLES_MAX {
        return Err(Failure(format!("more than {ROLES_MAX} roles")));
    }
    if let Some(wrong) = roles.iter().find(|it| !is_role(it)) {
        return Err(Failure(format!("`{wrong}` is not a role: {ROLE_RULE}")));
    }
    if roles.is_empty() {
        return Ok(());
    }
    // Whatever issuers may give: what is given here should be written down somewhere.
    let given = Some(keeping.given_roles.clone());
    let known = known_roles(routes, given).map_err(|it| Failure(it.to_string()))?;
    let unknown = roles.iter().find_map(|it| Some((it, known.find(it, &[]).err()?)));
    match unknown {
        Some((role, help)) => Err(Failure(format!("there is no role `{role}`: {help}"))),
        None => Ok(()),
    }
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
