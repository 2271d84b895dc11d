//! Text that must not be seen.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::redact::REDACTED;

/// Shorter words are not looked for: they would be found in any text.
const WORD_MIN: usize = 3;

/// A secret. It can't be printed, and it is serialized as `_REDACTED_` (S2S-29).
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A text about the secret without any word of it. What is left may be little, but it can be shown.
    pub fn out_of(&self, text: &str) -> String {
        let secret = self.0.to_lowercase();
        let hidden = |word: &str| {
            let bare = word.trim_matches(|it: char| !it.is_alphanumeric()).to_lowercase();
            bare.len() >= WORD_MIN && secret.contains(&bare)
        };
        let words = text.split(' ').map(|word| if hidden(word) { "..." } else { word });
        words.collect::<Vec<_>>().join(" ")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    /// `writeOnly` says to the yaml room that `secret:NAME` may stand here, and that what stands here is not shown.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}
