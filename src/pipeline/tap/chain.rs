//! The taps of one direction of an exchange, one behind the other.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::decoding::{DecodersBusy, Decoding};
use super::events::{Cut, Events};
use super::{AtEnd, Kind, Tap, Unit, Verdict};
use crate::http::Coding;

/// What a unit that is held costs beside its bytes: thousands of empty ones are no less held.
const HELD_OVERHEAD: usize = 64;

/// Why taps can't see what came: nothing more may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapError {
    /// More came than a tap's limit allows, or than the body may have when it is decoded.
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// It is not what its coding writes.
    Malformed,
}

/// What goes on after the taps have seen something.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// In this order.
    pub units: Vec<(Kind, Bytes)>,
    /// A tap ended the stream behind these units; with the code for a WebSocket.
    pub ended: Option<u16>,
}

impl Shown {
    /// All that goes on, in one.
    pub fn joined(self) -> Bytes {
        let mut units = self.units;
        match units.len() {
            0 => Bytes::new(),
            1 => units.swap_remove(0).1,
            _ => units.iter().flat_map(|it| &it.1[..]).copied().collect(),
        }
    }
}

/// The taps of one direction of an exchange. What the first one lets go on is what the second one sees.
#[derive(Default)]
pub struct Taps {
    stages: Vec<Stage>,
    changed: bool,
    /// What makes text of a body before they see it.
    decoding: Option<Box<Decoding>>,
}

/// One tap, and what is kept for it.
struct Stage {
    tap: Box<dyn Tap>,
    limit: usize,
    arriving: Arriving,
    held: Vec<(Kind, Bytes)>,
    held_cost: usize,
}

/// What is not a unit yet.
enum Arriving {
    Body(BytesMut),
    Events(Events),
    Piece,
}

impl Taps {
    /// One more, behind those that are there already.
    pub fn add(&mut self, tap: impl Tap) {
        let arriving = match tap.unit() {
            Unit::Body | Unit::Message => Arriving::Body(BytesMut::new()),
            Unit::Event => Arriving::Events(Events::default()),
            Unit::Piece => Arriving::Piece,
        };
        let limit = tap.limit();
        self.stages.push(Stage { tap: Box::new(tap), limit, arriving, held: Vec::new(), held_cost: 0 });
    }

    /// The body comes in this coding and goes on as text, of which `max` bounds the bytes.
    ///
    /// # Errors
    /// When too many bodies are being decoded.
    pub fn decode(&mut self, coding: Coding, max: Option<usize>) -> Result<(), DecodersBusy> {
        self.decoding = Some(Box::new(Decoding::begin(coding, max, self.message_max())?));
        self.changed = true;
        Ok(())
    }

    /// As responses pass filters: the last one first.
    pub fn reverse(&mut self) {
        self.stages.reverse();
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether one of them wants the whole body at once.
    pub fn want_whole_body(&self) -> bool {
        self.stages.iter().any(|it| matches!(it.arriving, Arriving::Body(_)))
    }

    /// Whether anything that came out is not what went in.
    pub fn have_changed(&self) -> bool {
        self.changed
    }

    /// The longest message that all of them take.
    pub fn message_max(&self) -> usize {
        self.stages.iter().map(|it| it.limit).min().unwrap_or(0)
    }

    /// Shows them a piece of a body.
    ///
    /// # Errors
    /// When more would have to be kept than may be, or it can't be decoded: nothing more may go on.
    pub fn piece(&mut self, piece: Bytes) -> Result<Shown, TapError> {
        let piece = match &mut self.decoding {
            Some(decoding) => decoding.decode(&piece)?,
            None => piece,
        };
        self.run(|stages, out| feed(stages, Kind::Piece, piece, out))
    }

    /// Shows them a message.
    ///
    /// # Errors
    /// As [`Taps::piece`].
    pub fn message(&mut self, kind: Kind, message: Bytes) -> Result<Shown, TapError> {
        self.run(|stages, out| {
            out.messages = true;
            feed(stages, kind, message, out)
        })
    }

    /// The body or stream has ended as it should.
    ///
    /// # Errors
    /// As [`Taps::piece`].
    pub fn end(&mut self) -> Result<Shown, TapError> {
        let Some(mut decoding) = self.decoding.take() else { return self.run(finish) };
        let rest = decoding.finish()?;
        self.run(|stages, out| match feed(stages, Kind::Piece, rest, out)? {
            Flow::On => finish(stages, out),
            ended => Ok(ended),
        })
    }

    /// No more messages come: the WebSocket is closed.
    ///
    /// # Errors
    /// As [`Taps::piece`].
    pub fn end_messages(&mut self) -> Result<Shown, TapError> {
        self.run(|stages, out| {
            out.messages = true;
            finish(stages, out)
        })
    }

    /// Shows them a body that is there as a whole.
    ///
    /// # Errors
    /// As [`Taps::piece`].
    pub fn whole(&mut self, body: Bytes) -> Result<Shown, TapError> {
        let mut shown = self.piece(body)?;
        if shown.ended.is_none() {
            let Shown { units, ended } = self.end()?;
            shown.units.extend(units);
            shown.ended = ended;
        }
        Ok(shown)
    }

    /// Reports to them that a message came which is longer than they accept.
    pub fn overflow(&mut self) -> TapError {
        self.stages.iter_mut().for_each(|it| it.tap.on_overflow());
        TapError::TooLong { limit: self.message_max() }
    }

    fn run(&mut self, step: impl FnOnce(&mut [Stage], &mut Out) -> Result<Flow, TapError>) -> Result<Shown, TapError> {
        let mut out = Out { units: Vec::new(), changed: self.changed, messages: false };
        let flow = step(&mut self.stages, &mut out)?;
        self.changed = out.changed;
        Ok(Shown { units: out.units, ended: if let Flow::Ended(code) = flow { Some(code) } else { None } })
    }
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taps").field("taps", &self.stages.len()).finish_non_exhaustive()
    }
}

