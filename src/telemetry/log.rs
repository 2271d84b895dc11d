//! JSON lines on standard output, written by one thread, so that no worker ever waits for a pipe.
//!
//! Each thread collects its lines in a buffer of its own and hands it over when it is full or when
//! its flusher ticks. The hand-over queue is bounded: if standard output can't keep up, lines are
//! dropped and counted (`moongate_log_lines_dropped_total`), requests are not slowed.

use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use once_cell::sync::{Lazy, OnceCell};
use prometheus::{IntCounter, register_int_counter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::base::without_credentials;
use crate::telemetry::timestamp::Timestamp;

/// The `telemetry.log` section of `gateway.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// The least important level that is written. Access-log lines are `info`.
    pub level: LogLevel,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
}

/// The least important level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What broke.
    Error,
    /// What should be looked at.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// What led to it.
    Debug,
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

/// A buffer is handed over when it holds this much.
const BUFFER: usize = 64 * 1024;
/// So many buffers may wait for standard output.
const QUEUE: usize = 256;
/// How long a line may wait in its thread's buffer.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

static DROPPED: Lazy<IntCounter> = Lazy::new(|| {
    register_int_counter!("moongate_log_lines_dropped_total", "Log lines lost because standard output was too slow")
        .expect("the name is registered once")
});
static QUEUE_IN: OnceCell<SyncSender<Parcel>> = OnceCell::new();

thread_local! {
    static LINES: RefCell<Lines> = const { RefCell::new(Lines(Vec::new())) };
}

enum Parcel {
    Lines(Vec<u8>),
    Flush(SyncSender<()>),
}

/// A thread's lines; what is left is handed over when the thread ends.
struct Lines(Vec<u8>);

impl Drop for Lines {
    fn drop(&mut self) {
        hand_over(std::mem::take(&mut self.0));
    }
}

/// Starts the writer and makes it the destination of all `tracing` events. To be called once, by `app`.
pub fn start(config: &LogConfig) {
    let (sender, receiver) = sync_channel(QUEUE);
    if QUEUE_IN.set(sender).is_err() {
        return;
    }
    Lazy::force(&DROPPED);
    let writer = thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver));
    writer.expect("a thread can be started when the process starts");
    let filter = Targets::new()
        .with_default(config.level.filter())
        // Pingora says with every client that leaves what the access log says better.
        .with_targets([
            ("pingora_proxy", LevelFilter::OFF),
            ("pingora_core", LevelFilter::ERROR),
            ("pingora_pool", LevelFilter::ERROR),
            ("h2", LevelFilter::ERROR),
            ("hyper", LevelFilter::ERROR),
            ("rustls", LevelFilter::ERROR),
        ]);
    let _ = tracing_subscriber::registry().with(JsonLines.with_filter(filter)).try_init();
}

fn write_all(receiver: &Receiver<Parcel>) {
    let mut out = std::io::stdout();
    while let Ok(parcel) = receiver.recv() {
        match parcel {
            // The output is not read any more: there is nowhere left to log to.
            Parcel::Lines(lines) => {
                let _ = out.write_all(&lines);
                let _ = out.flush();
            }
            Parcel::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Appends a line to this thread's buffer; `write` leaves out the line's end.
pub fn line(write: impl FnOnce(&mut Vec<u8>)) {
    LINES.with_borrow_mut(|lines| {
        if lines.0.capacity() == 0 {
            lines.0.reserve(BUFFER + 2048);
        }
        write(&mut lines.0);
        lines.0.push(b'\n');
        if lines.0.len() >= BUFFER {
            let full = std::mem::replace(&mut lines.0, Vec::with_capacity(BUFFER + 2048));
            hand_over(full);
        }
    });
}

/// Hands this thread's lines to the writer.
pub fn flush() {
    let lines = LINES.with_borrow_mut(|lines| std::mem::take(&mut lines.0));
    hand_over(lines);
}

fn hand_over(lines: Vec<u8>) {
    let Some(queue) = QUEUE_IN.get() else { return };
    if lines.is_empty() {
        return;
    }
    if let Err(TrySendError::Full(Parcel::Lines(lost))) = queue.try_send(Parcel::Lines(lines)) {
        DROPPED.inc_by(lost.iter().filter(|it| **it == b'\n').count() as u64);
    }
}

/// Hands over this thread's lines every few milliseconds, for as long as its runtime lives.
pub fn spawn_flusher() {
    tokio::spawn(async {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            flush();
        }
    });
}

/// Waits until everything that was handed over is written, a second at most. The last thing a process does.
pub fn stop() {
    flush();
    let (done, written) = sync_channel(1);
    if let Some(queue) = QUEUE_IN.get()
        && queue.send(Parcel::Flush(done)).is_ok()
    {
        let _ = written.recv_timeout(Duration::from_secs(1));
    }
}

/// Writes `tracing` events as JSON lines.
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        line(|out| {
            let level = match *event.metadata().level() {
                Level::ERROR => "error",
                Level::WARN => "warn",
                Level::INFO => "info",
                Level::DEBUG | Level::TRACE => "debug",
            };
            let name = fields.event.as_deref().unwrap_or("log");
            let _ = write!(out, r#"{{"level":"{level}","event":"{name}","timestamp":"{}""#, Timestamp::now().as_str());
            out.extend_from_slice(&fields.rest);
            if fields.event.is_none() {
                text_field(out, "target", event.metadata().target());
            }
            out.push(b'}');
        });
        // Events are rare; a person may be waiting to read this one.
        flush();
    }
}

#[derive(Default)]
struct Fields {
    event: Option<String>,
    rest: Vec<u8>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Some(value.to_owned()),
            name if name.starts_with("log.") => {}
            name => text_field(&mut self.rest, name, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let _ = write!(self.rest, r#","{}":{value}"#, field.name());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        let _ = write!(self.rest, r#","{}":{value}"#, field.name());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        let _ = write!(self.rest, r#","{}":{value}"#, field.name());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let _ = write!(self.rest, r#","{}":{value}"#, field.name());
    }
}

/// Whatever a text is about, what looks like a credential in it is not written.
fn text_field(out: &mut Vec<u8>, name: &str, value: &str) {
    let _ = write!(out, r#","{name}":"#);
    let _ = serde_json::to_writer(out, &*without_credentials(value));
}
