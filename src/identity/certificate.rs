//! Client certificates as credentials (R7.2). The listener has verified the chain; here is whom it names.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::base::{At, Diagnostics};

use super::principal::{Kind, Principal, Validity};
use super::token_error::TokenError;

/// The longest name of a certificate, in bytes.
const NAME_MAX: usize = 256;

/// The `mtls:` section of `auth`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateConfig {
    /// Names that count, as the certificate has them in its subject alternative names: URIs such as
    /// `spiffe://tta/billing` or `spiffe://tta/*`, DNS names such as `billing.tta` or `*.tta`, mail addresses.
    /// Without it, every certificate that the listener lets in.
    pub names: Option<Vec<String>>,
    /// Roles of its bearer. Default `[service]`.
    pub roles: Option<Vec<String>>,
    /// The tenant that its bearer counts for.
    pub tenant: Option<String>,
}

/// Whom certificates stand for, compiled.
#[derive(Debug)]
pub struct CertificateRules {
    names: Option<Vec<String>>,
    roles: Vec<Arc<str>>,
    tenant: Option<Arc<str>>,
}

/// The certificate of a connection's client, read once.
pub struct ClientCertificate {
    /// URIs first, then DNS names, then mail addresses.
    names: Vec<Arc<str>>,
    fingerprint: Arc<str>,
    /// In seconds since 1970.
    begins: i64,
    ends: i64,
    /// Most connections see one route, or few.
    last: ArcSwapOption<(Arc<CertificateRules>, Arc<Principal>)>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl CertificateRules {
    /// Reports names that no certificate could match.
    pub fn compile(config: &CertificateConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let list = at.key("names");
        for (number, name) in config.names.iter().flatten().enumerate() {
            let star = name.trim_start_matches("*.");
            let star = star.strip_suffix("/*").unwrap_or(star);
            if star.is_empty() || star.contains('*') {
                let diagnostic = diagnostics.error(&list.index(number), "not a name of a certificate");
                diagnostic.help("write it as spiffe://tta/billing, spiffe://tta/*, billing.tta or *.tta");
            }
        }
        if config.names.as_ref().is_some_and(Vec::is_empty) {
            diagnostics.error(&list, "no certificate counts").help("leave it out for all that the listener lets in");
        }
        let default = || vec!["service".to_owned()];
        let roles = config.roles.clone().unwrap_or_else(default);
        Self {
            names: config.names.clone(),
            roles: roles.iter().map(|it| it.as_str().into()).collect(),
            tenant: config.tenant.as_deref().map(Arc::from),
        }
    }

    fn counts(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|list| list.iter().any(|it| fits(it, name)))
    }
}

/// `*.` stands for one label, as in TLS (RFC 6125, section 6.4.3); `/*` for the rest of a URI.
fn fits(pattern: &str, name: &str) -> bool {
    if let Some(above) = pattern.strip_prefix("*.") {
        return name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(above));
    }
    match pattern.strip_suffix('*') {
        Some(start) => name.len() > start.len() && name.starts_with(start),
        None if pattern.contains("://") => pattern == name,
        None => pattern.eq_ignore_ascii_case(name),
    }
}