struct Out {
    units: Vec<(Kind, Bytes)>,
    changed: bool,
    /// It is a WebSocket.
    messages: bool,
}

impl Out {
    /// What a word of a tap's own is.
    fn own(&self, word: &Bytes) -> Kind {
        match self.messages {
            false => Kind::Piece,
            true if std::str::from_utf8(word).is_ok() => Kind::Text,
            true => Kind::Binary,
        }
    }
}

#[derive(Clone, Copy)]
enum Flow {
    On,
    Ended(u16),
}

/// Ends the step where a tap ended the stream.
macro_rules! go_on {
    ($flow:expr) => {
        if let ended @ Flow::Ended(_) = $flow {
            return Ok(ended);
        }
    };
}

/// Shows something to the first of these stages, and what it lets go on to the next one.
fn feed(stages: &mut [Stage], kind: Kind, bytes: Bytes, out: &mut Out) -> Result<Flow, TapError> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        if !bytes.is_empty() || matches!(kind, Kind::Text | Kind::Binary) {
            out.units.push((kind, bytes));
        }
        return Ok(Flow::On);
    };
    if matches!(kind, Kind::Text | Kind::Binary) {
        return stage.show(kind, bytes, rest, out);
    }
    match &mut stage.arriving {
        Arriving::Piece if bytes.is_empty() => {}
        Arriving::Piece => return stage.show(Kind::Piece, bytes, rest, out),
        Arriving::Body(body) => {
            body.extend_from_slice(&bytes);
            stage.within_limit()?;
        }
        Arriving::Events(events) => {
            events.push(&bytes);
            while let Arriving::Events(events) = &mut stage.arriving
                && let Some(cut) = events.next()
            {
                go_on!(match cut {
                    Cut::Event(event) => stage.show_event(event, rest, out)?,
                    Cut::Comment(comment) => stage.show(Kind::Comment, comment, rest, out)?,
                    Cut::LineFeed => stage.line_feed(rest, out)?,
                });
            }
            stage.within_limit()?;
        }
    }
    Ok(Flow::On)
}

/// Reports to these stages, one after the other, that nothing more comes.
fn finish(stages: &mut [Stage], out: &mut Out) -> Result<Flow, TapError> {
    let Some((stage, rest)) = stages.split_first_mut() else { return Ok(Flow::On) };
    let (kind, left) = match &mut stage.arriving {
        Arriving::Body(body) => (Kind::Body, std::mem::take(body).freeze()),
        Arriving::Events(events) => (Kind::Event, events.rest()),
        Arriving::Piece => (Kind::Piece, Bytes::new()),
    };
    if !left.is_empty() {
        go_on!(stage.show(kind, left, rest, out)?);
    }
    let AtEnd { release, append } = stage.tap.on_end();
    if release {
        go_on!(stage.release(rest, out)?);
    }
    out.changed |= !stage.held.is_empty() || append.is_some();
    stage.forget_held();
    if let Some(append) = append {
        go_on!(feed(rest, out.own(&append), append, out)?);
    }
    finish(rest, out)
}

