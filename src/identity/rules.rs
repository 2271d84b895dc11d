//! What the claims of a token have to say, once its signature is known to be good (RFC 7519, section 4.1).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::identity_token::IdentityToken;
use super::principal::{Kind, Principal, Validity};
use super::token_error::TokenError;

/// The longest name of a subject, tenant or token, in bytes.
const NAME_MAX: usize = 256;
/// So many roles, and so many scopes, at most.
const WORDS_MAX: usize = 64;

/// What counts in the tokens of one issuer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub(super) issuer: Arc<str>,
    pub(super) audience: Vec<String>,
    /// Whether a token for nobody in particular is refused.
    pub(super) audience_needed: bool,
    /// How far clocks may differ, in seconds.
    pub(super) leeway: u64,
    pub(super) roles_claim: String,
    pub(super) tenant_claim: String,
    /// The only roles that count; `None`: all.
    pub(super) roles: Option<Vec<String>>,
    /// For whom all of them count, whatever they say.
    pub(super) tenant: Option<Arc<str>>,
    pub(super) subject_prefix: String,
    /// Whether it is this gateway itself: nobody else makes services.
    pub(super) own: bool,
}

/// The role whose bearer is a service.
const SERVICE: &str = "service";

/// What the claims say.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) principal: Principal,
    /// When it was made, in seconds since 1970; 0 if it does not say so.
    pub(super) issued: u64,
    /// When it ends, the leeway included, in seconds since 1970.
    pub(super) ends: u64,
}

impl Rules {
    /// `now` is in seconds since 1970. The issuer has been found by the caller.
    pub(super) fn check(&self, claims: &Map<String, Value>, now: u64) -> Result<Accepted, TokenError> {
        let ends = time(claims, "exp")?.ok_or(TokenError::Endless)?.saturating_add(self.leeway);
        if now >= ends {
            return Err(TokenError::Expired);
        }
        let issued = time(claims, "iat")?;
        // One second more: what was signed within a second of ours may have the next one.
        let early = now + self.leeway.max(1);
        if time(claims, "nbf")?.is_some_and(|it| it > early) || issued.is_some_and(|it| it > early) {
            return Err(TokenError::Early);
        }
        self.check_audience(claims.get("aud"))?;
        let issued = issued.unwrap_or(0);
        let validity = Validity { issued, ends: Some(ends), own_token: self.own };
        Ok(Accepted { principal: Principal { validity, ..self.principal(claims)? }, issued, ends })
    }

    fn check_audience(&self, aud: Option<&Value>) -> Result<(), TokenError> {
        let ours = |it: &Value| it.as_str().is_some_and(|it| self.audience.iter().any(|ours| ours == it));
        let meant = match aud {
            None => !self.audience_needed,
            Some(Value::String(_)) => aud.is_some_and(ours),
            Some(Value::Array(list)) => list.iter().any(ours),
            Some(_) => return Err(TokenError::MalformedAudience),
        };
        if meant { Ok(()) } else { Err(TokenError::Audience) }
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, TokenError> {
        let subject = claims.get("sub").and_then(|it| plain(it).ok()).ok_or(TokenError::MalformedSubject)?;
        let mut roles = words(find(claims, &self.roles_claim))?;
        if let Some(counting) = &self.roles {
            roles.retain(|it| counting.iter().any(|role| **role == **it));
        }
        let scope = claims.get("scope").or_else(|| claims.get("scp"));
        let scopes = match scope {
            Some(Value::String(list)) => separate(list.split(' '))?,
            other => words(other)?,
        };
        let tenant = match &self.tenant {
            Some(tenant) => Some(tenant.clone()),
            None => find(claims, &self.tenant_claim).map(plain).transpose()?.map(Arc::from),
        };
        let service = self.own && roles.iter().any(|it| &**it == SERVICE);
        Ok(Principal {
            kind: if service { Kind::Service } else { Kind::User },
            subject: if self.subject_prefix.is_empty() {
                subject.into()
            } else {
                format!("{}{subject}", self.subject_prefix).into()
            },
            issuer: Some(self.issuer.clone()),
            tenant,
            tenant_issuer: (!self.own && self.tenant.is_none()).then(|| self.issuer.clone()),
            roles,
            scopes,
            credential: name(claims, "jti")?.map(Arc::from),
            session: name(claims, "sid")?.map(Arc::from),
            validity: Validity::default(),
            identity_token: IdentityToken::default(),
        })
    }
}

/// A claim by its name, or by a JSON pointer where issuers put roles deeper: `/realm_access/roles`.
fn find<'c>(claims: &'c Map<String, Value>, claim: &str) -> Option<&'c Value> {
    let mut steps = claim.strip_prefix('/').map(|it| it.split('/'));
    let Some(steps) = &mut steps else { return claims.get(claim) };
    let unescape = |it: &str| it.replace("~1", "/").replace("~0", "~");
    let first = claims.get(&unescape(steps.next()?))?;
    steps.try_fold(first, |value, step| value.get(unescape(step)))
}

