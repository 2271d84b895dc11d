//! A gateway with a filter that looks at text on its way: `filters: { words: { see: event, hide: secret } }`. See
//! "Taps" in docs/FILTERS.md.

use bytes::Bytes;
use moongate::base::{At, Diagnostics};
use moongate::pipeline::{AtEnd, Exchange, Filter, Filters, Kind, Scope, Tap, Taps, Unit, Verdict, event};
use pingora::http::{RequestHeader, ResponseHeader};

/// What it does about text; all of it may be left out.
#[derive(Clone, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Words {
    /// Leaves requests alone.
    only_responses: bool,
    /// What it sees at a time.
    see: See,
    /// Replaced by asterisks.
    hide: Option<String>,
    /// Units with this word are kept back until one comes with another word, or the end.
    hold: Option<String>,
    /// What is kept back when a unit with this word comes is thrown away, and the unit, too.
    forget: Option<String>,
    /// Ends the stream.
    stop: Option<String>,
    /// What goes out in the place of what was stopped.
    last: Option<String>,
    /// Said at the end.
    notice: Option<String>,
    /// So many bytes are kept at most.
    limit: Option<usize>,
}

#[derive(Clone, Copy, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum See {
    #[default]
    Body,
    Event,
    Message,
    Piece,
}

impl Filter for Words {
    const NAME: &'static str = "words";
    const SUMMARY: &'static str = "Minds words.";
    type Config = Self;

    fn compile(config: &Self, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(config.clone())
    }

    fn taps_requests(&self) -> bool {
        !self.only_responses
    }

    fn taps_responses(&self) -> bool {
        true
    }

    fn tap_request(&self, exchange: &Exchange, _: &RequestHeader, taps: &mut Taps) {
        taps.add(Minder::new(self, exchange, "request"));
    }

    fn tap_response(&self, exchange: &Exchange, _: &ResponseHeader, taps: &mut Taps) {
        taps.add(Minder::new(self, exchange, "response"));
    }
}

/// One direction of one exchange.
struct Minder {
    words: Words,
    request_id: String,
    direction: &'static str,
    units: u32,
    bytes: usize,
}

impl Minder {
    fn new(words: &Words, exchange: &Exchange, direction: &'static str) -> Self {
        let request_id = exchange.request_id.as_str().to_owned();
        Self { words: words.clone(), request_id, direction, units: 0, bytes: 0 }
    }

    /// A word as the stream writes them.
    fn word(&self, text: &str) -> Bytes {
        match self.words.see {
            See::Event => event(None, text),
            _ => text.to_owned().into(),
        }
    }

    fn tell(&self, how: &str) {
        let Self { request_id, direction, units, bytes, .. } = self;
        tracing::info!(event = "tapped", request_id, direction, units, bytes, how);
    }
}

impl Tap for Minder {
    fn unit(&self) -> Unit {
        match self.words.see {
            See::Body => Unit::Body,
            See::Event => Unit::Event,
            See::Message => Unit::Message,
            See::Piece => Unit::Piece,
        }
    }

    fn limit(&self) -> usize {
        self.words.limit.unwrap_or(64 * 1024)
    }

    fn on_unit(&mut self, kind: Kind, unit: &Bytes) -> Verdict {
        if kind != Kind::Comment {
            self.units += 1;
            self.bytes += unit.len();
        }
        let text = String::from_utf8_lossy(unit);
        let has = |word: &Option<String>| word.as_ref().is_some_and(|it| text.contains(it.as_str()));
        if has(&self.words.stop) {
            self.tell("stopped");
            return self.words.last.as_ref().map_or(Verdict::end(), |it| Verdict::end_with(self.word(it)));
        }
        match &self.words.hide {
            _ if has(&self.words.forget) => Verdict::Drop,
            _ if has(&self.words.hold) => Verdict::Hold,
            Some(hide) if text.contains(hide.as_str()) => Verdict::Replace(text.replace(hide.as_str(), "***").into()),
            _ => Verdict::Pass,
        }
    }

    fn on_end(&mut self) -> AtEnd {
        self.tell("ended");
        self.words.notice.as_ref().map_or(AtEnd::default(), |it| AtEnd::append(self.word(it)))
    }

    fn on_overflow(&mut self) {
        self.tell("too large");
    }
}

fn main() -> std::process::ExitCode {
    moongate::app::main(Filters::none().with::<Words>())
}
