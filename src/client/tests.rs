//! Black-box tests of connections, from the listener's socket to a request and back: real sockets, clients that send
//! what they like.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{Request, StatusCode};
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, yield_now};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::base::{At, Diagnostics, Period};
use crate::listener::{
    self, Alpn, CertificateConfig, Certificates, ClientAuth, Downstream, Drain, EarlyReject, Listener, ListenerConfig,
    Refuse, TlsConfig, bind, serve,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers every request with what it knows about the connection; `/slow` waits to be let go.
#[derive(Clone)]
struct App {
    seen: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl App {
    async fn answer(&self, client: &mut Client) {
        self.seen.add_permits(1);
        let path = client.request().uri.path().to_owned();
        if path == "/slow" {
            self.gate.acquire().await.unwrap().forget();
        }
        let connection = client.connection().clone();
        if connection.closing() {
            client.close_after();
        }
        let padding = path.strip_prefix("/long/").map(|it| "y".repeat(it.parse().unwrap())).unwrap_or_default();
        let tls = connection.tls().cloned().unwrap_or_default();
        let text = format!(
            "{padding}{} sni={} alpn={} client={} requests={}",
            connection.listener(),
            tls.server_name.unwrap_or_default(),
            tls.alpn.map(Alpn::as_str).unwrap_or_default(),
            tls.client.is_some(),
            connection.requests(),
        );
        let mut head = Box::new(ResponseHeader::build_no_case(StatusCode::OK, None).unwrap());
        head.insert_header("content-length", text.len()).unwrap();
        client.send([Part::Head(head, false), Part::Data(text.into()), Part::End(None)]).await.unwrap();
    }
}

impl listener::App for App {
    async fn serve(&self, mut stream: Box<Downstream>, shutdown: ShutdownWatch) {
        if stream.speaks_http2().await.unwrap_or(false) {
            let Some(mut connection) = H2Connection::begin(stream, shutdown).await else { return };
            while let Some((mut client, busy)) = connection.next().await {
                let app = self.clone();
                tokio::spawn(async move {
                    let _busy = busy;
                    app.answer(&mut client).await;
                });
            }
            return;
        }
        let mut connection = H1Connection::new(stream);
        while let Some(mut client) = connection.request().await {
            self.answer(&mut client).await;
            let Some(next) = client.finish().await else { return };
            connection = next;
        }
    }
}

#[derive(Default)]
struct Refusals(Mutex<Vec<u16>>);

impl Refuse for Refusals {
    fn refuse(&self, why: EarlyReject, _: Option<&http::HeaderValue>, _: &Connection) -> Vec<u8> {
        let status = if why == EarlyReject::Timeout { 408 } else { 400 };
        self.0.lock().push(status);
        format!("HTTP/1.1 {status} No\r\ncontent-length: 4\r\nconnection: close\r\n\r\nours").into()
    }
}

struct Gateway {
    address: SocketAddr,
    drain: Drain,
    refusals: Arc<Refusals>,
    seen: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    certificates: Option<Arc<Certificates>>,
    serving: JoinHandle<io::Result<()>>,
}

fn plain() -> ListenerConfig {
    ListenerConfig::plain("127.0.0.1:0")
}

fn compile(config: &ListenerConfig) -> Listener {
    let mut diagnostics = Diagnostics::default();
    let listener = config.compile("public", 0, &At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    listener.unwrap()
}

impl Gateway {
    fn start(config: &ListenerConfig) -> Self {
        let socket = bind(&[compile(config)]).unwrap().remove(0);
        let address = socket.address();
        let certificates = socket.certificates().cloned();
        let (seen, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let app = App { seen: seen.clone(), gate: gate.clone() };
        let (drain, refusals) = (Drain::new(), Arc::new(Refusals::default()));
        let serving = tokio::spawn(serve(socket, Arc::new(app), refusals.clone(), drain.clone()));
        Self { address, drain, refusals, seen, gate, certificates, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect_tls(&self, name: &str, config: ClientConfig) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.connect().await).await.unwrap()
    }

    fn refused(&self) -> Vec<u16> {
        self.refusals.0.lock().clone()
    }

    async fn until_open(&self, count: usize) {
        while self.drain.open() != count {
            yield_now().await;
        }
    }

    /// Waits until the app has one more request.
    async fn until_seen(&self) {
        self.seen.acquire().await.unwrap().forget();
    }
}

/// Sends a request and reads one answer that has a content-length.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.unwrap());
    }
    let header = String::from_utf8(text).unwrap().to_ascii_lowercase();
    let (_, length) = header.split_once("content-length: ").unwrap();
    let mut body = vec![0; length.split_once('\r').unwrap().0.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    header + &String::from_utf8(body).unwrap()
}

/// What comes until the end, be it polite or not.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_header_that_trickles_in_is_cut_and_told_so() {
    let mut config = plain();
    config.limits.header_timeout = Period::millis(500);
    let gateway = Gateway::start(&config);
    let (mut read, mut write) = gateway.connect().await.into_split();
    let trickle = tokio::spawn(async move {
        write.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
        // Each byte comes well within any deadline for a single read.
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let text = rest(&mut read).await;
    trickle.await.unwrap();
    assert!(text.starts_with("HTTP/1.1 408 No") && text.ends_with("ours"), "{text}");
    assert_eq!(gateway.refused(), [408]);
    assert_eq!(gateway.seen.available_permits(), 0);
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word() {
    let mut config = plain();
    config.limits.header_timeout = Period::millis(100);
    for h2c in [false, true] {
        config.h2c = h2c;
        let gateway = Gateway::start(&config);
        assert_eq!(rest(&mut gateway.connect().await).await, "");
        assert!(gateway.refused().is_empty());
        gateway.until_open(0).await;
    }
}

#[tokio::test]
async fn a_request_may_take_longer_than_its_header() {
    let mut config = plain();
    config.limits.header_timeout = Period::millis(100);
    config.limits.keep_alive = Period::millis(100);
    let gateway = Gateway::start(&config);
    let mut slow = gateway.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    gateway.until_seen().await;
    // A silent neighbour is the clock: when it is cut, the time is over.
    assert_eq!(rest(&mut gateway.connect().await).await, "");
    assert_eq!(rest(&mut gateway.connect().await).await, "");
    gateway.gate.add_permits(1);
    assert!(answer(&mut slow).await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_kept() {
    let mut config = plain();
    config.limits.keep_alive = Period::millis(500);
    let gateway = Gateway::start(&config);
    let mut stream = gateway.connect().await;
    assert!(ask(&mut stream, GET).await.ends_with("public sni= alpn= client=false requests=1"));
    assert!(ask(&mut stream, GET).await.ends_with("requests=2"));
    assert_eq!(rest(&mut stream).await, "");
    assert!(gateway.refused().is_empty());
}

#[tokio::test]
async fn the_header_of_a_later_request_has_its_deadline_too() {
    let mut config = plain();
    config.limits.header_timeout = Period::millis(500);
    let gateway = Gateway::start(&config);
    let mut stream = gateway.connect().await;
    assert!(ask(&mut stream, GET).await.ends_with("requests=1"));
    stream.write_all(b"GET / HT").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408 No"));
    assert_eq!(gateway.refused(), [408]);
}

#[tokio::test]
async fn what_can_not_be_read_is_refused_once() {
    let gateway = Gateway::start(&plain());
    let cases = [
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: y\r\n\r\nbody",
    ];
    for request in cases {
        let mut stream = gateway.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert_eq!(text, "HTTP/1.1 400 No\r\ncontent-length: 4\r\nconnection: close\r\n\r\nours");
        assert_eq!(gateway.refusals.0.lock().split_off(0), [400]);
    }
    let mut stream = gateway.connect().await;
    ask(&mut stream, GET).await;
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("ours"));
}

#[tokio::test]
async fn a_long_answer_arrives_whole() {
    // Around what is gathered, and more than any socket takes at once.
    let gateway = Gateway::start(&plain());
    let mut stream = gateway.connect().await;
    for length in [3000, 3800, 3900, 4000, 4096, 9000, 10_000_000] {
        let request = format!("GET /long/{length} HTTP/1.1\r\nHost: a\r\n\r\n");
        let text = ask(&mut stream, &request).await;
        assert_eq!(text.matches('y').count() / 100, length / 100);
    }
}

#[tokio::test]
async fn a_connection_with_many_requests_outlives_its_idle_time() {
    let mut config = plain();
    config.limits.keep_alive = Period::millis(500);
    config.limits.header_timeout = Period::millis(700);
    let gateway = Gateway::start(&config);
    let mut busy = gateway.connect().await;
    let mut clock = gateway.connect().await;
    let clock = tokio::spawn(async move { rest(&mut clock).await });
    while !clock.is_finished() {
        ask(&mut busy, GET).await;
        // Also one whose header comes in two parts.
        busy.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        yield_now().await;
        ask(&mut busy, "Host: a\r\n\r\n").await;
    }
}

#[tokio::test]
async fn one_address_gets_so_many_connections_and_no_more() {
    let mut config = plain();
    config.limits.per_address = 1;
    let gateway = Gateway::start(&config);
    let mut first = gateway.connect().await;
    ask(&mut first, GET).await;
    assert_eq!(rest(&mut gateway.connect().await).await, "");
    ask(&mut first, GET).await;
    drop(first);
    gateway.until_open(0).await;
    ask(&mut gateway.connect().await, GET).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_last_request() {
    let mut config = plain();
    config.limits.requests_per_connection = 2;
    let gateway = Gateway::start(&config);
    let mut stream = gateway.connect().await;
    assert!(ask(&mut stream, GET).await.starts_with("http/1.1 200"));
    assert!(ask(&mut stream, GET).await.contains("connection: close"));
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_says_so() {
    let gateway = Gateway::start(&plain());
    let config = ListenerConfig::plain(gateway.address.to_string());
    let error = bind(&[compile(&config)]).unwrap_err().to_string();
    let start = format!("listener `public` cannot take {}: ", gateway.address);
    assert!(error.starts_with(&start) && error.contains("choose another port"), "{error}");
}

mod h2c {
    use super::*;

    fn config() -> ListenerConfig {
        ListenerConfig { h2c: true, ..plain() }
    }

    #[tokio::test]
    async fn a_request_shorter_than_the_preface_is_answered() {
        let gateway = Gateway::start(&config());
        let mut stream = gateway.connect().await;
        assert!(ask(&mut stream, "GET / HTTP/1.0\r\n\r\n").await.starts_with("http/1."));
        let mut stream = gateway.connect().await;
        // It begins like the preface.
        assert!(ask(&mut stream, "PRI / HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("requests=1"));
        assert!(ask(&mut stream, GET).await.ends_with("requests=2"));
    }

    #[tokio::test]
    async fn a_client_with_prior_knowledge_is_served_past_every_http1_deadline() {
        let mut config = config();
        config.limits.header_timeout = Period::millis(100);
        let gateway = Gateway::start(&config);
        let (mut client, run) = h2::client::handshake(gateway.connect().await).await.unwrap();
        let run = tokio::spawn(run);
        assert!(h2_ask(&mut client).await.ends_with("requests=1"));
        assert_eq!(rest(&mut gateway.connect().await).await, "");
        assert_eq!(rest(&mut gateway.connect().await).await, "");
        assert!(h2_ask(&mut client).await.ends_with("requests=2"));
        drop(client);
        run.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_listener_without_it_speaks_http1_only() {
        let gateway = Gateway::start(&plain());
        let mut stream = gateway.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert!(rest(&mut stream).await.ends_with("ours"));
        assert_eq!(gateway.refused(), [400]);
    }
}

async fn h2_ask(client: &mut h2::client::SendRequest<Bytes>) -> String {
    let request = Request::get("http://a/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        text.extend_from_slice(&part.unwrap());
    }
    String::from_utf8(text).unwrap()
}

mod tls {
    use super::*;

    /// A folder for certificates that goes with the test.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    impl Folder {
        fn new() -> Self {
            let name = format!("moongate-listener-{:016x}", fastrand::u64(..));
            let folder = Self(std::env::temp_dir().join(name));
            std::fs::create_dir_all(&folder.0).unwrap();
            folder
        }

        fn path(&self, file: &str) -> PathBuf {
            self.0.join(file)
        }

        /// Writes a certificate for `hosts` and its key under `name`.
        fn certify(&self, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
            let hosts: Vec<_> = hosts.iter().map(|it| (*it).to_owned()).collect();
            let pair = rcgen::generate_simple_self_signed(hosts).unwrap();
            let write = |end: &str, text: String| {
                std::fs::write(self.path(&format!("{name}.{end}")), text).unwrap();
            };
            write("crt", pair.cert.pem());
            write("key", pair.signing_key.serialize_pem());
            pair.cert.der().clone()
        }

        fn entry(&self, name: &str, hosts: &[&str]) -> CertificateConfig {
            CertificateConfig {
                hosts: hosts.iter().map(|it| (*it).to_owned()).collect(),
                cert: self.path(&format!("{name}.crt")),
                key: self.path(&format!("{name}.key")),
            }
        }

        fn config(&self, first: &str, further: Vec<CertificateConfig>) -> ListenerConfig {
            let CertificateConfig { cert, key, .. } = self.entry(first, &[]);
            let alpn = vec![Alpn::H2, Alpn::Http1];
            let tls = TlsConfig {
                cert,
                key,
                certificates: further,
                client_ca: None,
                client_auth: ClientAuth::Optional,
                client_crl: None,
                alpn,
            };
            ListenerConfig { tls: Some(tls), ..plain() }
        }
    }

    fn client(trusted: &[&CertificateDer<'static>], alpn: &str) -> ClientConfig {
        let mut config = builder(trusted).with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        config
    }

    fn builder(
        trusted: &[&CertificateDer<'static>],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        trusted.iter().for_each(|it| roots.add((*it).clone()).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }

    fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }

    #[tokio::test]
    async fn the_name_asked_for_picks_the_certificate() {
        let folder = Folder::new();
        // Names of their own, an exact one, a wildcard; the first certificate is for all others.
        let first = folder.certify("first", &["first.test", "any.other.test"]);
        let own = folder.certify("own", &["*.own.test"]);
        let wild = folder.certify("wild", &["x.hosts.test", "y.hosts.test"]);
        let exact = folder.certify("exact", &["y.hosts.test"]);
        let further = vec![
            folder.entry("own", &[]),
            folder.entry("wild", &["*.Hosts.test"]),
            folder.entry("exact", &["y.hosts.test"]),
        ];
        let gateway = Gateway::start(&folder.config("first", further));
        let trusted = [&first, &own, &wild, &exact];
        let cases = [
            ("first.test", &first),
            ("any.other.test", &first),
            ("a.own.test", &own),
            ("x.hosts.test", &wild),
            ("y.hosts.test", &exact),
        ];
        for (name, expected) in cases {
            let mut stream = gateway.connect_tls(name, client(&trusted, "http/1.1")).await;
            assert_eq!(&shown(&stream), expected, "{name}");
            let known = format!("public sni={name} alpn=http/1.1 client=false requests=1");
            assert!(ask(&mut stream, GET).await.ends_with(&known));
        }
    }

    #[tokio::test]
    async fn http2_is_agreed_on_and_a_client_that_never_begins_is_cut() {
        let folder = Folder::new();
        let first = folder.certify("first", &["a.test"]);
        let mut config = folder.config("first", Vec::new());
        config.limits.header_timeout = Period::millis(500);
        let gateway = Gateway::start(&config);
        let stream = gateway.connect_tls("a.test", client(&[&first], "h2")).await;
        let (mut h2, run) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(run);
        assert!(h2_ask(&mut h2).await.contains("sni=a.test alpn=h2"));
        let mut silent = gateway.connect_tls("a.test", client(&[&first], "h2")).await;
        let mut settings = Vec::new();
        let _ = silent.read_to_end(&mut settings).await;
        assert!(!settings.starts_with(b"HTTP"));
        assert!(h2_ask(&mut h2).await.ends_with("requests=2"));
        assert!(gateway.refused().is_empty());
    }

    #[tokio::test]
    async fn refusals_and_deadlines_are_the_same_under_tls() {
        let folder = Folder::new();
        let first = folder.certify("first", &["a.test"]);
        let mut config = folder.config("first", Vec::new());
        config.limits.header_timeout = Period::millis(500);
        let gateway = Gateway::start(&config);
        for (request, status) in [("GET / HT", 408), ("nonsense\r\n\r\n", 400)] {
            let mut stream = gateway.connect_tls("a.test", client(&[&first], "http/1.1")).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            // With the end of TLS, not of TCP only: a cut answer must be told from a whole one.
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} No")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_handshake_that_never_comes_is_cut() {
        let folder = Folder::new();
        folder.certify("first", &["a.test"]);
        let mut config = folder.config("first", Vec::new());
        config.limits.handshake_timeout = Period::millis(50);
        let gateway = Gateway::start(&config);
        assert_eq!(rest(&mut gateway.connect().await).await, "");
        gateway.until_open(0).await;
    }

    #[tokio::test]
    async fn a_client_certificate_is_asked_for_but_not_demanded() {
        let folder = Folder::new();
        let first = folder.certify("first", &["a.test"]);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        std::fs::write(folder.path("ca.crt"), authority.pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let mut config = folder.config("first", Vec::new());
        config.tls.as_mut().unwrap().client_ca = Some(folder.path("ca.crt"));
        let gateway = Gateway::start(&config);
        let mut without = gateway.connect_tls("a.test", client(&[&first], "http/1.1")).await;
        assert!(ask(&mut without, GET).await.contains("client=false"));
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![certificate.der().clone()];
        let with = builder(&[&first]).with_client_auth_cert(chain, private).unwrap();
        let mut with = gateway.connect_tls("a.test", with).await;
        assert!(ask(&mut with, GET).await.contains("client=true"));
    }

    #[tokio::test]
    async fn a_client_that_comes_back_resumes_its_session() {
        let folder = Folder::new();
        let first = folder.certify("first", &["a.test"]);
        let gateway = Gateway::start(&folder.config("first", Vec::new()));
        let client = client(&[&first], "http/1.1");
        for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let mut stream = gateway.connect_tls("a.test", client.clone()).await;
            // The ticket comes with the first bytes.
            assert!(ask(&mut stream, GET).await.contains("sni=a.test"));
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
        }
    }

    #[tokio::test]
    async fn a_reload_changes_the_certificate_and_closes_nothing() {
        let folder = Folder::new();
        let old = folder.certify("first", &["a.test"]);
        let gateway = Gateway::start(&folder.config("first", Vec::new()));
        let certificates = gateway.certificates.as_ref().unwrap();
        let mut before = gateway.connect_tls("a.test", client(&[&old], "http/1.1")).await;
        ask(&mut before, GET).await;
        let new = folder.certify("first", &["a.test"]);
        assert!(certificates.reload().is_empty());
        let mut after = gateway.connect_tls("a.test", client(&[&new], "http/1.1")).await;
        assert_eq!(shown(&after), new);
        ask(&mut after, GET).await;
        assert!(ask(&mut before, GET).await.ends_with("requests=2"));
        // A reload that fails changes nothing.
        std::fs::write(folder.path("first.key"), "nonsense").unwrap();
        assert!(!certificates.reload().is_empty());
        gateway.connect_tls("a.test", client(&[&new], "http/1.1")).await;
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_names_the_file() {
        let folder = Folder::new();
        folder.certify("first", &["a.test"]);
        folder.certify("other", &["a.test"]);
        std::fs::write(folder.path("empty.crt"), "").unwrap();
        let pair = |cert: &str, key: &str| {
            let (cert, key) = (folder.path(cert), folder.path(key));
            let mut config = folder.config("first", Vec::new());
            config.tls.as_mut().unwrap().certificates = vec![CertificateConfig { hosts: Vec::new(), cert, key }];
            bind(&[compile(&config)]).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(pair("other.crt", "other.key"), Ok(()));
        let cases = [
            ("none.crt", "first.key", "cannot read"),
            ("empty.crt", "first.key", "holds no certificate"),
            ("first.crt", "first.crt", "holds no private key"),
            ("first.crt", "other.key", "is not that of the certificate"),
        ];
        for (cert, key, expected) in cases {
            let error = pair(cert, key).unwrap_err();
            let named = error.starts_with("listener `public` at 127.0.0.1:0 cannot speak TLS: ");
            assert!(named && error.contains(expected), "{error}");
        }
    }
}

mod draining {
    use super::*;

    #[tokio::test]
    async fn idle_connections_close_and_requests_under_way_finish() {
        let gateway = Gateway::start(&plain());
        let mut idle = gateway.connect().await;
        ask(&mut idle, GET).await;
        gateway.until_seen().await;
        let mut slow = gateway.connect().await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        gateway.until_seen().await;
        // Not ready any more, but open to those who have not heard of it.
        gateway.drain.begin();
        assert!(ask(&mut gateway.connect().await, GET).await.contains("connection: close"));
        gateway.drain.close_listeners();
        assert_eq!(rest(&mut idle).await, "");
        gateway.until_open(1).await;
        assert!(TcpStream::connect(gateway.address).await.is_err());
        gateway.gate.add_permits(1);
        let text = answer(&mut slow).await;
        assert!(text.contains("connection: close") && text.contains("200"), "{text}");
        assert_eq!(rest(&mut slow).await, "");
        drop(slow);
        assert_eq!(gateway.drain.wait_empty(Duration::from_secs(60)).await, 0);
        gateway.serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_does_not_finish_in_time_is_cut() {
        let gateway = Gateway::start(&plain());
        let mut slow = gateway.connect().await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        gateway.until_seen().await;
        gateway.drain.close_listeners();
        assert_eq!(gateway.drain.wait_empty(Duration::from_millis(50)).await, 1);
        assert_eq!(rest(&mut slow).await, "");
        gateway.serving.await.unwrap().unwrap();
        assert_eq!(gateway.drain.phase(), listener::DrainPhase::Over);
        assert_eq!(gateway.drain.open(), 0);
    }

    #[tokio::test]
    async fn http2_clients_are_told_to_go_away() {
        let gateway = Gateway::start(&ListenerConfig { h2c: true, ..plain() });
        let (mut client, run) = h2::client::handshake(gateway.connect().await).await.unwrap();
        let run = tokio::spawn(run);
        assert!(h2_ask(&mut client).await.ends_with("requests=1"));
        gateway.drain.close_listeners();
        run.await.unwrap().unwrap();
        assert_eq!(gateway.drain.wait_empty(Duration::from_secs(60)).await, 0);
        gateway.serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn several_workers_serve_one_socket() {
        let socket = bind(&[compile(&plain())]).unwrap().remove(0);
        let address = socket.address();
        let drain = Drain::new();
        let worker = || {
            let socket = socket.try_clone().unwrap();
            let drain = drain.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let (seen, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
                let app = App { seen, gate };
                runtime.block_on(serve(socket, Arc::new(app), Arc::new(Refusals::default()), drain))
            })
        };
        let workers = [worker(), worker()];
        drop(socket);
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, GET).await;
            streams.push(stream);
        }
        drain.close_listeners();
        for stream in &mut streams {
            assert_eq!(rest(stream).await, "");
        }
        drop(streams);
        assert_eq!(drain.wait_empty(Duration::from_secs(60)).await, 0);
        workers.into_iter().for_each(|it| it.join().unwrap().unwrap());
    }
}
