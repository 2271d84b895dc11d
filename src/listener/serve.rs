//! The accept loop of one socket on one worker, and the life of each connection it lets in.
//!
//! Everything here stays on the worker's own runtime; several workers serve clones of one socket.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::tls::TlsStream;
use pingora::protocols::{ALPN, GetSocketDigest, SocketDigest, Ssl};
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use crate::base::{give_back_memory, network_of};
use crate::identity::ClientCertificate;

use super::admission::{Full, Place};
use super::certificates::Certificates;
use super::config::Alpn;
use super::connection::{Connection, Phase, Refuse, TlsFacts};
use super::downstream::Downstream;
use super::drain::{Drain, DrainPhase, OpenConnection};
use super::handshake::{self, Cause};
use super::socket::{Shared, Socket};
use crate::guard::{Stage, Violation};
use crate::transport::Transport;

/// How long to leave the kernel alone when it has no file descriptor or memory for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether a crowd has left, and how many connections are one.
const TIDY_EVERY: Duration = Duration::from_secs(1);
const CROWD: usize = 256;

/// Accepts on `socket` and gives each connection to `app`, until `drain` closes it; then waits for
/// the connections that it let in, until they are gone or cut.
///
/// The app must call [`Connection::admitted`] for every request, and [`Connection::answered`] behind every answer over
/// HTTP/1, so that the time between two requests is measured.
pub async fn serve<A: App>(socket: Socket, app: Arc<A>, refuse: Arc<dyn Refuse>, drain: Drain) -> io::Result<()> {
    let listener = TcpListener::from_std(socket.inner)?;
    let door = Door { shared: socket.shared, app, refuse, drain, guests: Arc::default() };
    let tidying = AbortOnDrop(tokio::spawn(give_back_after_crowds(door.guests.clone())));
    door.accept_until_closed(&listener).await;
    drop(listener);
    door.guests.abort(Connection::asks_nothing);
    tokio::select! {
        () = door.guests.gone() => return Ok(()),
        () = door.drain.reached(DrainPhase::Over) => {}
    }
    door.guests.abort(|_| true);
    door.guests.gone().await;
    drop(tidying);
    Ok(())
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a crowd has left, its memory goes back to the system.
async fn give_back_after_crowds(guests: Arc<Guests>) {
    let mut most = 0;
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let now = guests.list.lock().present.len();
        most = now.max(most);
        if most - now >= CROWD.max(most / 4) {
            most = now;
            give_back_memory();
        }
    }
}

/// What speaks with clients.
pub trait App: Send + Sync + 'static {
    /// Answers the requests of one connection, until it ends. `shutdown` becomes true when it should end soon.
    fn serve(&self, stream: Box<Downstream>, shutdown: ShutdownWatch) -> impl Future<Output = ()> + Send;
}

struct Door<A> {
    shared: Arc<Shared>,
    app: Arc<A>,
    refuse: Arc<dyn Refuse>,
    drain: Drain,
    guests: Arc<Guests>,
}

impl<A: App> Door<A> {
    async fn accept_until_closed(&self, listener: &TcpListener) {
        let closed = self.drain.reached(DrainPhase::Closed);
        tokio::pin!(closed);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// Lets a connection in, or closes it at once: an answer would cost more than it is worth.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Shared { admission, metrics, guard, .. } = &*self.shared;
        if let Some(guard) = guard.get() {
            if guard.blocked(peer.ip()).is_some() {
                // A reset, so that nothing of it is left in the kernel either.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return guard.turned_away(Stage::Connection);
            }
            guard.note(peer.ip(), Violation::Connections);
        }
        let place = admission.admit(peer.ip());
        let place = match place.or_else(|full| self.admit_instead_of_idle(peer.ip(), full)) {
            Ok(place) => place,
            Err(full) => return self.tell_refused(peer.ip(), full),
        };
        metrics.total.inc();
        let connection = Arc::new(Connection::new(self.shared.clone(), peer, self.drain.clone()));
        let visit = Visit {
            shared: self.shared.clone(),
            app: self.app.clone(),
            refuse: self.refuse.clone(),
            shutdown: self.drain.shutdown_watch(),
            connection: connection.clone(),
            _counted: Counted::new(&metrics.open),
            _place: place,
            _open: self.drain.enter(),
        };
        self.guests.let_in(connection, Box::pin(visit.run(stream)));
    }

