//! What roles permit: the `roles:` section of `routes.yaml`, compiled. Callable without HTTP. A role that is not
//! there permits nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{At, Diagnostics, nearest};

use super::principal::Principal;

/// The `roles:` section: what each role permits. `notes.*` permits all that begins with `notes.`, `*` everything.
pub type RolesConfig = BTreeMap<String, Vec<String>>;

/// What roles permit, until `roles:` says something else (decision 6, US-009).
const DEFAULTS: [(&str, &[&str]); 6] = [
    ("admin", &["*"]),
    ("clinician", &["notes.*", "players.read", "safety.*"]),
    ("operator", &["metrics.read", "plugins.*", "registry.*", "sessions.*"]),
    ("player", &["chat.*", "play.*"]),
    ("service", &["events.*", "usage.write"]),
    ("user", &["chat.*"]),
];

/// What roles permit, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Roles {
    grants: BTreeMap<Arc<str>, Vec<Grant>>,
    /// Whether the operator wrote them: then a role that is not there is a mistake.
    written: bool,
    /// The roles that issuers, services and certificates give by name; `None` if that is not known.
    given: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Grant {
    All,
    /// With the dot at its end.
    Below(String),
    One(String),
}

impl Grant {
    fn parse(text: &str) -> Option<Self> {
        let plain = |it: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            !it.is_empty() && it.bytes().all(fits)
        };
        match text.strip_suffix('*') {
            Some("") => Some(Self::All),
            Some(start) if start.ends_with('.') && plain(start) => Some(Self::Below(start.to_owned())),
            Some(_) => None,
            None => plain(text).then(|| Self::One(text.to_owned())),
        }
    }

    /// What this grants that is written most like `permission`.
    fn like(&self, permission: &str) -> Option<String> {
        match self {
            Self::All => None,
            Self::One(one) => Some(one.clone()),
            Self::Below(start) => {
                let words = start.matches('.').count();
                let (at, _) = permission.match_indices('.').nth(words - 1)?;
                Some(format!("{start}{}", &permission[at + 1..]))
            }
        }
    }

    /// Whether this grants all that the other one does.
    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => false,
            (Self::Below(start), Self::Below(other)) => other.starts_with(start),
            (_, Self::Below(_)) => false,
            (_, Self::One(permission)) => self.covers(permission),
        }
    }

    fn covers(&self, permission: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(start) => permission.len() > start.len() && permission.starts_with(start),
            Self::One(one) => one == permission,
        }
    }
}

impl Default for Roles {
    fn default() -> Self {
        let grants = |list: &[&str]| list.iter().filter_map(|it| Grant::parse(it)).collect();
        let grants = DEFAULTS.iter().map(|(role, list)| ((*role).into(), grants(list))).collect();
        Self { grants, written: false, given: None }
    }
}

impl Roles {
    /// Reports what is not a permission. What is written takes the defaults' place as a whole.
    pub fn compile(config: Option<&RolesConfig>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let Some(config) = config else { return Self::default() };
        let mut grants = BTreeMap::new();
        for (role, list) in config {
            let at = at.key(role);
            if role.is_empty() || role.bytes().any(|it| !it.is_ascii_graphic() || b",\"\\".contains(&it)) {
                diagnostics
                    .error_at_key(&at, "not a name for a role")
                    .help("letters, digits and signs, without commas");
            }
            let mut granted = Vec::new();
            for (number, text) in list.iter().enumerate() {
                match Grant::parse(text) {
                    Some(grant) => granted.push(grant),
                    None => {
                        let diagnostic = diagnostics.error(&at.index(number), format!("`{text}` is not a permission"));
                        diagnostic.help("write it as notes.read, notes.* or *");
                    }
                }
            }
            grants.insert(role.as_str().into(), granted);
        }
        Self { grants, written: true, given: None }
    }

    /// Whether a principal's roles permit something.
    pub fn permit(&self, principal: &Principal, permission: &str) -> bool {
        principal.roles.iter().any(|it| self.grants(it, permission))
    }

    /// The roles that permit something: those that say so themselves first, then those that permit everything.
    pub fn permitting(&self, permission: &str) -> Vec<Arc<str>> {
        let all = |role: &&Arc<str>| self.grants[*role].contains(&Grant::All);
        let permitting = self.grants.keys().filter(|it| self.grants(it, permission));
        let (all, named): (Vec<_>, Vec<_>) = permitting.partition(all);
        named.into_iter().chain(all).cloned().collect()
    }

