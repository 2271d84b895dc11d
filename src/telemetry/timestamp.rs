//! RFC 3339 in UTC with milliseconds.

use std::cell::Cell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

thread_local! {
    // The calendar changes once a second; requests come by the ten thousand.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// A moment as log lines show it: `2026-11-20T20:44:39.123Z`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timestamp([u8; 24]);

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (second, mut calendar) = SECOND.get();
        if second != since.as_secs() {
            calendar = calendar_of(since.as_secs());
            SECOND.set((since.as_secs(), calendar));
        }
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[..19].copy_from_slice(&calendar);
        digits(&mut text[20..23], u64::from(since.subsec_millis()));
        Self(text)
    }

    /// Another moment; one before 1970 is its beginning.
    pub fn of(moment: SystemTime) -> Self {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut it = Self::of_seconds(since.as_secs());
        digits(&mut it.0[20..23], u64::from(since.subsec_millis()));
        it
    }

    /// A moment so many seconds after the beginning of 1970.
    pub fn of_seconds(seconds: u64) -> Self {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[..19].copy_from_slice(&calendar_of(seconds));
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits and dashes are UTF-8")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As text.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Days to a civil date: the year begins in March, so that the leap day is its last.
fn calendar_of(seconds: u64) -> [u8; 19] {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00";
    digits(&mut text[..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], of_year - (153 * shifted + 2) / 5 + 1);
    digits(&mut text[11..13], seconds / 3_600 % 24);
    digits(&mut text[14..16], seconds / 60 % 60);
    digits(&mut text[17..], seconds % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_knows_leap_years() {
        let text = |seconds| String::from_utf8(calendar_of(seconds).to_vec()).unwrap();
        assert_eq!(text(0), "1970-01-01T00:00:00");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(text(1_795_208_679), "2026-11-20T21:04:39");
    }
}
