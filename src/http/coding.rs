//! Content codings (RFC 9110, section 8.4.1): which there are, and which one a client likes best.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fields::tokens;
use super::weights::weighted;

/// A way in which a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// Brotli (RFC 7932).
    Br,
    /// Zstandard (RFC 8878).
    Zstd,
    /// gzip (RFC 1952).
    Gzip,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Br, Self::Zstd, Self::Gzip];

    /// Its name in `Accept-Encoding` and `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The coding of this name, in any case; `x-gzip` is gzip (RFC 9110, section 8.4.1.3).
    pub fn named(name: &[u8]) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
        Self::ALL.into_iter().find(|it| name.eq_ignore_ascii_case(it.name().as_bytes()))
    }

    /// The codings that a body is in, the one applied last at the end; `None` if one of them is not known here.
    /// `identity` is none.
    pub fn of_body(headers: &HeaderMap) -> Option<Vec<Self>> {
        let codings = tokens(headers, &CONTENT_ENCODING).filter(|it| !it.eq_ignore_ascii_case(b"identity"));
        codings.map(Self::named).collect()
    }

    /// How much a client likes this coding, in thousandths; 0 if it does not take it. One that names none takes none
    /// (RFC 9110, section 12.5.3, leaves that open).
    pub fn weight(self, headers: &HeaderMap) -> u16 {
        let (mut own, mut any) = (None, 0);
        for (name, weight) in accepted(headers) {
            if Self::named(name.as_bytes()) == Some(self) {
                own = own.max(Some(weight));
            } else if name == "*" {
                any = weight;
            }
        }
        own.unwrap_or(any)
    }

    /// The one of those that are offered, the best first, that a client likes best; `None` if it would rather have the
    /// body as it is.
    pub fn negotiate(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let mut best: Option<(u16, Self)> = None;
        for coding in offered {
            let weight = coding.weight(headers);
            if weight > best.map_or(0, |it| it.0) {
                best = Some((weight, *coding));
            }
        }
        let plain = accepted(headers).find(|it| it.0.eq_ignore_ascii_case("identity")).map_or(0, |it| it.1);
        best.filter(|it| it.0 >= plain).map(|it| it.1)
    }
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (&str, u16)> {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok()).flat_map(weighted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn asking(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|it| (ACCEPT_ENCODING, HeaderValue::from_static(it))).collect()
    }

    #[test]
    fn rfc_9110_12_5_3_the_best_liked_coding_wins_and_the_operators_order_among_equals() {
        use Coding::{Br, Gzip, Zstd};
        for (lines, offered, expected) in [
            (&["gzip, br, zstd"][..], &[Br, Zstd, Gzip][..], Some(Br)),
            (&["gzip, br, zstd"], &[Zstd, Br], Some(Zstd)),
            (&["gzip;q=0.9, br;q=0.8"], &[Br, Gzip], Some(Gzip)),
            (&["gzip;q=0.5"], &[Br, Gzip], Some(Gzip)),
            (&["br;q=0", "GZIP"], &[Br, Gzip], Some(Gzip)),
            (&["x-gzip"], &[Br, Gzip], Some(Gzip)),
            (&["*"], &[Br, Gzip], Some(Br)),
            (&["*;q=0.1, br;q=0"], &[Br, Gzip], Some(Gzip)),
            (&["*;q=0"], &[Br, Gzip], None),
            (&["identity, gzip;q=0.5"], &[Gzip], None),
            (&["identity;q=0.5, gzip;q=0.5"], &[Gzip], Some(Gzip)),
            (&["identity;q=0"], &[Gzip], None),
            (&["deflate"], &[Gzip], None),
            (&[""], &[Gzip], None),
            (&[], &[Gzip], None),
            (&["gzip"], &[], None),
        ] {
            assert_eq!(Coding::negotiate(&asking(lines), offered), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_codings_of_a_body_are_known_or_not() {
        let body = |line: &'static str| {
            Coding::of_body(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(line))]))
        };
        assert_eq!(body("gzip"), Some(vec![Coding::Gzip]));
        assert_eq!(body("identity, BR , zstd"), Some(vec![Coding::Br, Coding::Zstd]));
        assert_eq!(body("deflate"), None);
        assert_eq!(Coding::of_body(&HeaderMap::new()), Some(Vec::new()));
    }
}