    /// Where operators come in, the connection that asks for nothing and has been there longest makes room: else who
    /// holds connections open keeps the probes out.
    fn admit_instead_of_idle(&self, peer: IpAddr, full: Full) -> Result<Place, Full> {
        let Shared { listener, admission, .. } = &*self.shared;
        let caller = network_of(peer);
        let left = listener.limits.idle_make_room
            && match full {
                Full::Connections => self.guests.dismiss_oldest(Connection::is_between_requests),
                Full::PerAddress => {
                    self.guests.dismiss_oldest(|it| it.is_between_requests() && network_of(it.peer().ip()) == caller)
                }
                Full::Rate | Full::Descriptors => false,
            };
        if left { admission.admit_instead(peer) } else { Err(full) }
    }

    fn tell_refused(&self, peer: IpAddr, full: Full) {
        let Shared { listener, admission, metrics, .. } = &*self.shared;
        match full {
            Full::Connections => metrics.refused_connections.inc(),
            Full::PerAddress => metrics.refused_per_address.inc(),
            Full::Rate => metrics.refused_rate.inc(),
            Full::Descriptors => metrics.refused_descriptors.inc(),
        }
        if admission.may_log() {
            tracing::warn!(
                event = "connection_refused", listener = %listener.name,
                client = %peer, reason = full.as_str(), "a listener is at its limit"
            );
        }
    }

