//! Which values are names of secrets.
//!
//! Only where the schema says that a secret stands: the same words elsewhere, in the body of a response
//! for instance, are just words.

use serde_json::Value;

use super::structure::schemas_at;

/// Begins a value that is the name of a secret.
pub const MARK: &str = "secret:";

/// Gives the secret at a path, by its name; or says why it can't be had, and what to do.
pub type Secrets<'a> = dyn Fn(&str, &str) -> Result<String, (String, Option<String>)> + 'a;

/// The name of the secret that a value stands for: the text must be marked, and its place one for a secret.
pub(super) struct Places<'s> {
    schema: &'s Value,
}

impl<'s> Places<'s> {
    pub(super) fn of(schema: &'s Value) -> Self {
        Self { schema }
    }

    pub(super) fn secret_named<'t>(&self, path: &str, text: &'t str) -> Option<&'t str> {
        let name = text.strip_prefix(MARK)?;
        let is_secret = |it: &&Value| it.get("writeOnly") == Some(&Value::Bool(true));
        schemas_at(self.schema, path).iter().any(is_secret).then_some(name)
    }
}
