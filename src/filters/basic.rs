//! Callers who show a name and a password (RFC 7617), checked against a file of the operator's.
//!
//! For what people open by hand: an inner page, a dashboard. Passwords are hashed elsewhere than on the threads that
//! serve, a bounded number at once; what was right once is known by a digest, so that a page with a hundred pictures
//! costs one hash. Wrong ones are 401, and are counted by the guard as all errors of a client are.

mod htpasswd;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap};
use once_cell::sync::Lazy;
use prometheus::{IntCounter, IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::htpasswd::{Users, matches};
use super::auth::{Auth, identity_fields};
use super::settings::{Activation, BuiltIn, Layer};
use crate::base::{At, Diagnostics, Turns};
use crate::identity::{Identity, Kind, Principal};
use crate::pipeline::{Filter, Refusal, RequestContext, Scope, Step};

/// So many may wait for their password to be checked; later ones get 503 at once.
const WAITING_MAX: usize = 64;
/// So many right passwords are known by their digest.
const KNOWN_MAX: usize = 4_096;
/// The longest pair of name and password that is looked at, in bytes.
const PAIR_MAX: usize = 1_024;
/// What a wrong credential is called, whatever is wrong with it: nobody learns which names there are.
const WRONG: (&str, &str) = ("wrong_credentials", "there is no such name with this password");
const ONCE: &str = "the name is registered once";

static CHECKS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Names with passwords that were looked at, by result: known (from its digest), right, wrong, busy";
    register_int_counter_vec!("moongate_basic_auth_total", help, &["result"]).expect(ONCE)
});
static KNOWN_NOW: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Right passwords that are known by their digest; at most 4096";
    register_int_gauge!("moongate_basic_auth_known", help).expect(ONCE)
});
static CHECKER: Lazy<Checker> = Lazy::new(Checker::new);

/// Who may call with a name and a password.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicConfig {
    /// What browsers call the place that the password is for.
    pub realm: String,
    /// A file with a `name:hash` in each line, as `htpasswd -B` writes it: bcrypt (`$2y$`, `$2b$`, `$2a$`) or Argon2
    /// (`$argon2id$`). A change of it takes effect as one of routes.yaml does.
    pub users: PathBuf,
    /// Whether the upstream gets the password, too. Default false: it learns the name, as of every caller.
    #[serde(default)]
    pub forward: bool,
}

/// Compiled.
pub struct Basic {
    users: Arc<Users>,
    file: PathBuf,
    challenge: String,
    issuer: Arc<str>,
    forward: bool,
    identity: Option<Arc<Identity>>,
}

impl Filter for Basic {
    const NAME: &'static str = "basic";
    const SUMMARY: &'static str = "Asks for a name and a password, and checks them against a file.";
    type Config = BasicConfig;

    /// Reads the file. Reports every line that is none, and a realm that can't be sent.
    fn compile(config: &BasicConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let BasicConfig { realm, users: file, forward } = config;
        let plain = |it: char| (' '..='~').contains(&it) && !['"', '\\'].contains(&it);
        if realm.is_empty() || !realm.chars().all(plain) {
            diagnostics
                .error(&at.key("realm"), "not a name for a realm")
                .help("letters, digits, blanks and plain signs");
        }
        let users = Users::read(file, &at.key("users"), diagnostics)?;
        Some(Self {
            users: Arc::new(users),
            file: file.clone(),
            challenge: format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
            issuer: format!("basic:{realm}").into(),
            forward: *forward,
            identity: None,
        })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let Some(identity) = &self.identity else { return Err(Refusal::IdentityUnavailable.into()) };
        let exchange = &mut *context.exchange;
        let (name, password) = match credential(&context.request.headers)? {
            Some(pair) => pair.ok_or_else(|| self.unauthorized(Some(WRONG)))?,
            None => return Err(self.unauthorized(None).into()),
        };
        if !CHECKER.is_right(&self.users, &name, password, exchange.client_ip).await? {
            return Err(self.unauthorized(Some(WRONG)).into());
        }
        let principal = Principal { issuer: Some(self.issuer.clone()), ..Principal::new(Kind::Basic, name) };
        let fields = identity.identity_headers(&principal, |token| identity_fields(&principal, token));
        exchange.identity_headers = Some(fields);
        exchange.principal = Some(Arc::new(principal));
        exchange.verified_field = Some(AUTHORIZATION);
        if !self.forward {
            context.request.remove_header(&AUTHORIZATION);
        }
        Ok(())
    }
}