    fn grants(&self, role: &str, permission: &str) -> bool {
        self.grants.get(role).is_some_and(|it| it.iter().any(|it| it.covers(permission)))
    }

    /// Whether a role is none of these and permits more than they do together. One that permits nothing is there for
    /// routes that ask for it by name, so that it is beyond all that do not permit everything.
    pub fn is_beyond(&self, role: &str, own: &[Arc<str>]) -> bool {
        let own_grants = || own.iter().filter_map(|it| self.grants.get(it)).flatten();
        let covered = |it: &Grant| own_grants().any(|own| own.includes(it));
        let known = self.grants.get(role).filter(|it| !it.is_empty());
        let within = known.map_or_else(|| covered(&Grant::All), |grants| grants.iter().all(covered));
        !within && !own.iter().any(|it| **it == *role)
    }

    /// The same, with the roles that `gateway.yaml` gives by name. Where `roles` lists none, they are known, too.
    pub fn knowing(self, given: Vec<String>) -> Self {
        Self { given: Some(given), ..self }
    }

    /// Whether somebody may have this role, and if not, what was probably meant. `own`: further roles that are given
    /// where it is asked for.
    ///
    /// # Errors
    /// What to do instead.
    pub fn find(&self, role: &str, own: &[String]) -> Result<(), String> {
        let given = self.given.iter().flatten().chain(own).filter(|_| !self.written);
        let known: Vec<&str> = self.grants.keys().map(|it| &**it).chain(given.map(String::as_str)).collect();
        if known.contains(&role) {
            return Ok(());
        }
        match nearest(role, known.iter().copied()) {
            Some(near) => Err(format!("did you mean `{near}`?")),
            // Of what gives roles nothing is known: it may be one of theirs.
            None if self.given.is_none() && !self.written => Ok(()),
            None => Err(format!("known here: {}; list others under `roles` in routes.yaml", known.join(", "))),
        }
    }

    /// The role of the written list that was meant by one that is not in it.
    pub fn misspelt(&self, role: &str) -> Option<&str> {
        let known = self.grants.keys().map(|it| &**it);
        if self.written && !self.grants.contains_key(role) { nearest(role, known) } else { None }
    }

    /// Reports a role that nobody can have.
    pub fn check_role(&self, role: &str, own: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) {
        if let Err(help) = self.find(role, own) {
            diagnostics.error(at, format!("no role `{role}`")).help(help);
        }
    }

