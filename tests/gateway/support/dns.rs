//! A DNS server of our own: says what a test tells it to, and counts who asks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One record of an answer.
#[derive(Clone, Debug)]
pub enum Record {
    Address(IpAddr),
    Service { priority: u16, weight: u16, port: u16, host: String },
}

/// What a name's answer is.
#[derive(Clone, Debug)]
pub enum Zone {
    /// These records, with this time to live in seconds.
    Records(u32, Vec<Record>),
    /// The name is there, and has no records.
    Empty,
    /// NXDOMAIN.
    Nowhere,
    /// SERVFAIL.
    Failing,
    /// No answer at all.
    Silent,
}

#[derive(Default)]
struct Shared {
    zones: HashMap<String, Zone>,
    asked: HashMap<String, usize>,
    ended: bool,
}

/// Serves until it is dropped. What nobody told it of is nowhere.
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl DnsServer {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        let state = shared.clone();
        thread::spawn(move || serve(&socket, &state));
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, this is the answer for `name`.
    pub fn set(&self, name: &str, zone: Zone) {
        self.shared.lock().unwrap().zones.insert(name.to_owned(), zone);
    }

    /// These addresses, with a time to live in seconds.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let records = addresses.iter().map(|it| Record::Address(it.parse().unwrap())).collect();
        self.set(name, Zone::Records(ttl, records));
    }

    /// How often somebody asked for this name, whatever for.
    pub fn asked(&self, name: &str) -> usize {
        self.shared.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.lock().unwrap().ended = true;
    }
}

fn serve(socket: &UdpSocket, shared: &Mutex<Shared>) {
    let mut buffer = [0; 1500];
    loop {
        if shared.lock().unwrap().ended {
            return;
        }
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..length];
        let Some((name, kind, end)) = question(query) else { continue };
        let zone = {
            let mut shared = shared.lock().unwrap();
            *shared.asked.entry(name.clone()).or_default() += 1;
            shared.zones.get(&name).cloned().unwrap_or(Zone::Nowhere)
        };
        if let Some(answer) = answer(&query[..end], kind, &zone) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

/// Name, type, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, at + 4))
}

fn answer(question: &[u8], kind: u16, zone: &Zone) -> Option<Vec<u8>> {
    let (code, ttl, records): (u16, u32, Vec<Vec<u8>>) = match zone {
        Zone::Records(ttl, records) => (0, *ttl, records.iter().filter_map(|it| data(it, kind)).collect()),
        Zone::Empty => (0, 0, Vec::new()),
        Zone::Nowhere => (3, 0, Vec::new()),
        Zone::Failing => (2, 0, Vec::new()),
        Zone::Silent => return None,
    };
    let mut out = question[..2].to_vec();
    out.extend((0x8180 | code).to_be_bytes());
    for count in [1, records.len() as u16, 0, 0] {
        out.extend(count.to_be_bytes());
    }
    out.extend(&question[12..]);
    for record in records {
        out.extend([0xc0, 12]); // the name of the question
        out.extend(kind.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend((record.len() as u16).to_be_bytes());
        out.extend(record);
    }
    Some(out)
}

/// The data of a record, if it is of this type.
fn data(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match (record, kind) {
        (Record::Address(IpAddr::V4(ip)), A) => Some(ip.octets().to_vec()),
        (Record::Address(IpAddr::V6(ip)), AAAA) => Some(ip.octets().to_vec()),
        (Record::Service { priority, weight, port, host }, SRV) => {
            let mut out: Vec<u8> = [priority, weight, port].into_iter().flat_map(|it| it.to_be_bytes()).collect();
            for label in host.split('.') {
                out.push(label.len() as u8);
                out.extend(label.as_bytes());
            }
            out.push(0);
            Some(out)
        }
        _ => None,
    }
}
