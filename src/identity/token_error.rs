//! Why a credential is not valid: a closed list, for the client's error, the log and the metrics.

/// Why a credential is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is longer than a token may be.
    TooLong,
    /// It is not three parts with dots between.
    NotThreeParts,
    /// A part is not base64url in its one canonical form.
    NotCanonical,
    /// A part is not a JSON object.
    NotJson,
    /// A member is there twice: two readers could take two tokens from it.
    Duplicate,
    /// `kid` or `iss` is not a text, or too long.
    Malformed,
    /// `sub` is missing, or is no name.
    MalformedSubject,
    /// `exp`, `nbf` or `iat` is not a number of seconds.
    MalformedTime,
    /// `aud` is neither a text nor a list.
    MalformedAudience,
    /// Roles or scopes are no list of words, or too many.
    MalformedWords,
    /// The tenant, `jti` or `sid` is no name.
    MalformedName,
    /// The algorithm is none, unknown, or not the one of the key.
    Algorithm,
    /// It brings its own key, or says where to fetch it.
    OwnKey,
    /// It demands something that is not known here.
    Critical,
    /// It is a token for something else.
    Type,
    /// Nobody that is trusted here signed it.
    Issuer,
    /// The issuer has no such key.
    Key,
    /// The signature is not the key's.
    Signature,
    /// It does not say when it ends.
    Endless,
    /// It has ended.
    Expired,
    /// It is not valid yet, or made in the future.
    Early,
    /// It is for somebody else.
    Audience,
    /// It was taken back.
    Revoked,
    /// Its issuer is not one that counts here.
    Untrusted,
    /// It is not a service's, and only those count here.
    NotAService,
    /// The API key is not known, was revoked, or has ended.
    ApiKey,
    /// The client certificate has ended, or names nobody that counts here.
    Certificate,
    /// There is no account, or none that is active.
    Account,
}

/// In the order of their declaration. One word for several: programs tell them apart by nothing, people do.
const WORDS: [(&str, &str); 28] = [
    ("too_long", "the token is too long"),
    ("not_three_parts", "the token is not three parts with dots between"),
    ("not_canonical", "a part of the token is not canonical base64url"),
    ("not_json", "a part of the token is not a JSON object"),
    ("duplicate", "the token has a member twice"),
    ("malformed", "the token's kid or iss is not a text, or is too long"),
    ("malformed", "the token does not say whom it is about: sub is missing, or is not a name"),
    ("malformed", "a time in the token, exp, nbf or iat, is not a number of seconds"),
    ("malformed", "the token's aud is neither a text nor a list"),
    ("malformed", "the token's roles or scopes are not a list of words, or are too many"),
    ("malformed", "the token's tenant, jti or sid is not a name"),
    ("algorithm", "the token's algorithm is not the one of its key"),
    ("own_key", "the token brings its own key"),
    ("critical", "the token demands an extension that is not known here"),
    ("type", "the token is of another type"),
    ("issuer", "the token's issuer is not trusted"),
    ("key", "the token's key is not known"),
    ("signature", "the token's signature is wrong"),
    ("endless", "the token does not say when it ends"),
    ("expired", "the token has expired"),
    ("early", "the token is not valid yet"),
    ("audience", "the token is for another audience"),
    ("revoked", "the token has been revoked"),
    ("untrusted", "the token's issuer does not count here"),
    ("not_a_service", "the token is not a service's"),
    ("api_key", "the API key is not known or does not count any more"),
    ("certificate", "the client certificate does not count here"),
    ("account", "the account is not there or not active"),
];

impl TokenError {
    /// How many there are.
    pub(super) const COUNT: usize = WORDS.len();

    /// All the words, in order.
    pub(super) fn all_words() -> [&'static str; Self::COUNT] {
        WORDS.map(|(word, _)| word)
    }

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        WORDS[self as usize].0
    }

    /// The reason that clients receive: printable ASCII without quotes (RFC 6750, section 3).
    pub const fn reason(self) -> &'static str {
        WORDS[self as usize].1
    }
}

/// Why authentication fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It is not valid.
    Invalid(TokenError),
    /// Whether it is valid can't be known now: keys or records can't be reached. Nobody gets in on that.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_own_words() {
        assert_eq!(TokenError::Account as usize + 1, TokenError::COUNT);
        assert_eq!((TokenError::Endless.as_str(), TokenError::Audience.as_str()), ("endless", "audience"));
        assert!(WORDS.iter().all(|(_, reason)| !reason.contains(['"', '\\'])));
    }
}
