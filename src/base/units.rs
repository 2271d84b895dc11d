//! Quantities as an operator writes them: `30s`, `256KiB`, `20%`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A length of time: numbers, each with `ms`, `s`, `m`, `h` or `d`, or with the word for it: `30s`, `1h30m`, `5 min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

/// Milliseconds as people are shown them, with three decimals: what lies beyond is the noise of binary fractions.
pub fn shown_millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// A number of bytes: a bare number, or one with `KiB`, `MiB`, `GiB` (powers of 1024; so are `k`, `M` and `G` alone,
/// as in nginx) or `KB`, `MB`, `GB` (powers of 1000), in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A share, from `0%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

/// A text is not the quantity that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct NotAQuantity(&'static str);

const PERIOD: &str = "a duration such as 500ms, 30s, 5m or 24h";
const BYTES: &str = "a size in bytes such as 4096, 256KiB or 1MiB";
const PERCENT: &str = "a share such as 20%";

impl FromStr for Period {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let wrong = NotAQuantity(PERIOD);
        let (mut sum, mut last, mut rest) = (Duration::ZERO, f64::INFINITY, text);
        while !rest.is_empty() || last.is_infinite() {
            let (number, behind) = split(rest).ok_or(wrong)?;
            let end = behind.find(|it: char| !it.is_ascii_lowercase()).unwrap_or(behind.len());
            let (unit, after) = behind.split_at(end);
            // From large to small: `30m1h` is more likely a slip than a wish.
            let seconds = seconds_of(unit).filter(|it| *it < last).ok_or(wrong)?;
            let length = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong)?;
            sum = sum.checked_add(length).ok_or(wrong)?;
            (last, rest) = (seconds, after.trim_start());
        }
        Ok(Self(sum))
    }
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => 0.001,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

impl FromStr for ByteSize {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (number, unit) = split(text).ok_or(NotAQuantity(BYTES))?;
        let bytes: f64 = match &*unit.to_ascii_lowercase() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "k" | "ki" | "kib" => 1024.0,
            "m" | "mi" | "mib" => 1024.0 * 1024.0,
            "g" | "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(NotAQuantity(BYTES)),
        };
        let size = number * bytes;
        if size > 2f64.powi(53) {
            return Err(NotAQuantity(BYTES));
        }
        Ok(Self(size as u64))
    }
}

impl FromStr for Percent {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        match split(text) {
            Some((number, "%")) if number <= 100.0 => Ok(Self(number / 100.0)),
            _ => Err(NotAQuantity(PERCENT)),
        }
    }
}

/// A decimal number without sign and exponent, and what follows it, without the blanks between.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match () {
            () if millis == 0 || !millis.is_multiple_of(1000) => write!(f, "{millis}ms"),
            () if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            () if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            () => write!(f, "{}s", millis / 1000),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        match () {
            () if bytes == 0 || !bytes.is_multiple_of(1024) => write!(f, "{bytes}"),
            () if bytes.is_multiple_of(1 << 30) => write!(f, "{}GiB", bytes >> 30),
            () if bytes.is_multiple_of(1 << 20) => write!(f, "{}MiB", bytes >> 20),
            () => write!(f, "{}KiB", bytes >> 10),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// Reading, writing and schema of a quantity that is written as text; `$number` says whether a
/// bare number will do as well. `expected` in the schema is what `moongate check` reports.
macro_rules! quantity {
    ($name:ident, $expected:expr, $pattern:literal, $types:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, _: i64) -> Result<$name, E> {
                        Err(E::custom(NotAQuantity($expected)))
                    }
                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$name, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "pattern": $pattern, "expected": $expected, "description": $expected })
            }
        }
    };
}

quantity!(Period, PERIOD, r"^([0-9]+(\.[0-9]+)? *[a-z]+ *)+$", "string");
quantity!(ByteSize, BYTES, r"^[0-9]+(\.[0-9]+)? *([KMGkmg][Ii]?)?[Bb]?$", ["string", "integer"]);
quantity!(Percent, PERCENT, r"^([0-9]|[1-9][0-9]|100|[0-9]{1,2}\.[0-9]+) *%$", "string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_in_every_common_spelling() {
        let millis = |text: &str| text.parse::<Period>().map(|it| it.0.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("24h"), Ok(86_400_000));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("1m 1s 1ms"), Ok(61_001));
        assert_eq!(millis("5 minutes"), Ok(300_000));
        assert_eq!(millis("2 hrs"), Ok(7_200_000));
        let wrong =
            ["", " ", "s", "5", "-5s", "1e3s", "99999999999999999999d", "30m1h", "1s2s", "5S", "1h30", "5s,", "1.s.2s"];
        for wrong in wrong {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_shares_read_in_every_common_spelling() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|it| it.0);
        for same in ["256KiB", "256k", "256K", "256Ki", "256 kib", "262144", "262144B"] {
            assert_eq!(bytes(same), Ok(262_144), "{same}");
        }
        for (text, expected) in [("10M", 10 << 20), ("10m", 10 << 20), ("500k", 512_000), ("10MB", 10_000_000)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["1TB", "10 M B", "1,000", "-1", "", "k"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!("20%".parse(), Ok(Percent(0.2)));
        assert_eq!("20 %".parse(), Ok(Percent(0.2)));
        assert!("101%".parse::<Percent>().is_err());
    }

    #[test]
    fn they_are_shown_the_way_they_are_written() {
        assert_eq!(Period::secs(90).to_string(), "90s");
        assert_eq!(Period::secs(120).to_string(), "2m");
        assert_eq!(Period::millis(1500).to_string(), "1500ms");
        assert_eq!(ByteSize(262_144).to_string(), "256KiB");
    }
}
