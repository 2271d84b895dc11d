//! `secret:NAME` in the place of a secret: the value comes from the store (US-016).
//!
//! Which values are meant is for the yaml room; what they are is found out here.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{At, Diagnostics, Secret, nearest};
use crate::config::gateway_file::GatewayFile;
use crate::secrets::{SecretsConfig, Vault};
use crate::store::{Place, Store};
use crate::yaml::{Document, Faults, MARK, schema_of};

/// The sections that say where secrets are: they can't be among them.
const SECTIONS: [&str; 2] = ["/store", "/secrets"];

/// What gateway.yaml says about the things that are kept, whatever else is wrong with it.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// Where records that last are kept.
    pub store: Place,
    /// Where the key to the secrets comes from.
    pub secrets: SecretsConfig,
    /// How long access tokens live.
    pub access_life: Duration,
    /// The roles that it gives by name.
    pub given_roles: Vec<String>,
}

impl Keeping {
    /// Reads the sections `store` and `secrets`.
    ///
    /// # Errors
    /// The faults of these sections, or of a file that can't be read at all.
    pub fn read(gateway: &Path) -> Result<Self, Faults> {
        let mut document = Document::read(gateway, &schema_of::<GatewayFile>(), &super::active::environment)?;
        let mut diagnostics = Diagnostics::default();
        let file: GatewayFile = document.load(&mut diagnostics).unwrap_or_default();
        let store = Place::compile(file.store.as_ref(), &At::ROOT.key("store"), &mut diagnostics);
        let faults = document.place(&diagnostics).within(&SECTIONS);
        if !faults.is_empty() {
            return Err(faults);
        }
        let access_life = file.tokens.access_life.map_or(Duration::from_secs(300), |it| it.0);
        let given_roles = file.given_roles();
        Ok(Self { store, secrets: file.secrets, access_life, given_roles })
    }

    /// Opens the store for one piece of work, on threads of its own: nothing else needs to run.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn with_store<T: Send, F>(&self, work: impl FnOnce(Store) -> F + Send) -> Result<T, String>
    where
        F: Future<Output = T>,
    {
        let run = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.map_err(|error| format!("no thread can be started: {error}"))?;
            let store = Store::new(self.store.clone(), runtime.handle().clone());
            let done = runtime.block_on(work(store));
            runtime.shutdown_background();
            Ok(done)
        };
        // The caller may be inside another runtime, which must not be blocked from within.
        std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|_| Err("the work broke off".to_owned())))
    }
}

/// The values of all secrets, read when the first one is needed.
pub(super) struct SecretValues {
    gateway: PathBuf,
    values: OnceCell<Result<BTreeMap<String, Secret>, String>>,
}

impl SecretValues {
    /// Those of the store that this gateway.yaml names.
    pub(super) fn of(gateway: &Path) -> Self {
        Self { gateway: gateway.to_owned(), values: OnceCell::new() }
    }

    /// The value, or why it can't be had and what to do.
    pub(super) fn value(&self, path: &str, name: &str) -> Result<String, (String, Option<String>)> {
        if SECTIONS.iter().any(|it| path.starts_with(it)) {
            let help = "write \"${NAME}\" and bring it in from the environment";
            return Err(("what opens the store can't be kept in it".to_owned(), Some(help.to_owned())));
        }
        let values = self.values.get_or_init(|| read(&self.gateway));
        let values = values.as_ref().map_err(|why| (format!("the secret `{name}` can't be had: {why}"), None))?;
        if let Some(value) = values.get(name) {
            return Ok(value.expose().to_owned());
        }
        let help = match nearest(name, values.keys().map(String::as_str)) {
            Some(known) => format!("did you mean `{MARK}{known}`?"),
            None => format!("keep it first: moongate secrets put {name}"),
        };
        Err((format!("there is no secret `{name}`"), Some(help)))
    }
}

fn read(gateway: &Path) -> Result<BTreeMap<String, Secret>, String> {
    // Its faults are reported where they are.
    let keeping = Keeping::read(gateway).map_err(|_| "gateway.yaml does not say where it is".to_owned())?;
    // To look for something must not leave a database behind.
    if matches!(&keeping.store, Place::Sqlite(path) if !path.exists()) {
        return Ok(BTreeMap::new());
    }
    let key = keeping.secrets.key(std::env::var("SECRET_KEY").ok()).map_err(|error| error.to_string())?;
    let values = keeping.with_store(|store| async move { Vault::new(store, key).reveal_all().await });
    values?.map_err(|error| error.to_string())
}
