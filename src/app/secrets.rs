//! `moongate secrets`: values that the configuration names and nobody sees (US-016).

use std::path::Path;

use serde_json::json;

use crate::app::inspect::{columns, pretty};
use crate::app::prompt::{self, keeping, moment, with_store};
use crate::app::{Failure, Format};
use crate::config::Keeping;
use crate::secrets::{MasterKey, NAME_RULE, Vault, VaultError, is_name};

/// `moongate secrets put`: the value comes from standard input.
///
/// # Errors
/// When there is no key, it is another than before, or the store can't be reached.
pub fn put_secret(gateway: &Path, name: &str) -> Result<String, Failure> {
    let keeping = keeping(gateway)?;
    if !is_name(name) {
        return Err(Failure(format!("`{name}` is not a name for a secret: {NAME_RULE}")));
    }
    let key = key(&keeping)?;
    let value = prompt::value()?;
    in_vault(&keeping, key, |vault| async move { vault.put(name, &value).await })?;
    Ok(format!("secret `{name}` is kept; write it as secret:{name}\n"))
}

/// `moongate secrets list`: names and times, never values.
///
/// # Errors
/// When the store can't be reached.
pub fn list_secrets(gateway: &Path, format: Format) -> Result<String, Failure> {
    let entries = with_store(&keeping(gateway)?, |store| async move { store.secret_entries().await })?;
    if format == Format::Json {
        let shown =
            entries.iter().map(|it| json!({ "name": it.name, "updated": moment(it.updated), "key": it.key_id }));
        return Ok(pretty(&shown.collect()));
    }
    let mut rows = vec![["SECRET", "UPDATED", "KEY"].map(str::to_owned)];
    rows.extend(entries.into_iter().map(|it| [it.name, moment(it.updated), it.key_id]));
    Ok(columns(&rows))
}

/// `moongate secrets remove`.
///
/// # Errors
/// When there is none of this name, or the store can't be reached.
pub fn remove_secret(gateway: &Path, name: &str) -> Result<String, Failure> {
    let removed = with_store(&keeping(gateway)?, |store| async move { store.remove_secret(name).await })?;
    if removed {
        Ok(format!("secret `{name}` is gone\n"))
    } else {
        Err(Failure(format!("there is no secret `{name}`")))
    }
}

/// `moongate secrets rotate`: from the old key (a file, or `OLD_SECRET_KEY`) to the one that the
/// configuration names now; says how many secrets were sealed anew (US-016.3).
///
/// # Errors
/// When one of the keys is missing, the old one does not open a secret, or the store can't be reached.
/// Then nothing was changed.
pub fn rotate_secrets(gateway: &Path, old: Option<&Path>) -> Result<String, Failure> {
    let keeping = keeping(gateway)?;
    let new = key(&keeping)?;
    let old = match old {
        Some(path) => MasterKey::read(path),
        None => {
            let text = std::env::var("OLD_SECRET_KEY");
            MasterKey::of(
                &text.map_err(|_| Failure("no old key: set OLD_SECRET_KEY, or give --old-key-file".to_owned()))?,
            )
        }
    };
    let old = old.map_err(|it| Failure(format!("the old key: {it}")))?;
    let count = in_vault(&keeping, old, |vault| async move { vault.rotate(new).await })?;
    let secrets = if count == 1 { "secret" } else { "secrets" };
    Ok(format!("{count} {secrets} re-encrypted with the new key\n"))
}

fn key(keeping: &Keeping) -> Result<MasterKey, Failure> {
    keeping.secrets.key(std::env::var("SECRET_KEY").ok()).map_err(|it| Failure(it.to_string()))
}

fn in_vault<T: Send, F>(keeping: &Keeping, key: MasterKey, work: impl FnOnce(Vault) -> F + Send) -> Result<T, Failure>
where
    F: Future<Output = Result<T, VaultError>>,
{
    let done = keeping.with_store(|store| work(Vault::new(store, key)));
    done.map_err(Failure)?.map_err(|it| match it {
        VaultError::OtherKey { .. } => Failure(format!("{it}; to change keys: moongate secrets rotate")),
        it => Failure(it.to_string()),
    })
}