    async fn recover(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            // The client went away before we came to it.
            return;
        }
        if self.shared.admission.may_log() {
            let name = &self.shared.listener.name;
            tracing::error!(event = "accept_failed", listener = %name, %error, "cannot accept connections");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One connection's way through.
struct Visit<A> {
    shared: Arc<Shared>,
    app: Arc<A>,
    refuse: Arc<dyn Refuse>,
    shutdown: ShutdownWatch,
    connection: Arc<Connection>,
    _counted: Counted,
    _place: Place,
    _open: OpenConnection,
}

impl<A: App> Visit<A> {
    async fn run(self, stream: TcpStream) {
        let peer = self.connection.peer();
        // The PROXY protocol, when it comes, is read here: before TLS, and before `peer` is used.
        if let Err(error) = stream.set_nodelay(true) {
            // It is closed already.
            return tracing::debug!(event = "connection_lost", %peer, %error, "lost");
        }
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        let _ = digest.peer_addr.set(Some(peer.into())); // it is new, so its cell is empty
        let stream = match &self.shared.certificates {
            None => Transport::Plain(stream, Some(Arc::new(digest))),
            Some(certificates) => {
                let mut stream = L4Stream::from(stream);
                stream.set_socket_digest(digest);
                match Box::pin(self.shake_hands(stream, certificates)).await {
                    Some(stream) => Transport::Layered(Box::new(stream)),
                    None => return,
                }
            }
        };
        let stream = Downstream::new(stream, self.connection.clone(), self.refuse.clone());
        self.talk(Box::new(stream)).await;
    }

    async fn shake_hands(&self, stream: L4Stream, certificates: &Certificates) -> Option<TlsStream<L4Stream>> {
        let acceptor = certificates.acceptor();
        let limit = self.connection.limits.handshake_timeout;
        let (cause, reason) = match tokio::time::timeout(limit, acceptor.tls_handshake(stream)).await {
            Ok(Ok(stream)) => {
                self.connection.set_tls(facts(&stream));
                return Some(stream);
            }
            Ok(Err(error)) => handshake::in_words(&error.to_string()),
            Err(_) => handshake::TOO_LONG,
        };
        self.tell_of_failure(cause, reason);
        None
    }

    /// Scanners do this all day: a number is enough for most.
    fn tell_of_failure(&self, cause: Cause, reason: &str) {
        let Shared { listener, metrics, untold, .. } = &*self.shared;
        metrics.handshake_failures[cause as usize].inc();
        let (client, cause) = (self.connection.peer().ip(), cause.as_str());
        match untold.another() {
            Some(count) => tracing::info!(
                event = "tls_handshake_failed", listener = %listener.name, %client, cause, reason, count,
                "one of the TLS handshakes that failed since this was said last"
            ),
            None => tracing::debug!(
                event = "tls_handshake_failed", listener = %listener.name, %client, cause, reason,
                "a TLS handshake failed"
            ),
        }
    }

    /// Until the app is done with it, or a deadline or the drain has ended it.
    async fn talk(&self, stream: Box<Downstream>) {
        let mut talk = pin!(self.app.serve(stream, self.shutdown.clone()));
        poll_fn(|cx| match talk.as_mut().poll(cx) {
            Poll::Pending if self.connection.is_over() => Poll::Ready(()),
            turn => turn,
        })
        .await;
    }
}

fn facts(stream: &TlsStream<L4Stream>) -> TlsFacts {
    let alpn = match stream.selected_alpn_proto() {
        Some(ALPN::H2) => Some(Alpn::H2),
        Some(ALPN::H1) => Some(Alpn::Http1),
        _ => None,
    };
    let Some(session) = stream.get_ssl() else { return TlsFacts { alpn, ..TlsFacts::default() } };
    TlsFacts {
        server_name: session.server_name().map(str::to_owned),
        version: session.version(),
        cipher: session.current_cipher_name(),
        alpn,
        client: session.peer_certificate_der().and_then(ClientCertificate::parse).map(Arc::new),
    }
}

/// The connections that one accept loop let in; their number is bounded by the listener's cap.
#[derive(Default)]
struct Guests {
    list: Mutex<GuestList>,
    left: Notify,
}

#[derive(Default)]
struct GuestList {
    next: u64,
    present: HashMap<u64, (Arc<Connection>, AbortHandle)>,
}

impl Guests {
    /// The visit is boxed by the caller: a task that holds another future holds it twice.
    fn let_in(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        visit: Pin<Box<impl Future<Output = ()> + Send + 'static>>,
    ) {
        let mut list = self.list.lock();
        list.next += 1;
        let leaving = Leaving { guests: self.clone(), number: list.next };
        let task = tokio::spawn(async move {
            // Also when it is aborted or panics.
            let _leaving = leaving;
            visit.await;
        });
        // The lock is still held, so it cannot have left before it is on the list.
        let number = list.next;
        list.present.insert(number, (connection, task.abort_handle()));
    }

    /// They belong to this thread, so none of them can get busy between the look and the abort.
    fn abort(&self, chosen: impl Fn(&Connection) -> bool) {
        let list = self.list.lock();
        let handles = list.present.values().filter(|(connection, _)| chosen(connection));
        let handles: Vec<_> = handles.map(|(_, handle)| handle.clone()).collect();
        drop(list);
        handles.iter().for_each(AbortHandle::abort);
    }

    /// Ends the oldest of those chosen; false if there is none.
    fn dismiss_oldest(&self, chosen: impl Fn(&Connection) -> bool) -> bool {
        let list = self.list.lock();
        let oldest = list.present.iter().filter(|(_, (it, task))| chosen(it) && !task.is_finished());
        let Some((_, (connection, task))) = oldest.min_by_key(|(number, _)| **number) else { return false };
        connection.enter(Phase::Cut); // so that it is chosen once
        task.abort();
        true
    }

    async fn gone(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.list.lock().present.is_empty() {
                return;
            }
            left.await;
        }
    }
}

struct Leaving {
    guests: Arc<Guests>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut list = self.guests.list.lock();
        list.present.remove(&self.number);
        if list.present.is_empty() {
            drop(list);
            self.guests.left.notify_waiters();
        }
    }
}

/// Holds a gauge up by one.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
