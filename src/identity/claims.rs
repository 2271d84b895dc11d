//! What our own tokens say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The claims of a token that the gateway signs (RFC 7519; decision 5). Made by
/// [`Keys::claims`](super::Keys::claims), which fills in what is the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed it.
    pub iss: String,
    /// Whom it is for.
    pub aud: Vec<String>,
    /// Who its bearer is.
    pub sub: String,
    /// For whom its bearer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The bearer's roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What it is limited to, words with blanks between; empty: not limited.
    #[serde(default)]
    pub scope: String,
    /// Names the token. Never used twice.
    pub jti: String,
    /// Names the sign-in that it comes from: the family of the refresh tokens beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// When it was signed, in seconds since 1970.
    pub iat: u64,
    /// From when on it is valid, in seconds since 1970.
    pub nbf: u64,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
}

impl Claims {
    /// Lets it end `life` after it was signed.
    pub fn ending_after(mut self, life: Duration) -> Self {
        self.exp = self.iat + life.as_secs();
        self
    }
}
