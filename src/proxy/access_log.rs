//! One line for every request, written from what is known at its end (R10.1, S2S-40).

use std::net::IpAddr;
use std::time::Duration;

use http::Method;

use crate::base::{AddressText, redacted_target, without_credentials};
use crate::identity::Principal;
use crate::pipeline::{EndState, Exchange, PartOutcome, Parts, Refusal};
use crate::telemetry::{Timestamp, line};

/// What the session knows at the end.
pub(super) struct Facts<'a> {
    pub(super) method: &'a Method,
    /// Without the query, which may hold what must not be logged; what looks like a credential in it is not logged
    /// either.
    pub(super) path: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) http: &'static str,
    pub(super) listener: &'a str,
    /// 0 if nothing was answered.
    pub(super) status: u16,
    /// What a call of gRPC has come to, as its client was told.
    pub(super) grpc_status: Option<u16>,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) duration: Duration,
    pub(super) end: EndState,
    /// What became of it in the cache, in a word.
    pub(super) cache: Option<&'static str>,
    /// Why the gateway answered by itself.
    pub(super) error: Option<&'static str>,
}

/// Writes the line.
pub(super) fn write(exchange: &Exchange, facts: &Facts<'_>) {
    line(|out| {
        let mut out = Json(out);
        out.raw(br#"{"level":"info","event":"request","timestamp":""#);
        out.raw(Timestamp::now().as_str().as_bytes());
        out.raw(br#"","request_id":""#);
        out.raw(exchange.request_id.as_bytes());
        out.raw(br#"","trace_id":""#);
        out.raw(exchange.trace.trace_id.as_bytes());
        out.raw(br#"","span_id":""#);
        out.raw(exchange.trace.span_id.as_bytes());
        out.plain(br#"","method":""#, facts.method.as_str()); // a token
        out.text(br#","host":""#, facts.host);
        out.text(br#","path":""#, &redacted_target(facts.path));
        out.plain(br#","http":""#, facts.http);
        out.plain(br#","listener":""#, facts.listener);
        out.text(br#","route":""#, exchange.route.as_deref().unwrap_or_default().as_bytes());
        if let Some(upstream) = &exchange.attempt.upstream {
            out.text(br#","upstream":""#, upstream.as_bytes());
        }
        if let Some(endpoint) = exchange.attempt.endpoint {
            out.raw(br#","endpoint":""#);
            out.address(endpoint.ip(), Some(endpoint.port()));
            out.raw(b"\"");
            out.number(br#","attempts":"#, u64::from(exchange.attempt.attempts));
            out.raw(if exchange.attempt.reused { br#","reused":true"# } else { br#","reused":false"# });
        }
        if let Some(parts) = &exchange.parts {
            out.parts(parts);
        }
        out.raw(br#","client":""#);
        out.address(exchange.client_ip, None);
        out.raw(b"\"");
        if let Some(principal) = &exchange.principal {
            out.principal(principal);
        }
        out.number(br#","status":"#, u64::from(facts.status));
        if let Some(status) = facts.grpc_status {
            out.number(br#","grpc_status":"#, u64::from(status));
        }
        out.plain(br#","end":""#, facts.end.as_str());
        if let Some(code) = facts.error {
            out.text(br#","error":""#, code.as_bytes());
        }
        if let Some(refusal) = &exchange.refusal {
            out.refusal(refusal);
        }
        if let Some(cause) = &exchange.attempt.cause {
            out.text(br#","cause":""#, cause.as_bytes());
        }
        if let (2.., Some(failed)) = (exchange.attempt.attempts, exchange.attempt.failed_endpoint) {
            out.raw(br#","failed_endpoint":""#);
            out.address(failed.ip(), Some(failed.port()));
            out.raw(b"\"");
        }
        if let Some(cache) = facts.cache {
            out.text(br#","cache":""#, cache.as_bytes());
        }
        out.number(br#","bytes_received":"#, facts.bytes_received);
        out.number(br#","bytes_sent":"#, facts.bytes_sent);
        if let Some(queued) = exchange.attempt.queued {
            out.millis(br#","queued_ms":"#, queued);
        }
        if let Some(connected) = exchange.attempt.connected {
            out.millis(br#","connect_ms":"#, connected);
        }
        if let Some(first_byte) = exchange.attempt.first_byte {
            out.millis(br#","first_byte_ms":"#, first_byte);
        }
        out.millis(br#","duration_ms":"#, facts.duration);
        out.raw(b"}");
    });
}

/// Appends JSON without building a tree first.
struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A text that has nothing to be escaped in it; `lead` as in [`text`](Self::text).
    fn plain(&mut self, lead: &[u8], value: &str) {
        self.raw(lead);
        self.raw(value.as_bytes());
        self.raw(b"\"");
    }

    /// `lead` is the comma, the name, the colon and the first quote, in one piece.
    fn text(&mut self, lead: &[u8], value: &[u8]) {
        self.raw(lead);
        let plain = |it: &u8| matches!(it, b' '..=b'~') & (*it != b'"') & (*it != b'\\');
        if value.iter().fold(true, |all, it| all & plain(it)) {
            self.raw(value)
        } else {
            self.escape(value)
        }
        self.raw(b"\"");
    }

    /// Who called, by which kind of credential, and for whom it counts.
    fn principal(&mut self, principal: &Principal) {
        self.words(br#","principal":"#, &principal.subject);
        self.text(br#","auth":""#, principal.kind.as_str().as_bytes());
        if let Some(tenant) = &principal.tenant {
            self.words(br#","tenant":"#, tenant);
        }
    }

    /// The parts of an aggregated answer that are known: a route has a few. Names are of plain signs.
    fn parts(&mut self, parts: &Parts) {
        let mut lead: &[u8] = br#","parts":{""#;
        for PartOutcome { name, result, time } in parts.outcomes() {
            self.text(lead, name.as_bytes());
            self.text(br#":{"result":""#, result.as_bytes());
            self.millis(br#","ms":"#, time);
            self.raw(b"}");
            lead = br#",""#;
        }
        self.raw(if lead.len() > 2 { br#","parts":{}"# } else { b"}" });
    }

    /// What a refusal was about, in the word that its client got, or the limit's name.
    fn refusal(&mut self, refusal: &Refusal) {
        if let Some(reason) = refusal.reason() {
            self.text(br#","reason":""#, reason.as_bytes());
        }
        if let Refusal::RateLimited { name: Some(name), .. } = refusal {
            self.text(br#","limit":""#, name.as_bytes());
        }
    }

    /// A text that somebody else has written, and that may be in any language; `lead` ends with the colon.
    fn words(&mut self, lead: &[u8], value: &str) {
        self.raw(lead);
        let _ = serde_json::to_writer(&mut *self.0, &*without_credentials(value)); // nothing fails in memory
    }

    #[cold]
    fn escape(&mut self, value: &[u8]) {
        for &byte in value {
            match byte {
                b'"' | b'\\' => self.0.extend_from_slice(&[b'\\', byte]),
                b' '..=b'~' => self.0.push(byte),
                _ => self.escaped(byte),
            }
        }
    }

    /// What is not plain ASCII is shown as the byte it is: a target may hold anything.
    fn escaped(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.raw(b"\\u00");
        self.0.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }

    fn number(&mut self, lead: &[u8], number: u64) {
        self.raw(lead);
        self.raw(itoa::Buffer::new().format(number).as_bytes());
    }

    fn address(&mut self, ip: IpAddr, port: Option<u16>) {
        match ip {
            IpAddr::V6(_) if port.is_some() => {
                self.raw(b"[");
                self.raw(AddressText::of(ip).as_bytes());
                self.raw(b"]");
            }
            ip => self.raw(AddressText::of(ip).as_bytes()),
        }
        if let Some(port) = port {
            self.raw(b":");
            self.raw(itoa::Buffer::new().format(port).as_bytes());
        }
    }

    /// Milliseconds with three decimals.
    fn millis(&mut self, lead: &[u8], length: Duration) {
        let micros = length.as_micros() as u64;
        self.number(lead, micros / 1000);
        let rest = micros % 1000;
        let digits = [b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8];
        self.raw(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_target_the_line_is_json() {
        let mut line = vec![b'{', b'"', b'a', b'"', b':', b'1'];
        let mut out = Json(&mut line);
        out.text(br#","path":""#, b"/a\"b\\c\n\x80");
        out.millis(br#","ms":"#, Duration::from_micros(1_050));
        out.raw(br#","at":""#);
        out.address("127.0.0.1".parse().unwrap(), Some(80));
        out.address("::1".parse().unwrap(), Some(80));
        out.raw(b"\"}");
        let parsed: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(parsed["path"], "/a\"b\\c\n\u{80}");
        assert_eq!(parsed["ms"], 1.05);
        assert_eq!(parsed["at"], "127.0.0.1:80[::1]:80");
    }
}
