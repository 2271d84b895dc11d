//! People, and those that another provider has signed in.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use crate::store::calls::{Store, StoreError};
use crate::store::refresh::end_families_of;
use crate::store::revocations::{self, Revoked};
use crate::store::sql;

/// A person, or one that another provider has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Never used twice; the `sub` of tokens.
    pub id: String,
    /// What they sign in with. Unique.
    pub name: String,
    /// In PHC format; none: no password will do.
    pub password_hash: Option<String>,
    /// Their roles.
    pub roles: Vec<String>,
    /// For whom they count.
    pub tenant: Option<String>,
    /// Whether they may sign in.
    pub active: bool,
    /// One more with each change.
    pub version: i64,
    /// When they were added, in seconds since 1970.
    pub created: i64,
    /// When roles, password or `active` changed, in seconds since 1970: tokens of that second and of those
    /// before don't count. After several changes at once it may be a little in the future.
    pub changed: i64,
}

/// A user to add.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Never used twice.
    pub id: String,
    /// Unique.
    pub name: String,
    /// In PHC format.
    pub password_hash: Option<String>,
    /// Their roles.
    pub roles: Vec<String>,
    /// For whom they count.
    pub tenant: Option<String>,
}

/// What is to be different about a user; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    /// All roles that they have from now on.
    pub roles: Option<Vec<String>>,
    /// Whether they may sign in.
    pub active: Option<bool>,
    /// In PHC format.
    pub password_hash: Option<String>,
}

impl Store {
    /// Adds a user.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the id or the name is taken; [`StoreError::Unavailable`].
    pub async fn add_user(&self, user: NewUser) -> Result<User, StoreError> {
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            let added = insert(&mut transaction, user).await?;
            transaction.commit().await?;
            Ok(added)
        })
        .await
    }

    /// The user of this id, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn user(&self, id: &str) -> Result<Option<User>, StoreError> {
        let id = id.to_owned();
        self.call(move |database| async move {
            let row = sqlx::query("SELECT * FROM users WHERE id = $1").bind(id).fetch_optional(&database.pool).await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }

    /// The user of this name, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn user_named(&self, name: &str) -> Result<Option<User>, StoreError> {
        let name = name.to_owned();
        self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM users WHERE name = $1").bind(name);
            query.fetch_optional(&database.pool).await?.as_ref().map(read).transpose()
        })
        .await
    }

    /// Users in the order of their names, those after `after`, at most `count`; of one tenant, if one is
    /// named.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn users(&self, after: &str, count: u32, tenant: Option<&str>) -> Result<Vec<User>, StoreError> {
        let (after, tenant) = (after.to_owned(), tenant.map(str::to_owned));
        self.call(move |database| async move {
            let query = sqlx::query(
                "SELECT * FROM users WHERE name > $1 AND ($2 IS NULL OR tenant = $2) ORDER BY name LIMIT $3",
            );
            let rows = query.bind(after).bind(tenant).bind(i64::from(count)).fetch_all(&database.pool).await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// Changes a user. In the same moment, tokens issued so far are revoked, for `life`, the longest
    /// that one of them can still last; who may not sign in any more, or has another password, loses
    /// their refresh tokens, too. `None` if there is no such user.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn change_user(&self, id: &str, change: UserChange, life: Duration) -> Result<Option<User>, StoreError> {
        let id = id.to_owned();
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            let Some(user) = lock(&mut transaction, &id).await? else { return Ok(None) };
            let signs_out = change.active == Some(false) || change.password_hash.is_some();
            let user = update(&mut transaction, user, change).await?;
            let until = user.changed + sql::seconds(life);
            revocations::record(&mut transaction, Revoked::Subject, &user.id, user.changed, until).await?;
            if signs_out {
                end_families_of(&mut transaction, &user.id, user.changed).await?;
            }
            transaction.commit().await?;
            Ok(Some(user))
        })
        .await
    }

    /// The user that another provider has signed in: added when they first come; later, their roles and
    /// tenant are what the provider says now. One that was disabled here stays so. `life` as for
    /// [`Store::change_user`].
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the name belongs to another id; [`StoreError::Unavailable`].
    pub async fn federated_user(&self, user: NewUser, life: Duration) -> Result<User, StoreError> {
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            let known = match lock(&mut transaction, &user.id).await? {
                None => insert(&mut transaction, user).await?,
                Some(known) if known.roles == user.roles => known,
                Some(known) => {
                    let change = UserChange { roles: Some(user.roles), ..UserChange::default() };
                    let user = update(&mut transaction, known, change).await?;
                    let until = user.changed + sql::seconds(life);
                    revocations::record(&mut transaction, Revoked::Subject, &user.id, user.changed, until).await?;
                    user
                }
            };
            transaction.commit().await?;
            Ok(known)
        })
        .await
    }
}

async fn insert(transaction: &mut Transaction<'static, Any>, user: NewUser) -> Result<User, sqlx::Error> {
    let now = sql::now();
    let query = sqlx::query(
        "INSERT INTO users (id, name, password_hash, roles, tenant, active, version, created, changed)
         VALUES ($1, $2, $3, $4, $5, 1, 1, $6, $6) RETURNING *",
    );
    let query = query.bind(user.id).bind(user.name).bind(user.password_hash);
    let query = query.bind(sql::list(&user.roles)).bind(user.tenant).bind(now);
    read(&query.fetch_one(&mut **transaction).await?)
}

/// Reads a user that nobody else changes until the transaction ends: of SQLite's writers there is
/// one at a time, and in PostgreSQL the row is touched.
async fn lock(transaction: &mut Transaction<'static, Any>, id: &str) -> Result<Option<User>, sqlx::Error> {
    let query = sqlx::query("UPDATE users SET version = version WHERE id = $1 RETURNING *");
    let row = query.bind(id.to_owned()).fetch_optional(&mut **transaction).await?;
    row.as_ref().map(read).transpose()
}

async fn update(
    transaction: &mut Transaction<'static, Any>,
    user: User,
    change: UserChange,
) -> Result<User, sqlx::Error> {
    let query = sqlx::query(
        "UPDATE users SET roles = $1, active = $2, password_hash = $3, version = version + 1, changed = $4
         WHERE id = $5 RETURNING *",
    );
    let roles = change.roles.unwrap_or(user.roles);
    let active = change.active.unwrap_or(user.active);
    // Later than the last change, whatever the clock says: tokens that were issued between two changes of
    // one second bear the next one.
    let changed = sql::now().max(user.changed + 1);
    let query = query.bind(sql::list(&roles)).bind(i64::from(active));
    let query = query.bind(change.password_hash.or(user.password_hash)).bind(changed).bind(user.id);
    read(&query.fetch_one(&mut **transaction).await?)
}

fn read(row: &AnyRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        roles: sql::words(row, "roles")?,
        tenant: row.try_get("tenant")?,
        active: sql::truth(row, "active")?,
        version: row.try_get("version")?,
        created: row.try_get("created")?,
        changed: row.try_get("changed")?,
    })
}