impl BuiltIn for Basic {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a BasicConfig> {
        layer.settings.basic.as_ref()
    }

    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let Some(layer) = layers.iter().rfind(|it| Self::block(it).is_some()) else { return };
        let auth = Auth::settings(layers, scope).filter(|it| !it.open);
        if auth.is_some() {
            diagnostics
                .error(&layer.at.key(Self::NAME), "the route has `auth`, too: nobody can show both in one request")
                .help("write `auth: { open: true }` beside `basic`, or leave one of them out");
        }
    }

    fn activate(&mut self, activation: &Activation<'_>) {
        self.identity = Some(activation.identity.clone());
    }
}

impl Basic {
    /// So many right passwords are known by their digest.
    pub const KNOWN_MAX: usize = KNOWN_MAX;

    /// The file that was read.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn unauthorized(&self, why: Option<(&'static str, &'static str)>) -> Refusal {
        let accepted = "send a name and a password as `Authorization: Basic ...`".into();
        Refusal::Unauthorized { challenge: self.challenge.clone(), why, accepted }
    }
}

/// Name and password; `None` if nothing of the kind is there, `Some(None)` if it can't be read.
fn credential(fields: &HeaderMap) -> Result<Option<Option<(String, String)>>, Refusal> {
    let mut lines = fields.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::AmbiguousCredentials("Authorization is there twice"));
    }
    let Some((scheme, rest)) = line.to_str().ok().and_then(|it| it.split_once(' ')) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let pair = STANDARD.decode(rest.trim()).ok().filter(|it| it.len() <= PAIR_MAX);
    let pair = pair.and_then(|it| String::from_utf8(it).ok());
    Ok(Some(pair.and_then(|it| it.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned())))))
}

/// Checks passwords, for the whole process: what it takes has one bound, whatever the number of routes.
struct Checker {
    /// One at once for each core, so that other work goes on.
    turns: Turns,
    /// By a digest under a key of this process alone, of name, password and hash: a changed file knows nobody.
    known: Cache<[u8; 32], ()>,
    key: hmac::Key,
    results: Results,
}

/// What became of them.
struct Results {
    known: IntCounter,
    right: IntCounter,
    wrong: IntCounter,
    busy: IntCounter,
}

impl Checker {
    fn new() -> Self {
        let mut secret = [0; 32];
        rand::fill(&mut secret).expect("the system has randomness");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let [known, right, wrong, busy] = ["known", "right", "wrong", "busy"].map(|it| CHECKS.with_label_values(&[it]));
        let results = Results { known, right, wrong, busy };
        Self { turns: Turns::new(cores, WAITING_MAX), known: Cache::new(KNOWN_MAX), key, results }
    }

    /// Takes as long for a name that nobody has, so that nobody learns which there are.
    async fn is_right(
        &self,
        users: &Arc<Users>,
        name: &str,
        password: String,
        client: IpAddr,
    ) -> Result<bool, Refusal> {
        let (hash, exists) = users.hash_of(name);
        let digest = self.digest([name, &password, &hash]);
        if exists && self.known.get(&digest).is_some() {
            self.results.known.inc();
            return Ok(true);
        }
        let work = self.turns.run(client, move || matches(&password, &hash));
        let Ok(same) = Box::pin(work).await else {
            self.results.busy.inc();
            return Err(Refusal::IdentityUnavailable);
        };
        let right = same && exists;
        if !right {
            self.results.wrong.inc();
        } else {
            self.results.right.inc();
            self.known.insert(digest, ());
            KNOWN_NOW.set(self.known.len() as i64);
        }
        Ok(right)
    }

    fn digest(&self, parts: [&str; 3]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Result<Option<Option<(String, String)>>, Refusal> {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(AUTHORIZATION, line.parse().unwrap());
        }
        credential(&fields)
    }

    #[test]
    fn rfc_7617_a_name_ends_at_the_first_colon_and_a_password_may_have_more() {
        let pair = |name: &str, password: &str| Ok(Some(Some((name.to_owned(), password.to_owned()))));
        assert_eq!(of(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        assert_eq!(of(&["basic  YTpiOmM="]), pair("a", "b:c"));
        assert_eq!(of(&["Basic dGVzdDoxMjPCow=="]), pair("test", "123£"));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["Bearer YTpi"]), Ok(None));
        for unreadable in ["Basic YWI=", "Basic ???", "Basic /w==", "Basic "] {
            assert_eq!(of(&[unreadable]), Ok(Some(None)), "{unreadable}");
        }
        assert!(of(&["Basic YTpi", "Basic YTpj"]).is_err());
    }
}
