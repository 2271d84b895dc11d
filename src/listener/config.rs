//! A listener as written in the configuration and as compiled. Touches no file and no socket: that
//! is for [`bind`](super::bind), when the whole configuration is known to be sound.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};

/// One address to accept connections on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address and port, such as `0.0.0.0:8080` or `[::]:8080`; port 0 takes any that is free.
    #[schemars(extend("examples" = ["0.0.0.0:8080"]))]
    pub address: String,
    /// Certificates; without it the listener speaks plain text.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Whether plain-text HTTP/2 with prior knowledge is spoken beside HTTP/1. Not with `tls`.
    #[serde(default)]
    pub h2c: bool,
    /// What one listener takes on at most.
    #[serde(default)]
    pub limits: ListenerLimits,
}

/// The `tls:` section of a listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain in PEM, the server's own first; shown to clients that no other one fits.
    pub cert: PathBuf,
    /// Private key in PEM.
    pub key: PathBuf,
    /// Further certificates, chosen by the name that the client requests (SNI).
    #[serde(default)]
    pub certificates: Vec<CertificateConfig>,
    /// Authorities in PEM whose client certificates are accepted. A client without one is let in:
    /// whether it needs one is for the route to say.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is let in (`optional`, the default; routes can require one) or not
    /// (`required`).
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Lists in PEM of client certificates that were revoked, one from each authority in `client_ca`: a certificate
    /// whose authority has no list here is refused. Read anew like the certificates; connections that are open stay.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
    /// Protocols offered, preferred first.
    #[serde(default = "Alpn::all")]
    pub alpn: Vec<Alpn>,
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They may have one.
    #[default]
    Optional,
    /// They need one.
    Required,
}

/// A certificate beside the first one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Names that it serves, such as `api.example.com` or `*.example.com`; when left out, those
    /// that the certificate itself lists.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Certificate chain in PEM, the server's own first.
    pub cert: PathBuf,
    /// Private key in PEM.
    pub key: PathBuf,
}

/// A protocol to agree on during the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Alpn {
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
}

impl Alpn {
    fn all() -> Vec<Self> {
        vec![Self::H2, Self::Http1]
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// The `limits:` section of a listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerLimits {
    /// Connections open at once.
    pub connections: u32,
    /// Connections open at once from one address (IPv6: from one /64); 0 is no limit.
    pub per_address: u32,
    /// New connections a second from one address (IPv6: from one /64); 0 is no limit.
    pub rate_per_address: u32,
    /// From a new connection, or the first byte of a later request, to its whole header.
    pub header_timeout: Period,
    /// How long a connection may stay without a request after its first.
    pub keep_alive: Period,
    /// Requests on one connection before it is closed; HTTP/1 only.
    pub requests_per_connection: u32,
    /// From a new connection to the end of its TLS handshake.
    pub handshake_timeout: Period,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            per_address: 1_000,
            rate_per_address: 0,
            header_timeout: Period::secs(10),
            keep_alive: Period::secs(75),
            requests_per_connection: 10_000,
            handshake_timeout: Period::secs(10),
        }
    }
}

/// A compiled listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it is called in logs and metrics.
    pub name: Arc<str>,
    /// Which one it is in the list, from 0.
    pub number: usize,
    /// Where it accepts.
    pub address: SocketAddr,
    /// Its certificates, if it speaks TLS.
    pub tls: Option<Tls>,
    /// Whether it speaks plain-text HTTP/2.
    pub h2c: bool,
    /// What it takes on at most.
    pub limits: Limits,
}

impl Listener {
    /// A plain-text listener with default limits.
    pub fn plain(name: &str, address: SocketAddr) -> Self {
        let limits = ListenerLimits::default().compile(&At::ROOT, &mut Diagnostics::default());
        Self { name: name.into(), number: 0, address, tls: None, h2c: false, limits }
    }
}