/// A moment in seconds since 1970; fractions are allowed and cut off (RFC 7519, section 2).
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds));
    }
    let seconds = value.as_f64().filter(|it| (0.0..=2f64.powi(53)).contains(it)).ok_or(TokenError::MalformedTime)?;
    Ok(Some(seconds as u64))
}

fn name<'c>(claims: &'c Map<String, Value>, claim: &str) -> Result<Option<&'c str>, TokenError> {
    claims.get(claim).map(plain).transpose()
}

/// A name that can stand in a log line, in a key of the state and in a header field.
fn plain(value: &Value) -> Result<&str, TokenError> {
    let name = value.as_str().ok_or(TokenError::MalformedName)?;
    let sound = !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control);
    if sound { Ok(name) } else { Err(TokenError::MalformedName) }
}

/// A list of words, or a single one.
fn words(value: Option<&Value>) -> Result<Vec<Arc<str>>, TokenError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(word)) => separate(std::iter::once(word.as_str())),
        Some(Value::Array(list)) => {
            let words: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            separate(words.ok_or(TokenError::MalformedWords)?.into_iter())
        }
        Some(_) => Err(TokenError::MalformedWords),
    }
}

/// Words that could be taken for two in a list, or could not stand in a header field, are no words of ours:
/// nothing is permitted to them anyway.
fn separate<'w>(words: impl Iterator<Item = &'w str>) -> Result<Vec<Arc<str>>, TokenError> {
    let mut list: Vec<Arc<str>> = Vec::new();
    let sound = |it: &&str| {
        let printable = it.bytes().all(|byte| byte.is_ascii_graphic() && !b",\"\\".contains(&byte));
        !it.is_empty() && it.len() <= NAME_MAX && printable
    };
    for word in words.filter(sound) {
        if list.len() == WORDS_MAX {
            return Err(TokenError::MalformedWords);
        }
        if !list.iter().any(|it| **it == *word) {
            list.push(word.into());
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        Rules {
            issuer: "clinic".into(),
            audience: vec!["tta".to_owned()],
            audience_needed: true,
            leeway: 30,
            roles_claim: "roles".to_owned(),
            tenant_claim: "tenant".to_owned(),
            roles: None,
            tenant: None,
            subject_prefix: String::new(),
            own: true,
        }
    }

    const NOW: u64 = 1_000_000;

    /// The outcome for sound claims with these changes; `null` takes a claim away.
    fn outcome(rules: &Rules, changes: Value) -> Result<Accepted, TokenError> {
        let mut claims = json!({ "sub": "ada", "aud": "tta", "exp": NOW + 100, "iat": NOW, "nbf": NOW });
        let members = claims.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            members.insert(name.clone(), value.clone());
        }
        members.retain(|_, it| !it.is_null());
        rules.check(members, NOW)
    }

    #[track_caller]
    fn check(changes: Value, error: Option<TokenError>) {
        assert_eq!(outcome(&rules(), changes.clone()).err(), error, "{changes}");
    }

    #[test]
    fn r4_2_times_are_checked_with_little_leeway() {
        check(json!({}), None);
        check(json!({ "exp": NOW - 29 }), None);
        check(json!({ "exp": NOW - 30 }), Some(TokenError::Expired));
        check(json!({ "exp": NOW as f64 - 29.5 }), Some(TokenError::Expired));
        check(json!({ "exp": null }), Some(TokenError::Endless));
        check(json!({ "exp": "1e9" }), Some(TokenError::MalformedTime));
        check(json!({ "exp": -1 }), Some(TokenError::MalformedTime));
        check(json!({ "exp": 1e300 }), Some(TokenError::MalformedTime));
        check(json!({ "exp": u64::MAX }), None);
        check(json!({ "nbf": NOW + 30 }), None);
        check(json!({ "nbf": NOW + 31 }), Some(TokenError::Early));
        check(json!({ "iat": NOW + 31 }), Some(TokenError::Early));
        check(json!({ "iat": null, "nbf": null }), None);
    }

    #[test]
    fn r4_2_a_token_is_for_us_and_somebodys() {
        check(json!({ "aud": ["other", "tta"] }), None);
        check(json!({ "aud": ["other"] }), Some(TokenError::Audience));
        check(json!({ "aud": [] }), Some(TokenError::Audience));
        check(json!({ "aud": null }), Some(TokenError::Audience));
        check(json!({ "aud": {"tta": 1} }), Some(TokenError::MalformedAudience));
        check(json!({ "sub": null }), Some(TokenError::MalformedSubject));
        check(json!({ "sub": "" }), Some(TokenError::MalformedSubject));
        check(json!({ "sub": "ada\r\nx: y" }), Some(TokenError::MalformedSubject));
        check(json!({ "sub": "a".repeat(257) }), Some(TokenError::MalformedSubject));
        check(json!({ "tenant": ["a"] }), Some(TokenError::MalformedName));
        let lax = Rules { audience_needed: false, ..rules() };
        assert!(outcome(&lax, json!({ "aud": null })).is_ok());
        assert_eq!(outcome(&lax, json!({ "aud": "other" })).err(), Some(TokenError::Audience));
    }

    #[test]
    fn r4_4_roles_are_what_the_issuer_may_give() {
        let roles = |rules: &Rules, changes: Value| -> Vec<String> {
            let accepted = outcome(rules, changes).unwrap();
            accepted.principal.roles.iter().map(|it| it.to_string()).collect()
        };
        assert_eq!(roles(&rules(), json!({ "roles": ["a", "b", "a"] })), ["a", "b"]);
        assert_eq!(roles(&rules(), json!({ "roles": "a" })), ["a"]);
        // `user,admin` in a list would be two.
        assert_eq!(roles(&rules(), json!({ "roles": ["user,admin", "a b", "", "ok"] })), ["ok"]);
        let deep = Rules { roles_claim: "/realm_access/roles".to_owned(), ..rules() };
        assert_eq!(roles(&deep, json!({ "realm_access": { "roles": ["x"] } })), ["x"]);
        let named = Rules { roles_claim: "https://example.org/roles".to_owned(), ..rules() };
        assert_eq!(roles(&named, json!({ "https://example.org/roles": ["x"] })), ["x"]);
        let few = Rules { roles: Some(vec!["clinician".to_owned()]), ..rules() };
        assert_eq!(roles(&few, json!({ "roles": ["admin", "clinician"] })), ["clinician"]);
        check(json!({ "roles": [1] }), Some(TokenError::MalformedWords));
        check(json!({ "roles": { "admin": true } }), Some(TokenError::MalformedWords));
        check(
            json!({ "roles": (0..65).map(|it| it.to_string()).collect::<Vec<_>>() }),
            Some(TokenError::MalformedWords),
        );
    }

    #[test]
    fn r7_2_nobody_else_makes_services() {
        let kind = |own: bool| {
            let rules = Rules { own, ..rules() };
            outcome(&rules, json!({ "roles": ["service"] })).unwrap().principal.kind
        };
        assert_eq!((kind(true), kind(false)), (Kind::Service, Kind::User));
    }
}
