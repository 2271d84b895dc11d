//! The four proxies, each on a free port with an upstream of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::prelude::{HttpPeer, ProxyHttp, Session};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::runtime::Runtime;

use super::cases;
use crate::support::{DEADLINE, Folder, Gateway, Process, RawUpstream};

/// A proxy under comparison; dropped, it ends.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) upstream: RawUpstream,
    _running: Running,
}

enum Running {
    Moongate(Gateway),
    Pingora(Runtime),
    Debian(Process, Folder),
}

impl Peer {
    pub(super) fn moongate() -> Self {
        let upstream = RawUpstream::start(cases::answer);
        // The fields that only we add are shown by other tests.
        let text = format!(
            "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
             - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up, body_limit: 64MiB, \
             headers: {{ security: off }} }}\n",
            upstream.address()
        );
        let gateway = Gateway::start(text);
        Self { name: "moongate", address: gateway.public(), upstream, _running: Running::Moongate(gateway) }
    }

    pub(super) fn pingora() -> Self {
        let upstream = RawUpstream::start(cases::answer);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::new(http_proxy(&Arc::new(ServerConf::default()), Stock(upstream.address())));
        runtime.spawn(async move {
            let (_stop, stopped) = tokio::sync::watch::channel(false);
            while let Ok((socket, _)) = listener.accept().await {
                let (app, stopped) = (app.clone(), stopped.clone());
                tokio::spawn(async move {
                    let mut next: Option<pingora::protocols::Stream> = Some(Box::new(L4Stream::from(socket)));
                    while let Some(stream) = next {
                        next = app.process_new(stream, &stopped).await;
                    }
                });
            }
        });
        Self { name: "pingora", address, upstream, _running: Running::Pingora(runtime) }
    }

    pub(super) fn nginx() -> Self {
        Self::of_debian("nginx", nginx_conf, start_nginx)
    }

    pub(super) fn haproxy() -> Self {
        Self::of_debian("haproxy", haproxy_conf, start_haproxy)
    }

    /// A proxy that is a package, with a configuration for its address and its upstream's.
    fn of_debian(name: &'static str, conf: fn(SocketAddr, SocketAddr) -> String, start: fn(&Path) -> Process) -> Self {
        let upstream = RawUpstream::start(cases::answer);
        let folder = Folder::new();
        // Somebody else may take the port between the look and the bind: then once more.
        for _ in 0..5 {
            let address = crate::support::nobody();
            folder.write("proxy.conf", conf(address, upstream.address()));
            let mut proxy = start(folder.path());
            let end = Instant::now() + DEADLINE;
            while proxy.running() && Instant::now() < end {
                if TcpStream::connect(address).is_ok() && proxy.running() {
                    return Self { name, address, upstream, _running: Running::Debian(proxy, folder) };
                }
                thread::park_timeout(Duration::from_millis(5));
            }
            eprintln!("{}", proxy.log().tail());
        }
        panic!("{name} does not start");
    }
}

/// Pingora as anybody would write it in an afternoon.
struct Stock(SocketAddr);

#[async_trait]
impl ProxyHttp for Stock {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// Debian puts them where only root looks by default.
fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = path.split(':').map(|it| Path::new(it).join(name)).find(|it| it.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `scripts/setup.sh test` installs it"))
}

fn start_nginx(folder: &Path) -> Process {
    let mut command = Command::new(program("nginx"));
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c", "proxy.conf"]).current_dir(folder);
    Process::start("nginx", command)
}

fn start_haproxy(folder: &Path) -> Process {
    let mut command = Command::new(program("haproxy"));
    command.args(["-db", "-f", "proxy.conf"]).current_dir(folder);
    Process::start("haproxy", command)
}

/// As its manual begins.
fn haproxy_conf(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    maxconn 256
    nbthread 1
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend in
    bind {listen}
    default_backend up
backend up
    server up {upstream}
"
    )
}

/// One process without children, so that its end is the end.
fn nginx_conf(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    large_client_header_buffers 8 64k;
    underscores_in_headers on;
    ignore_invalid_headers off;
    upstream up {{ server {upstream} max_fails=0; keepalive 8; }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://up;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
        }}
    }}
}}
"#
    )
}
