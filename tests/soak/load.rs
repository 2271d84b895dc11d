//! Keep-alive clients that ask one idempotent request after the other and look at every answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ledger::Ledger;

/// Longer than any limit of the gateway's.
const PATIENCE: Duration = Duration::from_secs(90);
/// The size of the larger answers.
const BYTES: usize = 20_000;

type Sender = SendRequest<Full<Bytes>>;

/// Asks until told to stop.
pub async fn client(number: usize, gateway: SocketAddr, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut connection: Option<Sender> = None;
    for turn in 0u64.. {
        if stop.load(Relaxed) {
            return;
        }
        // Some connections are short, most live for as long as the gateway lets them.
        if turn % 1000 == 999 {
            connection = None;
        }
        let asked = Asked::nth(number, turn);
        let began = Instant::now();
        match timeout(PATIENCE, asked.perform(gateway, &mut connection)).await {
            Ok(Ok(())) => ledger.request(began.elapsed()),
            Ok(Err(fault)) => {
                connection = None;
                ledger.fault(format!("{} {}: {fault}", asked.method, asked.path));
            }
            Err(_) => {
                connection = None;
                ledger.fault(format!("{} {}: no answer in {PATIENCE:?}", asked.method, asked.path));
            }
        }
    }
}

/// A request and what has to come back.
struct Asked {
    method: Method,
    path: String,
    body: String,
}

impl Asked {
    fn nth(client: usize, turn: u64) -> Self {
        let (method, body) = match turn % 8 {
            1 => (Method::PUT, format!("client {client} turn {turn} ").repeat(1 + (turn % 50) as usize)),
            4 => (Method::DELETE, String::new()),
            6 => return Self { method: Method::GET, path: format!("/bytes/{BYTES}"), body: String::new() },
            _ => (Method::GET, String::new()),
        };
        Self { method, path: format!("/load/{client}/{turn}"), body }
    }

    async fn perform(&self, gateway: SocketAddr, connection: &mut Option<Sender>) -> Result<(), String> {
        let sender = ready(gateway, connection).await?;
        let request = Request::builder().method(&self.method).uri(&self.path).header("host", "soak");
        let request = request.body(Full::from(self.body.clone())).unwrap();
        let answer = sender.send_request(request).await.map_err(|it| format!("{it:?}"))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|it| format!("{status}, then {it:?}"))?.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        self.check(&body)
    }

    fn check(&self, body: &[u8]) -> Result<(), String> {
        if self.path.starts_with("/bytes/") {
            return if body.len() == BYTES { Ok(()) } else { Err(format!("{} bytes", body.len())) };
        }
        let echo: Value = serde_json::from_slice(body).map_err(|it| it.to_string())?;
        let same = echo["method"] == self.method.as_str() && echo["path"] == self.path && echo["body"] == self.body;
        if same { Ok(()) } else { Err(format!("somebody else's answer: {echo}")) }
    }
}

/// The connection that is there, or a new one if the gateway has said that it closes that one.
async fn ready(gateway: SocketAddr, connection: &mut Option<Sender>) -> Result<&mut Sender, String> {
    let usable = match connection {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        let socket = TcpStream::connect(gateway).await.map_err(|it| format!("connect: {it}"))?;
        socket.set_nodelay(true).map_err(|it| it.to_string())?;
        let (sender, driver) = handshake(TokioIo::new(socket)).await.map_err(|it| format!("handshake: {it}"))?;
        tokio::spawn(driver);
        *connection = Some(sender);
    }
    Ok(connection.as_mut().expect("it was made just now"))
}