impl ClientCertificate {
    /// Reads a certificate in DER; `None` if it can't be read.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names: Vec<(u8, Arc<str>)> = Vec::new();
        let listed = certificate.subject_alternative_name().ok()?;
        for name in listed.iter().flat_map(|it| &it.value.general_names) {
            let (rank, name) = match name {
                GeneralName::URI(name) => (0, *name),
                GeneralName::DNSName(name) => (1, *name),
                GeneralName::RFC822Name(name) => (2, *name),
                _ => continue,
            };
            // What could not stand in a log line or a header field names nobody.
            if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(|it| it.is_ascii_graphic()) {
                names.push((rank, name.into()));
            }
        }
        names.sort_by_key(|(rank, _)| *rank);
        let hex: String = digest(&SHA256, der).as_ref().iter().map(|it| format!("{it:02x}")).collect();
        Some(Self {
            names: names.into_iter().map(|(_, name)| name).collect(),
            fingerprint: hex.into(),
            begins: certificate.validity().not_before.timestamp(),
            ends: certificate.validity().not_after.timestamp(),
            last: ArcSwapOption::empty(),
        })
    }

    /// Whom it stands for under these rules, at `now` in seconds since 1970: the first of its names that counts.
    /// A connection may outlive its certificate.
    ///
    /// # Errors
    /// When it stands for nobody.
    pub fn principal(&self, rules: &Arc<CertificateRules>, now: u64) -> Result<Arc<Principal>, TokenError> {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if now < self.begins || now > self.ends {
            return Err(TokenError::Certificate);
        }
        if let Some(last) = self.last.load().as_ref().filter(|it| Arc::ptr_eq(&it.0, rules)) {
            return Ok(last.1.clone());
        }
        let name = self.names.iter().find(|it| rules.counts(it)).ok_or(TokenError::Certificate)?;
        let principal = Arc::new(Principal {
            tenant: rules.tenant.clone(),
            roles: rules.roles.clone(),
            credential: Some(self.fingerprint.clone()),
            validity: Validity { ends: u64::try_from(self.ends.saturating_add(1)).ok(), ..Validity::default() },
            ..Principal::new(Kind::Certificate, name.clone())
        });
        self.last.store(Some(Arc::new((rules.clone(), principal.clone()))));
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    const NOW: u64 = 1_790_000_000;

    fn certificate() -> ClientCertificate {
        let mut params = CertificateParams::new(vec!["billing.tta".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name("billing@tta.example".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://tta/billing".try_into().unwrap()));
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::parse(der.der()).unwrap()
    }

    #[track_caller]
    fn check(names: Option<&[&str]>, subject: Option<&str>) {
        let names = names.map(|it| it.iter().map(|it| it.to_string()).collect());
        let config = CertificateConfig { names, ..CertificateConfig::default() };
        let mut diagnostics = Diagnostics::default();
        let rules = Arc::new(CertificateRules::compile(&config, &At::ROOT, &mut diagnostics));
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let principal = certificate().principal(&rules, NOW);
        assert_eq!(principal.ok().map(|it| it.subject.to_string()).as_deref(), subject);
    }

    #[test]
    fn r7_2_a_certificate_stands_for_the_first_of_its_names_that_counts() {
        check(None, Some("spiffe://tta/billing"));
        check(Some(&["spiffe://tta/*"]), Some("spiffe://tta/billing"));
        check(Some(&["spiffe://tta/bill"]), None);
        check(Some(&["spiffe://TTA/billing"]), None);
        check(Some(&["*.tta"]), Some("billing.tta"));
        check(Some(&["*.billing.tta", "tta"]), None);
        check(Some(&["billing@tta.example"]), Some("billing@tta.example"));
    }

    #[test]
    fn r7_2_a_certificate_that_has_ended_stands_for_nobody() {
        let rules =
            Arc::new(CertificateRules::compile(&CertificateConfig::default(), &At::ROOT, &mut Diagnostics::default()));
        assert!(certificate().principal(&rules, NOW).is_ok());
        assert!(certificate().principal(&rules, u64::MAX).is_err());
        assert!(certificate().principal(&rules, 0).is_err());
        assert!(ClientCertificate::parse(b"nonsense").is_none());
    }

    #[test]
    fn a_name_that_no_certificate_has_is_reported() {
        let config: CertificateConfig = serde_yaml::from_str("names: ['*', 'a.*.b', '*.tta']").unwrap();
        let mut diagnostics = Diagnostics::default();
        CertificateRules::compile(&config, &At::ROOT, &mut diagnostics);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/names/0", "/names/1"]);
    }
}
