//! Lists in which a client weighs what it would take: `Accept`, `Accept-Encoding` (RFC 9110, section 12.4.2).

/// The members of one line, each with its weight in thousandths. What can't be read is left out; the rest of the line
/// still counts.
pub fn weighted(line: &str) -> impl Iterator<Item = (&str, u16)> {
    split(line, ',').filter_map(|member| {
        let mut parts = split(member, ';').map(str::trim);
        let name = parts.next().filter(|it| !it.is_empty())?;
        let q = parts.filter_map(|it| it.split_once('=')).find(|it| it.0.eq_ignore_ascii_case("q"));
        Some((name, q.map_or(Some(1000), |(_, value)| thousandths(value))?))
    })
}

/// A weight: 0 to 1 with up to three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let part = decimals.bytes().zip([100, 10, 1]);
    let part: u16 = part.map(|(digit, unit)| u16::from(digit - b'0') * unit).sum();
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

/// Splits at a separator, but not inside quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |it| {
        if escaped {
            escaped = false;
        } else if quoted && it == '\\' {
            escaped = true;
        } else if it == '"' {
            quoted = !quoted;
        }
        it == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_weights_in_any_case_and_any_quotes() {
        let read = |line| weighted(line).collect::<Vec<_>>();
        assert_eq!(read("gzip, br;Q=0.25 , identity ; q=0"), [("gzip", 1000), ("br", 250), ("identity", 0)]);
        assert_eq!(read("a/b;x=\",;q=0\";q=0.125,,*"), [("a/b", 125), ("*", 1000)]);
        assert_eq!(read("a;q=7, b;q=0.0001, c;q=1.000"), [("c", 1000)]);
    }
}
