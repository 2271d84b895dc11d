//! Certificates of a TLS listener: loaded and checked before it binds, chosen by name, reloaded
//! without closing anything. `check` and a start open them in the same way, so that they never disagree.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::listeners::tls::Acceptor;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::{CertificateConfig, ClientAuth, Tls};
use super::metrics::{CERTIFICATE_ENDS, CERTIFICATES_KEPT};
use super::validity::validity;
use crate::base::{At, Diagnostics};
use crate::telemetry::Timestamp;
use crate::transport::unfit;

const DAY: Duration = Duration::from_secs(24 * 3600);
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
    /// Certificate and key belong to different pairs.
    #[error("the key in {} is not that of the certificate in {}", key.display(), cert.display())]
    Strangers {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// One of them is of an unknown kind.
    #[error("{} and {} cannot be used together: {}", cert.display(), key.display(), unfit(source).0)]
    Unfit {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Every client that looks would refuse it.
    #[error("the certificate in {} {what} {at}", path.display())]
    Untimely {
        /// Which file.
        path: PathBuf,
        /// `ended at` or `begins at`.
        what: &'static str,
        /// The end or the begin of its validity.
        at: String,
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

impl TlsError {
    /// What to do about it.
    fn help(&self) -> String {
        match self {
            Self::Unreadable { .. } => "paths are relative to where the gateway is started".to_owned(),
            Self::Empty { path, wanted } => match (other_content(path), *wanted) {
                (Some(found), _) => format!("it holds {found}: is this the right file?"),
                (None, "private key") => "it begins with -----BEGIN PRIVATE KEY-----".to_owned(),
                (None, _) => "it begins with -----BEGIN CERTIFICATE-----".to_owned(),
            },
            Self::Strangers { .. } => {
                "take the key that the certificate was requested with; the server's own certificate comes first"
                    .to_owned()
            }
            Self::Unfit { source, .. } => unfit(source).1.to_owned(),
            Self::Untimely { .. } => "put a certificate in its place that is valid now, or set the clock".to_owned(),
            Self::Authority { .. } | Self::Setup(_) => "authorities are certificates in PEM".to_owned(),
        }
    }
}

/// What a PEM file holds in the place of what is wanted.
fn other_content(path: &Path) -> Option<&'static str> {
    let text = std::fs::read(path).ok()?;
    let holds = |mark: &str| text.windows(mark.len()).any(|it| it == mark.as_bytes());
    match () {
        () if holds("BEGIN ENCRYPTED PRIVATE KEY") => Some("an encrypted key, which nobody is there to open"),
        () if holds("PRIVATE KEY-----") => Some("a private key"),
        () if holds("BEGIN CERTIFICATE REQUEST") => Some("a request for a certificate"),
        () if holds("BEGIN CERTIFICATE-----") => Some("a certificate"),
        () => None,
    }
}

impl Tls {
    /// Opens every file as a start does, and reports each that can't be used where it is named.
    pub fn check(&self, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let provider = ring::default_provider();
        let list = at.key("certificates");
        for (number, written) in self.certificates.iter().enumerate() {
            match number.checked_sub(1) {
                None => written.check_files(&provider, at, diagnostics),
                Some(number) => written.check_files(&provider, &list.index(number), diagnostics),
            }
        }
        let provider = Arc::new(provider);
        if let Err(error) = verifier(self, &provider) {
            let of_list = matches!(&error, TlsError::Unreadable { path, .. } | TlsError::Empty { path, .. }
                if Some(path) == self.client_crl.as_ref());
            let key = if of_list { "client_crl" } else { "client_ca" };
            diagnostics.error(&at.key(key), error.to_string()).help(error.help());
        }
    }
}

impl CertificateConfig {
    fn check_files(&self, provider: &CryptoProvider, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let (chain, key) = (chain(&self.cert), private_key(&self.key));
        let mut report = |place: &str, error: &TlsError| {
            diagnostics.error(&at.key(place), error.to_string()).help(error.help());
        };
        chain.as_ref().err().into_iter().for_each(|it| report("cert", it));
        key.as_ref().err().into_iter().for_each(|it| report("key", it));
        let Ok(chain) = chain else { return };
        timely(&self.cert, &chain[0]).err().iter().for_each(|it| report("cert", it));
        let Ok(key) = key else { return };
        match self.pair(chain, key, provider) {
            Err(error) => report("key", &error),
            Ok(pair) => {
                self.check_end(&pair, at, diagnostics);
                self.check_names(&pair, at, diagnostics);
            }
        }
    }

    /// One that has ended is a fault already.
    fn check_end(&self, pair: &CertifiedKey, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let soon = pair.cert.first().and_then(|it| ends_soon(it));
        if let Some((end, days)) = soon.filter(|(end, _)| *end > SystemTime::now()) {
            let message = format!("the certificate in {} ends at {}: {}", self.cert.display(), in_utc(end), left(days));
            diagnostics.warn(&at.key("cert"), message).help("renew it; new files are taken up while the gateway runs");
        }
    }

    /// Names that the certificate does not bear: clients that look will not come in under them.
    fn check_names(&self, pair: &CertifiedKey, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let Some(Ok(own)) = pair.cert.first().map(ParsedCertificate::try_from) else { return };
        let hosts = at.key("hosts");
        for (number, host) in self.hosts.iter().enumerate() {
            let example = host.replacen('*', "any", 1);
            let borne = ServerName::try_from(example).is_ok_and(|it| verify_server_name(&own, &it).is_ok());
            if !borne {
                let message = format!("the certificate in {} does not bear this name", self.cert.display());
                diagnostics.warn(&hosts.index(number), message).help("clients that look at it will refuse it");
            }
        }
    }

    fn pair(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let (cert, path) = (self.cert.clone(), self.key.clone());
        CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Strangers { cert, key: path },
            source => TlsError::Unfit { cert, key: path, source },
        })
    }
}

