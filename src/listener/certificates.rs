//! Certificates of a TLS listener: loaded and checked before it binds, chosen by name, reloaded
//! without closing anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::{CertificateConfig, ClientAuth, Tls};
use super::validity::not_after;

/// How long before its end a certificate is complained about.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or not for us to read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{} holds no {wanted} in PEM", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Certificate and key belong to different pairs, or one of them is of an unknown kind.
    #[error("{} and {} cannot be used together: {source}", cert.display(), key.display())]
    Unfit {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The authorities for client certificates.
    #[error("{} holds no usable authority: {reason}", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The settings as a whole.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The certificates of one listener.
pub struct Certificates {
    written: Tls,
    acceptor: ArcSwap<Acceptor>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads and checks every file.
    pub fn load(tls: &Tls) -> Result<Self, TlsError> {
        let acceptor = acceptor(tls)?;
        Ok(Self { written: tls.clone(), acceptor: ArcSwap::from_pointee(acceptor) })
    }

    /// Reads the files anew. New connections get what they hold now; open ones notice nothing. If
    /// any file is at fault, everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.acceptor.store(Arc::new(acceptor(&self.written)?));
        Ok(())
    }

    pub(super) fn acceptor(&self) -> Arc<Acceptor> {
        self.acceptor.load_full()
    }
}

/// Settings are built as a whole, tickets too: what an old authority vouched for must not be
/// resumed under a new one.
fn acceptor(tls: &Tls) -> Result<Acceptor, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let entries: Result<Vec<_>, _> = tls.certificates.iter().map(|it| Entry::load(it, &provider)).collect();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier(tls, &provider)?)
        .with_cert_resolver(Arc::new(ByName { entries: entries? }));
    config.alpn_protocols = tls.alpn.iter().map(|it| it.as_str().into()).collect();
    config.ticketer = ring::Ticketer::new()?;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(path) = &tls.client_ca else { return Ok(Arc::new(NoClientAuth)) };
    let unusable = |reason: String| TlsError::Authority { path: path.clone(), reason };
    let mut roots = RootCertStore::empty();
    for authority in chain(path)? {
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(path) = &tls.client_crl {
        // Of intermediate authorities nobody publishes lists; the root's word about them is the operator's.
        builder = builder.with_crls(revoked(path)?).only_check_end_entity_revocation();
    }
    if tls.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| unusable(error.to_string()))
}

/// The lists of revoked certificates in a file, at least one.
fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let wrong = |error| unreadable(path, "revocation list", error);
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_file_iter(path).map_err(wrong)?.collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err(wrong(PemError::NoItemsFound)),
        lists => lists.map_err(wrong),
    }
}

/// A certificate and the names it is for, in lower case; without `hosts`, those that it lists itself.
#[derive(Debug)]
struct Entry {
    hosts: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// How well a certificate fits a name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Wildcard,
    Exact,
}

impl Entry {
    fn load(written: &CertificateConfig, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let CertificateConfig { hosts, cert, key } = written;
        let chain = chain(cert)?;
        notice_end(cert, &chain[0]);
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, "private key", error))?;
        let pair = CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Unfit {
            cert: cert.clone(),
            key: key.clone(),
            source,
        })?;
        let mut hosts: Vec<String> = hosts.iter().map(|it| it.to_ascii_lowercase()).collect();
        if hosts.is_empty() {
            hosts = pair.cert.first().map(|it| own_names(it)).unwrap_or_default();
        }
        Ok(Self { hosts, key: Arc::new(pair) })
    }

    fn fit(&self, name: &str) -> Option<Fit> {
        if self.hosts.iter().any(|host| host == name) {
            return Some(Fit::Exact);
        }
        let above = name.split_once('.').map(|(_, above)| above);
        let covers = |host: &String| host.strip_prefix("*.").is_some_and(|it| Some(it) == above);
        self.hosts.iter().any(covers).then_some(Fit::Wildcard)
    }
}

/// The host names that a certificate lists (RFC 6125, section 6.4), in lower case.
fn own_names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(host).collect()
}

/// Picks a certificate by the name that the client requests.
#[derive(Debug)]
struct ByName {
    entries: Vec<Entry>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let best = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let schemes = hello.signature_schemes();
            let usable = |it: &&Entry| it.key.key.choose_scheme(schemes).is_some();
            let fitting = self.entries.iter().filter(usable);
            // The first of equals: `max_by_key` takes the last one, hence `rev`.
            let fitting = fitting.rev().filter_map(|it| Some((it.fit(&name)?, it)));
            fitting.max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, entry)| entry)
        });
        best.or(self.entries.first()).map(|it| it.key.clone())
    }
}

/// The certificates in a file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| unreadable(path, "certificate", error);
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect();
    match list {
        Ok(chain) if chain.is_empty() => Err(wrong(PemError::NoItemsFound)),
        list => list.map_err(wrong),
    }
}

fn unreadable(path: &Path, wanted: &'static str, error: PemError) -> TlsError {
    let path = path.to_owned();
    match error {
        PemError::Io(source) => TlsError::Unreadable { path, source },
        // What else can be wrong might quote the file, which may be a key.
        _ => TlsError::Empty { path, wanted },
    }
}

/// An old certificate is no reason not to start: some clients do not mind, and all of them mind a
/// closed port.
fn notice_end(path: &Path, certificate: &[u8]) {
    let Some(end) = not_after(certificate) else { return };
    // The calendar's time is what certificates are about.
    let left = end.duration_since(SystemTime::now());
    let path = path.display();
    match left {
        Err(_) => {
            tracing::error!(event = "certificate_expired", cert = %path, "a certificate has expired");
        }
        Ok(left) if left < NOTICE => {
            let days = left.as_secs() / 86_400;
            tracing::warn!(event = "certificate_expires", cert = %path, days, "a certificate expires soon");
        }
        Ok(_) => {}
    }
}