/// A compiled `tls:` section. The first certificate is the default.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Never empty.
    pub certificates: Vec<CertificateConfig>,
    /// Authorities for client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients need one.
    pub client_auth: ClientAuth,
    /// Which of them were revoked.
    pub client_crl: Option<PathBuf>,
    /// Protocols offered, preferred first.
    pub alpn: Vec<Alpn>,
}

impl Tls {
    /// Every file that it reads.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let pairs = self.certificates.iter().flat_map(|it| [it.cert.clone(), it.key.clone()]);
        pairs.chain(self.client_ca.clone()).chain(self.client_crl.clone())
    }
}

/// A compiled `limits:` section.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Connections open at once from one address.
    pub per_address: Option<u32>,
    /// New connections a second from one address.
    pub rate_per_address: Option<u32>,
    /// For a whole header.
    pub header_timeout: Duration,
    /// Between requests.
    pub keep_alive: Duration,
    /// Requests on one connection.
    pub requests: u32,
    /// For a TLS handshake.
    pub handshake_timeout: Duration,
    /// When it is full, the connection that has been idle longest makes room.
    pub idle_make_room: bool,
}

impl ListenerConfig {
    /// A plain-text listener with default limits.
    pub fn plain(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None, h2c: false, limits: ListenerLimits::default() }
    }

    /// Reports every fault at its place; `None` if the address is one of them.
    pub fn compile(&self, name: &str, number: usize, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Listener> {
        let tls = self.tls.as_ref().map(|tls| tls.compile(&at.key("tls"), diagnostics));
        if self.h2c && tls.is_some() {
            diagnostics
                .error(&at.key("h2c"), "plain-text HTTP/2 on a listener with `tls`")
                .help("leave it out: `tls.alpn` offers HTTP/2");
        }
        let limits = self.limits.compile(&at.key("limits"), diagnostics);
        let Ok(address) = self.address.parse() else {
            diagnostics.error(&at.key("address"), "not an address and a port").help(socket_help(&self.address));
            return None;
        };
        Some(Listener { name: name.into(), number, address, tls, h2c: self.h2c, limits })
    }
}

impl TlsConfig {
    fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Tls {
        let first = CertificateConfig { hosts: Vec::new(), cert: self.cert.clone(), key: self.key.clone() };
        first.check(at, diagnostics);
        let list = at.key("certificates");
        for (index, certificate) in self.certificates.iter().enumerate() {
            certificate.check(&list.index(index), diagnostics);
        }
        if self.alpn.is_empty() {
            diagnostics
                .error(&at.key("alpn"), "no protocol is offered")
                .help("leave it out to offer both h2 and http/1.1");
        }
        for (key, path) in [("client_ca", &self.client_ca), ("client_crl", &self.client_crl)] {
            if path.as_deref().is_some_and(is_empty) {
                diagnostics.error(&at.key(key), "an empty path");
            }
        }
        let without =
            [("client_auth", self.client_auth == ClientAuth::Required), ("client_crl", self.client_crl.is_some())];
        for (key, _) in without.into_iter().filter(|(_, it)| *it && self.client_ca.is_none()) {
            let diagnostic = diagnostics.error(&at.key(key), "no authority for client certificates");
            diagnostic.help("add `client_ca` with the authorities' PEM file");
        }
        let certificates = std::iter::once(first).chain(self.certificates.iter().cloned());
        Tls {
            certificates: certificates.collect(),
            client_ca: self.client_ca.clone(),
            client_auth: self.client_auth,
            client_crl: self.client_crl.clone(),
            alpn: self.alpn.clone(),
        }
    }
}

impl CertificateConfig {
    fn check(&self, at: &At<'_>, diagnostics: &mut Diagnostics) {
        for (key, path) in [("cert", &self.cert), ("key", &self.key)] {
            if is_empty(path) {
                diagnostics.error(&at.key(key), "an empty path");
            }
        }
        let hosts = at.key("hosts");
        for (index, host) in self.hosts.iter().enumerate() {
            let name = host.strip_prefix("*.").unwrap_or(host);
            if rustls::pki_types::DnsName::try_from(name).is_err() {
                diagnostics
                    .error(&hosts.index(index), "not a host name")
                    .help("write it as api.example.com or *.example.com");
            }
        }
    }
}