impl Stage {
    /// An event may be complete and still longer than its tap takes.
    fn show_event(&mut self, event: Bytes, rest: &mut [Self], out: &mut Out) -> Result<Flow, TapError> {
        if event.len() > self.limit {
            return Err(self.overflow());
        }
        self.show(Kind::Event, event, rest, out)
    }

    fn show(&mut self, kind: Kind, unit: Bytes, rest: &mut [Self], out: &mut Out) -> Result<Flow, TapError> {
        let verdict = self.tap.on_unit(kind, &unit);
        let aside = kind == Kind::Comment;
        out.changed |= !matches!(verdict, Verdict::Pass | Verdict::Hold);
        match verdict {
            Verdict::Pass => {
                if !aside {
                    go_on!(self.release(rest, out)?);
                }
                feed(rest, kind, unit, out)
            }
            Verdict::Hold => {
                self.held_cost += unit.len() + if self.held.is_empty() { 0 } else { HELD_OVERHEAD };
                // A copy: what is held must not keep the whole buffer that it came in.
                self.held.push((kind, Bytes::copy_from_slice(&unit)));
                self.within_limit().map(|()| Flow::On)
            }
            Verdict::Replace(unit) => {
                if !aside {
                    self.forget_held();
                }
                feed(rest, kind, unit, out)
            }
            Verdict::Drop => {
                if !aside {
                    self.forget_held();
                }
                Ok(Flow::On)
            }
            Verdict::End { last, code } => {
                self.forget_held();
                if let Some(last) = last {
                    go_on!(feed(rest, out.own(&last), last, out)?);
                }
                go_on!(finish(rest, out)?);
                Ok(Flow::Ended(code))
            }
        }
    }

    /// It ends a line that has gone on, or is held.
    fn line_feed(&mut self, rest: &mut [Self], out: &mut Out) -> Result<Flow, TapError> {
        let line_feed = Bytes::from_static(b"\n");
        if self.held.is_empty() {
            return feed(rest, Kind::Event, line_feed, out);
        }
        self.held_cost += 1 + HELD_OVERHEAD;
        self.held.push((Kind::Event, line_feed));
        self.within_limit().map(|()| Flow::On)
    }

    fn release(&mut self, rest: &mut [Self], out: &mut Out) -> Result<Flow, TapError> {
        self.held_cost = 0;
        for (kind, unit) in std::mem::take(&mut self.held) {
            go_on!(feed(rest, kind, unit, out)?);
        }
        Ok(Flow::On)
    }

    fn forget_held(&mut self) {
        self.held = Vec::new();
        self.held_cost = 0;
    }

    fn within_limit(&mut self) -> Result<(), TapError> {
        let arriving = match &self.arriving {
            Arriving::Body(body) => body.len(),
            Arriving::Events(events) => events.waiting(),
            Arriving::Piece => 0,
        };
        if arriving + self.held_cost > self.limit { Err(self.overflow()) } else { Ok(()) }
    }