/// The certificates of one listener.
pub struct Certificates {
    listener: Arc<str>,
    written: Tls,
    /// What was read last and could be used.
    good: Mutex<Good>,
    acceptor: ArcSwap<Acceptor>,
}

/// What a listener's settings are built from.
#[derive(Clone)]
struct Good {
    pairs: Vec<Arc<CertifiedKey>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads and checks every file of a listener.
    pub fn load(tls: &Tls, listener: &Arc<str>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let pairs: Result<Vec<_>, _> = tls.certificates.iter().map(|it| load_pair(it, &provider)).collect();
        let good = Good { pairs: pairs?, verifier: verifier(tls, &provider)? };
        let acceptor = ArcSwap::from_pointee(acceptor(tls, &good, &provider)?);
        for (written, pair) in tls.certificates.iter().zip(&good.pairs) {
            written.show_end(listener, pair);
        }
        Ok(Self { listener: listener.clone(), written: tls.clone(), good: Mutex::new(good), acceptor })
    }

    /// Complains about those that end soon, at once and every day.
    pub async fn watch_ends(self: Arc<Self>) {
        loop {
            let pairs = self.good.lock().pairs.clone();
            for (written, pair) in self.written.certificates.iter().zip(&pairs) {
                written.complain_of_end(&self.listener, pair);
            }
            tokio::time::sleep(DAY).await;
        }
    }

    /// Reads the files anew. New connections get what they hold now; open ones notice nothing. What can't be used
    /// leaves its predecessor in use, and is returned.
    pub fn reload(&self) -> Vec<TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut good = self.good.lock();
        let mut kept = Vec::new();
        for (pair, written) in good.pairs.iter_mut().zip(&self.written.certificates) {
            match load_pair(written, &provider) {
                Ok(new) if new.cert == pair.cert => *pair = new,
                Ok(new) => {
                    written.announce(&self.listener, &new);
                    *pair = new;
                }
                Err(error) => kept.push(error),
            }
        }
        match verifier(&self.written, &provider) {
            Ok(new) => good.verifier = new,
            Err(error) => kept.push(error),
        }
        match acceptor(&self.written, &good, &provider) {
            Ok(new) => self.acceptor.store(Arc::new(new)),
            Err(error) => kept.push(error),
        }
        kept
    }

    pub(super) fn acceptor(&self) -> Arc<Acceptor> {
        self.acceptor.load_full()
    }
}

