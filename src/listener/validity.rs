//! From when and until when a certificate is valid: what we need and rustls does not show.
//!
//! Reads just as much DER as lies before it. Whether the certificate is sound is for rustls to say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;

/// Begin and end of a certificate's validity; `None` if they are not written as RFC 5280 wants it.
pub(super) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, fields, _) = element(certificate)?;
    let (tag, _, rest) = element(fields)?;
    // The version may be left out.
    let rest = if tag == VERSION { element(rest)?.2 } else { rest };
    let (_, _, rest) = element(rest)?; // signature algorithm
    let (_, _, rest) = element(rest)?; // issuer
    let (tag, validity, _) = element(rest)?;
    if tag != SEQUENCE {
        return None;
    }
    let (tag, begin, rest) = element(validity)?;
    let begin = moment(begin, tag == UTC_TIME)?;
    let (tag, end, _) = element(rest)?;
    Some((begin, moment(end, tag == UTC_TIME)?))
}

/// Tag, content and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, mut der) = der.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 || digits > der.len() {
            return None;
        }
        let (number, rest) = der.split_at(digits);
        length = number.iter().fold(0, |sum, it| sum << 8 | usize::from(*it));
        der = rest;
    }
    (length <= der.len()).then(|| (tag, &der[..length], &der[length..]))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn moment(text: &[u8], short_year: bool) -> Option<SystemTime> {
    let digits = text.strip_suffix(b"Z")?;
    let length = if short_year { 12 } else { 14 };
    if digits.len() != length || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |sum, it| sum * 10 + i64::from(it - b'0'));
    let (year, rest) = digits.split_at(length - 10);
    let year = match number(year) {
        short if short_year && short >= 50 => 1900 + short,
        short if short_year => 2000 + short,
        year => year,
    };
    let mut parts = rest.chunks(2).map(number);
    let mut part = || parts.next().unwrap_or_default();
    let (month, day, hour, minute, second) = (part(), part(), part(), part(), part());
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Days since 1970 in the Gregorian calendar; years count from March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let end = moment(text.as_bytes(), text.len() == 13)?;
        Some(end.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn times_read_as_the_calendar_says() {
        assert_eq!(seconds("700101000000Z"), Some(0));
        assert_eq!(seconds("20000229120000Z"), Some(951_825_600));
        assert_eq!(seconds("491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds("99991231235959Z"), Some(253_402_300_799));
        assert_eq!(seconds("7001010000Z"), None);
    }

    #[test]
    fn a_certificate_tells_its_times_and_rubbish_tells_nothing() {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 2, 29);
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der();
        let (begin, end) = validity(der).unwrap();
        let seconds = |it: SystemTime| it.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!((seconds(begin), seconds(end)), (951_782_400, 1_927_843_200));
        for length in 0..der.len().min(200) {
            let _ = validity(&der[..length]);
        }
        assert_eq!(validity(&[0x30, 0x84, 255, 255, 255, 255]), None);
    }
}