    fn overflow(&mut self) -> TapError {
        self.tap.on_overflow();
        self.forget_held();
        TapError::TooLong { limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Holds `h`, drops at `d`, replaces at `r`, ends at `e`, and passes all else; says `.` at the end.
    struct ByLetter {
        unit: Unit,
        limit: usize,
    }

    impl Tap for ByLetter {
        fn unit(&self) -> Unit {
            self.unit
        }

        fn limit(&self) -> usize {
            self.limit
        }

        fn on_unit(&mut self, _: Kind, unit: &Bytes) -> Verdict {
            match unit.last() {
                Some(b'h') => Verdict::Hold,
                Some(b'd') => Verdict::Drop,
                Some(b'r') => Verdict::Replace("R".into()),
                Some(b'e') => Verdict::end_with("E"),
                _ => Verdict::Pass,
            }
        }

        fn on_end(&mut self) -> AtEnd {
            AtEnd::append(".")
        }
    }

    fn taps(taps_of: &[(Unit, usize)]) -> Taps {
        let mut taps = Taps::default();
        taps_of.iter().for_each(|(unit, limit)| taps.add(ByLetter { unit: *unit, limit: *limit }));
        taps
    }

    fn shown(taps: &mut Taps, pieces: &[&str]) -> Result<(String, bool), TapError> {
        let mut text = String::new();
        for piece in pieces {
            let shown = taps.piece(Bytes::copy_from_slice(piece.as_bytes()))?;
            let ended = shown.ended.is_some();
            text += std::str::from_utf8(&shown.joined()).unwrap();
            if ended {
                return Ok((text, true));
            }
        }
        text += std::str::from_utf8(&taps.end()?.joined()).unwrap();
        Ok((text, false))
    }

    #[test]
    fn a_verdict_counts_for_the_unit_and_all_that_is_held() {
        for (pieces, expected, ended, changed) in [
            (&["a", "b"][..], "ab.", false, true),
            (&["ah", "bh", "c"], "ahbhc.", false, true),
            (&["ah", "bh", "xr", "c"], "Rc.", false, true),
            (&["ah", "bh", "xd", "c"], "c.", false, true),
            (&["a", "bh"], "abh.", false, true),
            (&["a", "bh", "ce", "d"], "aE", true, true),
            (&[], ".", false, true),
        ] {
            let mut taps = taps(&[(Unit::Piece, 1000)]);
            assert_eq!(shown(&mut taps, pieces), Ok((expected.to_owned(), ended)), "{pieces:?}");
            assert_eq!(taps.have_changed(), changed);
        }
    }

    #[test]
    fn what_passes_one_tap_is_what_the_next_one_sees() {
        let two = [(Unit::Piece, 1000), (Unit::Body, 1000)];
        // The second one sees `aR.`, and what it appends comes last.
        assert_eq!(shown(&mut taps(&two), &["a", "br"]), Ok(("aR..".to_owned(), false)));
        // When the first one ends it, the second one hears of an end.
        assert_eq!(shown(&mut taps(&two), &["a", "be"]), Ok(("aE.".to_owned(), true)));
        let other = [(Unit::Body, 1000), (Unit::Piece, 1000)];
        assert_eq!(shown(&mut taps(&other), &["a", "b", "ce"]), Ok(("E.".to_owned(), false)));
    }

    #[test]
    fn messages_stay_what_they_are() {
        let mut taps = taps(&[(Unit::Body, 1000)]);
        let mut show = |kind, text: &'static [u8]| taps.message(kind, Bytes::from_static(text)).unwrap().units;
        assert_eq!(show(Kind::Text, b""), [(Kind::Text, Bytes::new())]);
        assert_eq!(show(Kind::Binary, b"h"), []);
        let both = [(Kind::Binary, Bytes::from_static(b"h")), (Kind::Text, Bytes::from_static(b"a"))];
        assert_eq!(show(Kind::Text, b"a"), both);
        assert_eq!(taps.end_messages().unwrap().units, [(Kind::Text, Bytes::from_static(b"."))]);
    }

    #[test]
    fn nothing_is_kept_beyond_the_limit() {
        assert!(shown(&mut taps(&[(Unit::Body, 4)]), &["ab", "cd"]).is_ok());
        for (unit, limit, pieces) in [
            (Unit::Body, 3, &["ab", "cd"][..]),
            (Unit::Event, 9, &["data: a", "bc", "d"]),
            (Unit::Event, 9, &["data: abcd\n\n"]),
            (Unit::Piece, 3, &["abch", "d"]),
            // Many small ones are not free.
            (Unit::Piece, 100, &["h", "h", "h"]),
        ] {
            assert_eq!(shown(&mut taps(&[(unit, limit)]), pieces), Err(TapError::TooLong { limit }), "{pieces:?}");
        }
    }

    struct Observer(Unit);

    impl Tap for Observer {
        fn unit(&self) -> Unit {
            self.0
        }

        fn on_unit(&mut self, _: Kind, _: &Bytes) -> Verdict {
            if fastrand::bool() { Verdict::Pass } else { Verdict::Hold }
        }
    }

    proptest! {
        #[test]
        fn what_is_only_observed_or_held_comes_out_as_it_went_in(
            pieces in vec("[a:\r\n]{0,9}", 0..20), units in vec(0..3_usize, 1..4)
        ) {
            let mut taps = Taps::default();
            let mut comments_first = false;
            for unit in units {
                let unit = [Unit::Body, Unit::Event, Unit::Piece][unit];
                comments_first |= unit == Unit::Event;
                taps.add(Observer(unit));
            }
            let mut out = Vec::new();
            for piece in &pieces {
                out.extend(taps.piece(Bytes::copy_from_slice(piece.as_bytes())).unwrap().joined());
            }
            out.extend(taps.end().unwrap().joined());
            let mut whole = pieces.concat().into_bytes();
            prop_assert!(!taps.have_changed());
            if comments_first {
                // Comments overtake what is held; nothing is lost.
                whole.sort_unstable();
                out.sort_unstable();
            }
            prop_assert_eq!(out, whole);
        }
    }
}
