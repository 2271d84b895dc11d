//! A route on its way out: clients are told in `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`, and it is
//! counted who still calls.
//!
//! Nothing is refused, also not after the sunset: who is still there then is what the metric is for, and a route that
//! shall end is taken out of the file.

mod callers;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderName, HeaderValue, LINK};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{Activation, BuiltIn, Layer};
use crate::base::{At, Diagnostics, unix_seconds};
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step};
use callers::Callers;

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// Since when a route is deprecated, and until when it is there.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeprecatedConfig {
    /// Since when, or from when on: `2026-01-01`, or `2026-01-01T12:00:00Z`. A date alone is its beginning in UTC.
    pub since: String,
    /// From when on it may be gone (RFC 8594). Until it is taken out of the file it is served all the same.
    #[serde(default)]
    pub sunset: Option<String>,
    /// A page that says what to use instead: an address with `https://` or `http://`.
    #[serde(default)]
    pub link: Option<String>,
}

/// Compiled: the fields, ready to be sent.
pub struct Deprecated {
    deprecation: HeaderValue,
    sunset: Option<HeaderValue>,
    /// In seconds since 1970.
    sunset_at: Option<u64>,
    links: Vec<HeaderValue>,
    /// Who calls; nobody before the route serves.
    callers: Option<Arc<Callers>>,
}

impl Filter for Deprecated {
    const NAME: &'static str = "deprecated";
    const SUMMARY: &'static str = "Tells clients of a route on its way out, and counts who still calls.";
    type Config = DeprecatedConfig;

    fn compile(config: &DeprecatedConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let since = moment(&config.since, &at.key("since"), diagnostics);
        let sunset_at = config.sunset.as_deref().map(|it| moment(it, &at.key("sunset"), diagnostics));
        if let (Some(since), Some(Some(sunset))) = (since, sunset_at)
            && sunset < since
        {
            // RFC 9745, section 4.
            diagnostics
                .error(&at.key("sunset"), "the sunset comes before the route is deprecated")
                .help("it is the later one of the two");
        }
        let links = config.link.as_deref().map(|it| links(it, config.sunset.is_some(), &at.key("link"), diagnostics));
        let sunset_at = sunset_at.flatten();
        let date = |it: u64| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(it));
        Some(Self {
            deprecation: HeaderValue::from_str(&format!("@{}", since?)).ok()?,
            sunset: sunset_at.and_then(|it| HeaderValue::from_str(&date(it)).ok()),
            sunset_at,
            links: links.unwrap_or_default(),
            callers: None,
        })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        if let Some(callers) = &self.callers {
            callers.count(context.exchange, self.sunset_at);
        }
        Ok(())
    }

    /// The operator's word takes the place of the upstream's.
    fn on_response(&self, _: &mut Exchange, response: &mut ResponseHeader) {
        if response.status.is_informational() {
            return;
        }
        let _ = response.insert_header(DEPRECATION, self.deprecation.clone());
        if let Some(sunset) = &self.sunset {
            let _ = response.insert_header(SUNSET, sunset.clone());
        }
        for link in &self.links {
            let _ = response.append_header(LINK, link.clone());
        }
    }
}

impl BuiltIn for Deprecated {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a DeprecatedConfig> {
        layer.settings.deprecated.as_ref()
    }

    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let Some(layer) = layers.iter().rfind(|it| Self::block(it).is_some()) else { return };
        let compiled =
            Self::block(layer).and_then(|it| Self::compile(it, scope, &At::ROOT, &mut Diagnostics::default()));
        if compiled.and_then(|it| it.sunset_at).is_some_and(|it| it <= unix_seconds()) {
            let message = format!("the sunset has passed, and route `{}` is still served", scope.route);
            diagnostics.warn(&layer.at.key(Self::NAME).key("sunset"), message).help(
                "take the route out, or give its clients more time; moongate_deprecated_requests_total says who calls",
            );
        }
    }

    fn activate(&mut self, activation: &Activation<'_>) {
        self.callers = Some(Callers::of(activation.route));
    }
}

fn links(link: &str, sunset: bool, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<HeaderValue> {
    let address = link.parse::<http::Uri>().ok().filter(|it| it.scheme().is_some() && it.authority().is_some());
    let plain = link.bytes().all(|it| it.is_ascii_graphic() && !b"<>\"".contains(&it));
    let web = link.starts_with("https://") || link.starts_with("http://");
    if address.is_none() || !plain || !web {
        diagnostics.error(at, "not the address of a page").help("write it as https://docs.example/v2");
        return Vec::new();
    }
    // RFC 9745, section 3; RFC 8594, section 3.
    let relations: &[&str] = if sunset { &["deprecation", "sunset"] } else { &["deprecation"] };
    let field = |relation: &&str| HeaderValue::from_str(&format!("<{link}>; rel=\"{relation}\"")).ok();
    relations.iter().filter_map(field).collect()
}

fn moment(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<u64> {
    let seconds = seconds_of(text);
    if seconds.is_none() {
        diagnostics
            .error(at, format!("`{text}` is not a date"))
            .help("write it as 2026-01-01, or 2026-01-01T12:00:00Z; from 1970 on");
    }
    seconds
}

/// Seconds since 1970 of a date, or of a date and a time in UTC (RFC 3339, without fractions).
fn seconds_of(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *days.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    let months: u64 = days.iter().take(month as usize - 1).sum();
    Some((years + months + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn numbers(text: &str, sign: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(sign);
    let mut next = |width: usize| {
        let part = parts.next().filter(|it| it.len() == width && it.bytes().all(|it| it.is_ascii_digit()))?;
        part.parse().ok()
    };
    let numbers = [next(widths[0])?, next(widths[1])?, next(widths[2])?];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_the_calendar_has_them() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2026-01-01", Some(1_767_225_600)),
            ("2026-11-20T21:04:39Z", Some(1_795_208_679)),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("1969-12-31", None),
            ("2026-1-1", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T12:00:00", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(text), seconds, "{text}");
        }
    }
}