    /// Reports a permission that no role grants. A role with `*` grants whatever there is, so what it alone grants
    /// is a mistake only if it is one slip of the pen away from what another role grants.
    pub fn check_permission(&self, permission: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let named = self.grants.values().flatten().filter(|it| **it != Grant::All);
        if named.clone().any(|it| it.covers(permission)) {
            return;
        }
        let meant: Vec<String> = named.filter_map(|it| it.like(permission)).collect();
        let slip = meant.iter().any(|it| strsim::damerau_levenshtein(it, permission) == 1);
        if !slip && !self.permitting(permission).is_empty() {
            diagnostics
                .warn(at, format!("no role permits `{permission}` but those that permit everything"))
                .help("give it to a role in `roles`, or require a role with `roles: [admin]`");
            return;
        }
        let diagnostic = diagnostics.error(at, format!("no role permits `{permission}`"));
        match nearest(permission, meant.iter().map(String::as_str)) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help("give it to a role in `roles`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Kind;

    fn roles(yaml: &str) -> Roles {
        let mut diagnostics = Diagnostics::default();
        let roles = Roles::compile(Some(&serde_yaml::from_str(yaml).unwrap()), &At::ROOT, &mut diagnostics);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        roles
    }

    #[test]
    fn us_009_a_role_permits_what_it_says_and_an_unknown_one_nothing() {
        let roles = roles("{ admin: ['*'], clinician: ['notes.*', players.read], nobody: [] }");
        let permits = |role: &str, permission: &str| {
            let principal = Principal { roles: vec![role.into()], ..Principal::new(Kind::User, "ada") };
            roles.permit(&principal, permission)
        };
        assert!(permits("admin", "anything"));
        assert!(permits("clinician", "notes.read") && permits("clinician", "notes.a.b"));
        assert!(permits("clinician", "players.read"));
        for permission in ["notes", "notes.", "notesx.read", "players.write", "players.read.all"] {
            assert!(!permits("clinician", permission), "{permission}");
        }
        for role in ["nobody", "unknown", "Admin", "admin ", ""] {
            assert!(!permits(role, "notes.read"), "{role}");
        }
        assert_eq!(roles.permitting("notes.read"), ["clinician".into(), Arc::<str>::from("admin")]);
    }

    #[test]
    fn us_009_a_role_is_beyond_others_if_it_permits_more() {
        let roles = roles(
            "{ admin: ['*'], chief: ['users.*', 'notes.*'], nurse: [notes.read], auditor: ['notes.old.*'], teller: \
             [notes.read, money.count], marked: [] }",
        );
        let beyond = |own: &[&str], role: &str| {
            let own: Vec<Arc<str>> = own.iter().map(|it| Arc::from(*it)).collect();
            roles.is_beyond(role, &own)
        };
        for role in ["admin", "chief", "nurse", "auditor", "teller", "marked", "unknown"] {
            assert!(!beyond(&["admin"], role) && !beyond(&[role], role) && beyond(&[], role), "{role}");
        }
        for (role, more) in [("nurse", false), ("auditor", false), ("teller", true), ("admin", true), ("marked", true)]
        {
            assert_eq!(beyond(&["chief"], role), more, "{role}");
        }
        assert!(beyond(&["chief"], "unknown") && beyond(&["unknown"], "nurse"));
        assert!(beyond(&["nurse"], "auditor") && beyond(&["nurse"], "chief"));
    }

    #[track_caller]
    fn check(yaml: &str, permission: &str, help: Option<&str>) {
        let mut diagnostics = Diagnostics::default();
        roles(yaml).check_permission(permission, &At::ROOT, &mut diagnostics);
        assert_eq!(diagnostics.iter().next().and_then(|it| it.help.as_deref()), help, "{permission}");
    }

    #[test]
    fn a_permission_that_nobody_has_is_reported() {
        let some = "{ a: [notes.read, 'play.*'] }";
        check(some, "notes.read", None);
        check(some, "play.x", None);
        check(some, "notes.raed", Some("did you mean `notes.read`?"));
        check(some, "users.manage", Some("give it to a role in `roles`"));
        let all = "{ a: [notes.read], admin: ['*'] }";
        check(all, "users.manage", None);
        check(all, "notes.raed", Some("did you mean `notes.read`?"));
        check(all, "votes.rea", None);
        check("{ a: ['notes.*'], admin: ['*'] }", "nots.read", Some("did you mean `notes.read`?"));
    }

    #[test]
    fn a_role_that_nobody_can_have_is_found_out_with_and_without_a_list() {
        let find = |roles: &Roles, role: &str| roles.find(role, &["biller".to_owned()]).err();
        let written = roles("{ nurse: [] }");
        assert_eq!(find(&written, "nurse"), None);
        assert_eq!(find(&written, "nurze").as_deref(), Some("did you mean `nurse`?"));
        assert!(find(&written, "admin").is_some() && find(&written, "biller").is_some());
        let unwritten = Roles::default();
        assert_eq!(find(&unwritten, "amdin").as_deref(), Some("did you mean `admin`?"));
        assert_eq!((find(&unwritten, "admin"), find(&unwritten, "biller")), (None, None));
        assert_eq!(find(&unwritten, "guest"), None, "an issuer may give it");
        let knowing = Roles::default().knowing(vec!["guest".to_owned()]);
        assert_eq!(find(&knowing, "guest"), None);
        assert_eq!(find(&knowing, "gest").as_deref(), Some("did you mean `guest`?"));
        assert!(find(&knowing, "wizard").is_some());
    }

    #[test]
    fn what_is_no_permission_and_no_role_is_reported() {
        let mut diagnostics = Diagnostics::default();
        let config = serde_yaml::from_str("{ 'a,b': ['no*', 'a b', '', '.*', 'ok.*'], c: [] }").unwrap();
        let roles = Roles::compile(Some(&config), &At::ROOT, &mut diagnostics);
        roles.check_role("d", &[], &At::ROOT.key("x"), &mut diagnostics);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/a,b", "/a,b/0", "/a,b/1", "/a,b/2", "/x"], "{diagnostics:#?}");
    }
}
