//! The `auth:` section of a route, as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::CertificateConfig;

/// Who may call. Any one of the credentials that are listed will do; of roles, any one; of permissions and scopes,
/// all. A route's own section takes the place of its policies' as a whole.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "jwt": {} }]))]
pub struct AuthConfig {
    /// Everybody may call, and no credential is looked at: for a route whose policies require one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Tokens: `{}` for our own and those of every trusted issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
    /// API keys, in `X-API-Key` or as a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyConfig>,
    /// Our own tokens with the role `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_token: Option<ServiceTokenConfig>,
    /// Client certificates. The listener says which authorities count (`tls.client_ca`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<CertificateConfig>,
    /// Roles, of which the caller needs one, the least of them first: that one is named when a caller has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub roles: Vec<String>,
    /// Permissions, all of which the caller's roles have to grant (`roles` says which role grants what).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub permissions: Vec<String>,
    /// Scopes, all of which the credential has to have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub scopes: Vec<String>,
    /// Whether a request without a credential passes, too. One with a bad credential does not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Where tokens are looked for: `header` (`Authorization: Bearer`), `{ cookie: name }`, `{ query: name }`. The
    /// last two are for browsers, which can't send the header with a WebSocket handshake or an event stream. Default
    /// `[header]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<SourceConfig>>,
    /// Whose word counts for the roles of our own users: the token's, which is as old as the token, or the account's
    /// in the store. Default `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles_from: Option<RolesFrom>,
    /// Whether the upstream gets the credential, too. Default true; one in the query it never gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
}

/// Tokens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// The only issuers that count, by their names in `tokens.trust`; `own` for ourselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<Vec<String>>,
}

/// API keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeyConfig {}

/// Tokens of services.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTokenConfig {}

/// Where tokens are looked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum SourceConfig {
    /// In `Authorization`.
    Header(HeaderWord),
    /// In a cookie. A page of another origin can't use it for more than reading.
    Cookie(CookieConfig),
    /// In the query. It is taken out of what is forwarded.
    Query(QueryConfig),
}

/// The word `header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeaderWord {
    /// In `Authorization`.
    Header,
}

/// A cookie.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CookieConfig {
    /// Its name.
    pub cookie: String,
}

/// A parameter of the query.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// Its name.
    pub query: String,
}

/// Whose word counts for roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolesFrom {
    /// The token's.
    Token,
    /// The account's.
    Account,
}