impl ListenerLimits {
    fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Limits {
        let counts = [("connections", self.connections), ("requests_per_connection", self.requests_per_connection)];
        for (key, value) in counts {
            if value == 0 {
                diagnostics.error(&at.key(key), "zero lets nobody in");
            }
        }
        let periods = [
            ("header_timeout", self.header_timeout),
            ("keep_alive", self.keep_alive),
            ("handshake_timeout", self.handshake_timeout),
        ];
        for (key, period) in periods {
            if period.0.is_zero() {
                diagnostics
                    .error(&at.key(key), "zero leaves no time")
                    .help("there is no way to wait forever; write a long period instead");
            }
        }
        Limits {
            connections: self.connections as usize,
            per_address: (self.per_address > 0).then_some(self.per_address),
            rate_per_address: (self.rate_per_address > 0).then_some(self.rate_per_address),
            header_timeout: self.header_timeout.0,
            keep_alive: self.keep_alive.0,
            requests: self.requests_per_connection,
            handshake_timeout: self.handshake_timeout.0,
            idle_make_room: false,
        }
    }
}

/// How an address that is none was probably meant.
fn socket_help(written: &str) -> String {
    let bare = written.split_once("://").map_or(written, |(_, rest)| rest).trim_end_matches('/');
    let port = bare.rsplit(':').next().unwrap_or_default();
    let host = bare.strip_suffix(port).and_then(|it| it.strip_suffix(':')).unwrap_or_default();
    let host = match host {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    match format!("{host}:{port}").parse::<SocketAddr>() {
        Ok(address) => format!("write it as {address}"),
        Err(_) => "write it as 0.0.0.0:8080, 127.0.0.1:8080 or [::]:8080".to_owned(),
    }
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Vec<String> {
        let config: ListenerConfig = serde_yaml::from_str(yaml).unwrap();
        let mut diagnostics = Diagnostics::default();
        let compiled = config.compile("public", 0, &At::ROOT, &mut diagnostics);
        assert!(compiled.is_some() || !diagnostics.is_empty());
        diagnostics.iter().map(|it| it.path.clone()).collect()
    }

    #[test]
    fn a_sound_listener_compiles_without_diagnostics() {
        assert!(check("address: '0.0.0.0:8080'").is_empty());
        assert!(check("address: '[::]:0'\nh2c: true").is_empty());
        let tls =
            "address: '1.2.3.4:443'\ntls: { cert: a, key: b, certificates: [{ hosts: ['*.a.b'], cert: c, key: d }] }";
        assert!(check(tls).is_empty());
    }

    #[test]
    fn every_fault_is_reported_at_its_place() {
        assert_eq!(check("address: localhost"), ["/address"]);
        assert_eq!(check("address: '1.2.3.4:1'\ntls: { cert: a, key: b }\nh2c: true"), ["/h2c"]);
        let yaml = "address: '1.2.3.4:1'\ntls: { cert: '', key: b, alpn: [], certificates: [{ hosts: ['a b'], cert: c, key: d }] }";
        assert_eq!(check(yaml), ["/tls/cert", "/tls/certificates/0/hosts/0", "/tls/alpn"]);
        let yaml = "address: '1.2.3.4:1'\ntls: { cert: a, key: b, client_auth: required, client_crl: c }";
        assert_eq!(check(yaml), ["/tls/client_auth", "/tls/client_crl"]);
        let yaml = "address: '1.2.3.4:1'\nlimits: { connections: 0, header_timeout: 0s }";
        assert_eq!(check(yaml), ["/limits/connections", "/limits/header_timeout"]);
    }
}
