//! The signals of operators.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the gateway listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// SIGTERM: stop, and let load balancers notice first.
    Stop,
    /// SIGINT: stop without that delay; a person sits at the terminal.
    StopNow,
    /// SIGHUP: read the files again.
    Reload,
}

impl Signals {
    /// From here on signals no longer have their usual effect.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that stops the gateway.
    pub(super) async fn next_stop(&mut self) -> SignalAction {
        loop {
            match self.next().await {
                // Too late for that, and no reason to cut anybody off.
                SignalAction::Reload => {
                    tracing::info!(event = "reload_refused", "it stops: the files are not read again")
                }
                stop => return stop,
            }
        }
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::StopNow,
            _ = self.hang_up.recv() => SignalAction::Reload,
        }
    }
}
