//! What an upstream's TLS needs: authorities to trust and the certificate to show, read from their
//! files when the configuration is compiled, so that a bad file is a diagnostic and not a failed request.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use crate::base::{At, Diagnostics};
use crate::transport::unfit;
use crate::yaml::MARK;

use super::config::UpstreamTlsConfig;

/// No honest PEM file is longer, a bundle of all public authorities included.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Compiled TLS settings of an upstream. Two are equal if name and files' contents are.
#[derive(Clone)]
pub struct UpstreamTls {
    /// The name that the endpoints' certificate must bear.
    pub sni: Arc<str>,
    pub(super) ca: Option<Arc<CaType>>,
    pub(super) client: Option<Arc<CertKey>>,
    fingerprint: u64,
    files: Vec<PathBuf>,
}

impl UpstreamTls {
    pub(super) fn compile(config: &UpstreamTlsConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        let sni = sni(&config.sni, &at.key("sni"), diagnostics);
        let ca = config.ca.as_deref().map(|path| report(authorities(path, &mut hasher), &at.key("ca"), diagnostics));
        if config.client_key.is_some() && config.client_cert.is_none() {
            diagnostics
                .error_at_key(&at.key("client_key"), "a key without its certificate")
                .help("add `client_cert` with the certificate's PEM file");
        }
        let written = config.client_key.as_ref().map(|it| Key::of(it.expose()));
        let cert = config.client_cert.as_deref().filter(|_| !matches!(written, Some(Key::Unknown)));
        let client = cert.map(|cert| {
            let beside = Key::File(cert);
            let key = written.as_ref().unwrap_or(&beside);
            report(identity(cert, key, &mut hasher), &at.key("client_cert"), diagnostics)
        });
        // A part that was configured and is not there has been reported; nothing is trusted instead.
        let (ca, client) = (all_or_nothing(ca)?, all_or_nothing(client)?);
        config.sni.hash(&mut hasher);
        let key = if let Some(Key::File(path)) = written { Some(path) } else { None };
        let files = [config.ca.as_deref(), config.client_cert.as_deref(), key];
        let files = files.into_iter().flatten().map(Path::to_owned).collect();
        Some(Self { sni: sni?, ca, client: client.map(Arc::new), fingerprint: hasher.finish(), files })
    }

    /// Every file that was read for it.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.sni == other.sni && self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("sni", &self.sni).finish_non_exhaustive()
    }
}

/// Where the key of a client's certificate is.
enum Key<'a> {
    /// In a file.
    File(&'a Path),
    /// Here, in PEM.
    Here(&'a str),
    /// Kept as a secret that was not looked up: the configuration is only looked at.
    Unknown,
}

impl<'a> Key<'a> {
    fn of(written: &'a str) -> Self {
        match () {
            () if written.contains("-----BEGIN ") => Self::Here(written),
            () if written.starts_with(MARK) => Self::Unknown,
            () => Self::File(Path::new(written)),
        }
    }

    /// Its name is not told: what should be one may be the key itself.
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => contents(path).map_err(|error| format!("the key can not be read: {error}")),
            Self::Here(text) => Ok(text.as_bytes().to_vec()),
            Self::Unknown => Err("the key was not looked up".to_owned()),
        }
    }
}

fn sni(name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Arc<str>> {
    if name.is_empty() {
        diagnostics
            .error(at, "the name to verify is missing")
            .help("add `sni` with the name that the endpoints' certificate bears");
        return None;
    }
    if ServerName::try_from(name).is_err() {
        diagnostics.error(at, format!("`{name}` can not be in a certificate")).help("write a host name");
        return None;
    }
    Some(name.into())
}

fn report<T>(result: Result<T, String>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<T> {
    result.map_err(|message| diagnostics.error(at, message).help("a readable PEM file is needed")).ok()
}

/// `None` if the part was configured and could not be had.
fn all_or_nothing<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(None) => None,
        Some(Some(part)) => Some(Some(part)),
    }
}

fn authorities(path: &Path, hasher: &mut DefaultHasher) -> Result<Arc<CaType>, String> {
    let certificates = certificates(path, hasher)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|error| format!("`{}` holds a certificate that is no authority: {error}", path.display()))?;
    }
    let wrap = |it: &CertificateDer<'_>| WrappedX509::new(it.to_vec(), parse_x509);
    guarded(path, || certificates.iter().map(wrap).collect::<Vec<_>>()).map(Arc::from)
}

fn identity(cert: &Path, key: &Key<'_>, hasher: &mut DefaultHasher) -> Result<CertKey, String> {
    let certificates = certificates(cert, hasher)?;
    let bytes = key.read()?;
    bytes.hash(hasher);
    let private =
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| "the key is no private key in PEM form".to_owned())?;
    let secret = private.secret_der().to_vec();
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(certificates.clone(), private, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the key does not fit the certificate: it is that of another".to_owned(),
        error => format!("{}: {}", unfit(&error).0, unfit(&error).1),
    })?;
    guarded(cert, || CertKey::new(certificates.iter().map(|it| it.to_vec()).collect(), secret.clone()))
}

/// Pingora panics on a certificate that its own parser can not read, even if rustls could.
fn guarded<T>(path: &Path, build: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    catch_unwind(build).map_err(|_| format!("`{}` holds a certificate that can not be read", path.display()))
}

fn certificates(path: &Path, hasher: &mut DefaultHasher) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    bytes.hash(hasher);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("`{}` holds no certificate in PEM form", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("`{}` is not a PEM file: {error}", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    contents(path).map_err(|error| format!("`{}` can not be read: {error}", path.display()))
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