impl CertificateConfig {
    /// What is in use from now on.
    fn announce(&self, listener: &str, pair: &CertifiedKey) {
        let end = pair.cert.first().and_then(|it| validity(it)).map(|(_, end)| in_utc(end));
        tracing::info!(
            event = "certificate_loaded", listener, cert = %self.cert.display(), not_after = end,
            "new connections get this certificate"
        );
        self.show_end(listener, pair);
        self.complain_of_end(listener, pair);
    }

    /// For those who watch the metrics.
    fn show_end(&self, listener: &str, pair: &CertifiedKey) {
        if let Some((_, end)) = pair.cert.first().and_then(|it| validity(it)) {
            let gauge = CERTIFICATE_ENDS.with_label_values(&[listener, &self.cert.display().to_string()]);
            gauge.set(i64::try_from(seconds(end)).unwrap_or(i64::MAX));
        }
    }

    /// For those who read the log.
    fn complain_of_end(&self, listener: &str, pair: &CertifiedKey) {
        if let Some((end, days)) = pair.cert.first().and_then(|it| ends_soon(it)) {
            tracing::warn!(
                event = "certificate_expires", listener, cert = %self.cert.display(), not_after = in_utc(end), days,
                "a certificate in use ends soon, or has ended: renew it"
            );
        }
    }
}

/// Says how many certificates, authorities and lists of revoked ones are older than their files.
pub fn report_kept(count: usize) {
    CERTIFICATES_KEPT.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// Settings are built as a whole, tickets too: what an old authority vouched for must not be
/// resumed under a new one.
fn acceptor(tls: &Tls, good: &Good, provider: &Arc<CryptoProvider>) -> Result<Acceptor, TlsError> {
    let entry = |(written, key): (&CertificateConfig, &Arc<CertifiedKey>)| Entry::new(written, key.clone());
    let entries = tls.certificates.iter().zip(&good.pairs).map(entry).collect();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(good.verifier.clone())
        .with_cert_resolver(Arc::new(ByName { entries }));
    config.alpn_protocols = tls.alpn.iter().map(|it| it.as_str().into()).collect();
    config.ticketer = ring::Ticketer::new()?;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

fn load_pair(written: &CertificateConfig, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = chain(&written.cert)?;
    timely(&written.cert, &chain[0])?;
    written.pair(chain, private_key(&written.key)?, provider).map(Arc::new)
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
    fn new(written: &CertificateConfig, key: Arc<CertifiedKey>) -> Self {
        let mut hosts: Vec<String> = written.hosts.iter().map(|it| it.to_ascii_lowercase()).collect();
        if hosts.is_empty() {
            hosts = key.cert.first().map(|it| own_names(it)).unwrap_or_default();
        }
        Self { hosts, key }
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

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, "private key", error))
}

fn unreadable(path: &Path, wanted: &'static str, error: PemError) -> TlsError {
    let path = path.to_owned();
    match error {
        PemError::Io(source) => TlsError::Unreadable { path, source },
        // What else can be wrong might quote the file, which may be a key.
        _ => TlsError::Empty { path, wanted },
    }
}

/// Whether a certificate is valid now.
fn timely(path: &Path, certificate: &[u8]) -> Result<(), TlsError> {
    let Some((begin, end)) = validity(certificate) else { return Ok(()) };
    // The calendar's time is what certificates are about.
    let now = SystemTime::now();
    let untimely =
        |what, moment: SystemTime| Err(TlsError::Untimely { path: path.to_owned(), what, at: in_utc(moment) });
    match () {
        () if begin > now => untimely("begins at", begin),
        () if end < now => untimely("ended at", end),
        () => Ok(()),
    }
}

/// When a certificate ends, and in how many whole days, if that is a reason to complain.
fn ends_soon(certificate: &[u8]) -> Option<(SystemTime, u64)> {
    let (_, end) = validity(certificate)?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    (left < NOTICE).then(|| (end, left.as_secs() / DAY.as_secs()))
}

fn left(days: u64) -> String {
    match days {
        0 => "within a day".to_owned(),
        1 => "in a day".to_owned(),
        days => format!("in {days} days"),
    }
}

fn in_utc(moment: SystemTime) -> String {
    format!("{}Z", &Timestamp::of_seconds(seconds(moment)).as_str()[..19])
}

/// Since 1970.
fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
