//! Quantities as an operator writes them: `30s`, `256KiB`, `20%`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A length of time: a number and `ms`, `s`, `m`, `h` or `d`.
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

/// A number of bytes: a bare number, or one with `B`, `KiB`, `MiB`, `GiB`, `KB`, `MB` or `GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A share, from `0%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

/// A text is not the quantity that it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct NotAQuantity(&'static str);

const PERIOD: &str = "a duration such as 500ms, 30s, 5m or 24h";
const BYTES: &str = "a size in bytes such as 4096, 256KiB or 1MiB";
const PERCENT: &str = "a share such as 20%";

impl FromStr for Period {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (number, unit) = split(text).ok_or(NotAQuantity(PERIOD))?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(NotAQuantity(PERIOD)),
        };
        let length = Duration::try_from_secs_f64(number * seconds);
        length.map(Self).map_err(|_| NotAQuantity(PERIOD))
    }
}

impl FromStr for ByteSize {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (number, unit) = split(text).ok_or(NotAQuantity(BYTES))?;
        let bytes: f64 = match unit {
            "" | "B" => 1.0,
            "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
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

/// A decimal number without sign and exponent, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
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

quantity!(Period, PERIOD, r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", "string");
quantity!(ByteSize, BYTES, r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)?$", ["string", "integer"]);
quantity!(Percent, PERCENT, r"^([0-9]|[1-9][0-9]|100|[0-9]{1,2}\.[0-9]+)%$", "string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        let millis = |text: &str| text.parse::<Period>().map(|it| it.0.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("24h"), Ok(86_400_000));
        for wrong in ["", "s", "5", "-5s", "5 s", "1e3s", "99999999999999999999d"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_shares_read_as_written() {
        assert_eq!("256KiB".parse(), Ok(ByteSize(262_144)));
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert!("1TB".parse::<ByteSize>().is_err());
        assert_eq!("20%".parse(), Ok(Percent(0.2)));
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
