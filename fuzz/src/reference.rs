//! A reader of requests that shares nothing with the codec but the standard: it has all the bytes, takes
//! lines apart with plain string functions, and has no idea of speed.
//!
//! It judges what is whole: a head with its empty line, a line with its end. The codec may refuse earlier.

use std::net::Ipv6Addr;

use crate::codec::may_be_trailer;
use crate::{End, Reading, Request};

type Field = (String, Vec<u8>);

/// Why there is no other request: more has to come, or it is wrong.
enum Stop {
    Open,
    Wrong,
}

/// All requests on a connection.
pub fn connection(mut input: &[u8]) -> Reading {
    let mut requests = Vec::new();
    let end = loop {
        match request(input) {
            Ok((request, rest)) => {
                let connect = request.method == "CONNECT";
                requests.push(request);
                if connect {
                    break End::Connect;
                }
                input = rest;
            }
            Err(Stop::Open) => break End::Open,
            Err(Stop::Wrong) => break End::Refused,
        }
    };
    Reading { requests, end }
}

fn wrong_unless(good: bool) -> Result<(), Stop> {
    if good { Ok(()) } else { Err(Stop::Wrong) }
}

fn request(mut input: &[u8]) -> Result<(Request, &[u8]), Stop> {
    let mut empty_lines = 0;
    while let Some(rest) = input.strip_prefix(b"\r\n") {
        (input, empty_lines) = (rest, empty_lines + 1);
        wrong_unless(empty_lines <= 4)?;
    }
    let end = find(input, b"\r\n\r\n").ok_or(Stop::Open)?;
    let (head, rest) = (&input[..end], &input[end + 4..]);
    let lines = split(head, b"\r\n");
    wrong_unless(lines.iter().all(|it| !it.contains(&b'\r') && !it.contains(&b'\n')))?;
    let (method, target, version) = request_line(lines[0])?;
    let mut fields = lines[1..].iter().map(|it| field(it)).collect::<Result<Vec<_>, _>>()?;
    wrong_unless(fields.len() <= 128 && fields.iter().all(|it| it.1.len() <= 16384) && head.len() + 4 <= 65536)?;
    fields.retain(|(name, _)| !folds(name));

    let target = host_and_target(&method, &target, version, &mut fields)?;
    let connection = connection_options(&fields)?;
    let has = |option: &str| connection.iter().any(|it| it == option);
    let mut request = Request {
        persistent: method != "CONNECT" && !has("close") && (version == 1 || has("keep-alive")),
        upgrade: version == 1 && has("upgrade") && fields.iter().any(|it| it.0 == "upgrade"),
        ..Request::default()
    };
    let expected = elements(&fields, "expect").iter().any(|it| it == "100-continue");
    let (body_length, chunked) = framing(version, &mut fields)?;
    let has_body = method != "CONNECT" && (chunked || body_length > 0);
    request.expects_continue = version == 1 && has_body && expected;
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    (request.method, request.target, request.fields) = (method, target, fields);
    if !has_body {
        return Ok((request, rest));
    }
    if chunked {
        let (body, trailers, rest) = chunks(rest)?;
        (request.body, request.trailers) = (body, trailers);
        return Ok((request, rest));
    }
    if (rest.len() as u64) < body_length {
        return Err(Stop::Open);
    }
    let (body, rest) = rest.split_at(body_length as usize);
    request.body = body.to_vec();
    Ok((request, rest))
}

fn request_line(line: &[u8]) -> Result<(String, String, u8), Stop> {
    let line = std::str::from_utf8(line).map_err(|_| Stop::Wrong)?;
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(Stop::Wrong) };
    wrong_unless(is_token(method.as_bytes()) && method.len() <= 32)?;
    wrong_unless(
        !target.is_empty() && target.len() <= 8192 && target.chars().all(|it| it.is_ascii_graphic() && it != '#'),
    )?;
    match version {
        "HTTP/1.1" => Ok((method.into(), target.into(), 1)),
        "HTTP/1.0" => Ok((method.into(), target.into(), 0)),
        _ => Err(Stop::Wrong),
    }
}

fn field(line: &[u8]) -> Result<Field, Stop> {
    let colon = line.iter().position(|it| *it == b':').ok_or(Stop::Wrong)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    wrong_unless(is_token(name))?;
    wrong_unless(value.iter().all(|it| *it == b'\t' || (*it >= b' ' && *it != 0x7f)))?;
    Ok((String::from_utf8_lossy(name).to_lowercase(), trim(value).to_vec()))
}

/// Names that CGI makes `CONTENT_LENGTH` or `TRANSFER_ENCODING` of.
fn folds(name: &str) -> bool {
    let folded: String = name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '_' }).collect();
    let is_one = folded == "content_length" || folded == "transfer_encoding";
    is_one && name != "content-length" && name != "transfer-encoding"
}

fn host_and_target(method: &str, target: &str, version: u8, fields: &mut Vec<Field>) -> Result<String, Stop> {
    let hosts: Vec<String> = values(fields, "host").iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect();
    wrong_unless(hosts.len() == 1 || (hosts.is_empty() && version == 0))?;
    let host = hosts.first().map(|it| host_and_port(it, None)).transpose()?;
    let authority_form = method == "CONNECT" && host_and_port(target, None).is_ok();
    if authority_form || target == "*" {
        return Ok(target.into());
    }
    if target.starts_with('/') {
        wrong_unless(is_path(target))?;
        return Ok(target.into());
    }
    let (scheme, rest) = target.split_once("://").ok_or(Stop::Wrong)?;
    let default = match scheme.to_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(Stop::Wrong),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (name, port) = host_and_port(authority, Some(default))?;
    if let Some((other, other_port)) = host {
        wrong_unless(name == other && port == other_port.or(Some(default)))?;
    }
    fields.retain(|it| it.0 != "host");
    fields.push(("host".into(), authority.as_bytes().to_vec()));
    let path = match path {
        "" if method == "OPTIONS" => return Ok("*".into()),
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    };
    wrong_unless(is_path(&path))?;
    Ok(path)
}

fn host_and_port(host: &str, default: Option<u16>) -> Result<(String, Option<u16>), Stop> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Stop::Wrong)?;
            wrong_unless(address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':')))?;
            (address, port.strip_prefix(':').unwrap_or_default())
        }
        None => {
            let (name, port) = host.split_once(':').unwrap_or((host, ""));
            let plain = |it: char| it.is_ascii_alphanumeric() || "-._~".contains(it);
            wrong_unless(!name.is_empty() && name.chars().all(plain))?;
            (name, port)
        }
    };
    if port.is_empty() {
        return Ok((name.to_lowercase(), default));
    }
    wrong_unless(port.chars().all(|it| it.is_ascii_digit()))?;
    let port = port.parse().map_err(|_| Stop::Wrong)?;
    Ok((name.to_lowercase(), Some(port)))
}

/// What the crate of URIs takes besides what RFC 3986 has.
fn is_path(target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    !path.contains(['<', '>', '`']) && !query.contains(['"', '<', '>'])
}

fn connection_options(fields: &[Field]) -> Result<Vec<String>, Stop> {
    const NOT_ITS_OWN: &str = "host content-length content-type content-encoding transfer-encoding authorization cookie origin \
        expect max-forwards forwarded via x-real-ip x-request-id traceparent tracestate date";
    let options = elements(fields, "connection");
    for option in &options {
        wrong_unless(is_token(option.as_bytes()))?;
        wrong_unless(!option.starts_with("x-forwarded-") && !NOT_ITS_OWN.split(' ').any(|it| it == option))?;
    }
    Ok(options)
}

/// The body's length, and whether it is chunked; the length in canonical form.
fn framing(version: u8, fields: &mut [Field]) -> Result<(u64, bool), Stop> {
    let codings = values(fields, "transfer-encoding");
    let lengths = values(fields, "content-length");
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok((0, false)),
        ([coding], []) => {
            wrong_unless(version == 1 && coding.eq_ignore_ascii_case(b"chunked"))?;
            Ok((0, true))
        }
        ([], [length]) => {
            let text = std::str::from_utf8(length).map_err(|_| Stop::Wrong)?;
            wrong_unless(!text.is_empty() && text.chars().all(|it| it.is_ascii_digit()))?;
            let length: i64 = text.parse().map_err(|_| Stop::Wrong)?;
            let of_length = fields.iter_mut().filter(|it| it.0 == "content-length");
            of_length.for_each(|it| it.1 = length.to_string().into_bytes());
            Ok((length as u64, false))
        }
        _ => Err(Stop::Wrong),
    }
}

type Chunked<'a> = (Vec<u8>, Vec<Field>, &'a [u8]);

/// A chunked body, its trailers, and what is behind it.
fn chunks(mut input: &[u8]) -> Result<Chunked<'_>, Stop> {
    let (mut body, mut extensions) = (Vec::new(), 0);
    loop {
        let (text, rest) = line(input)?;
        let digits = text.iter().position(|it| !it.is_ascii_hexdigit()).unwrap_or(text.len());
        let (digits, extension) = text.split_at(digits);
        let size = i64::from_str_radix(std::str::from_utf8(digits).unwrap_or_default(), 16).map_err(|_| Stop::Wrong)?;
        extensions += extension.len();
        wrong_unless(digits.len() <= 16 && is_extension(extension))?;
        wrong_unless(text.len() + 2 <= 8192 && extensions <= 16384)?;
        if size == 0 {
            let (trailers, rest) = trailers(rest)?;
            return Ok((body, trailers, rest));
        }
        let data = rest.get(..size as usize).ok_or(Stop::Open)?;
        body.extend_from_slice(data);
        let behind = &rest[data.len()..];
        if behind.len() < 2 {
            return Err(Stop::Open);
        }
        input = behind.strip_prefix(b"\r\n").ok_or(Stop::Wrong)?;
    }
}

fn trailers(mut input: &[u8]) -> Result<(Vec<Field>, &[u8]), Stop> {
    let (mut list, mut count, start) = (Vec::new(), 0, input.len());
    loop {
        let (text, rest) = line(input)?;
        input = rest;
        wrong_unless(start - input.len() <= 16384)?;
        if text.is_empty() {
            list.sort_by(|a: &Field, b| a.0.cmp(&b.0));
            return Ok((list, input));
        }
        count += 1;
        wrong_unless(count <= 64)?;
        let field = field(text)?;
        if may_be_trailer(&field.0.parse().map_err(|_| Stop::Wrong)?) {
            list.push(field);
        }
    }
}

/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`, by trying everything.
fn is_extension(text: &[u8]) -> bool {
    let blanks = |text: &[u8]| text.iter().all(|it| b" \t".contains(it));
    if text.is_empty() {
        return true;
    }
    // The last `;` that is not in quotes begins the last extension.
    (0..text.len()).rev().filter(|at| text[*at] == b';').any(|at| {
        let before = &text[..at];
        let kept = before.iter().rposition(|it| !b" \t".contains(it)).map_or(0, |it| it + 1);
        let one = &text[at + 1..];
        let one = &one[one.iter().position(|it| !b" \t".contains(it)).unwrap_or(one.len())..];
        let is_one = is_token(one)
            || (0..one.len()).filter(|it| one[*it] == b'=').any(|equals| {
                let (name, value) = (&one[..equals], &one[equals + 1..]);
                let name_end = name.iter().position(|it| b" \t".contains(it)).unwrap_or(name.len());
                let value_start = value.iter().position(|it| !b" \t".contains(it)).unwrap_or(value.len());
                let value = &value[value_start..];
                is_token(&name[..name_end]) && blanks(&name[name_end..]) && (is_token(value) || is_quoted(value))
            });
        is_one && is_extension(&before[..kept])
    })
}

fn is_quoted(text: &[u8]) -> bool {
    let [b'"', inner @ .., b'"'] = text else { return false };
    let (mut escaped, mut good) = (false, true);
    for byte in inner {
        good &= *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        good &= escaped || *byte != b'"';
        escaped = !escaped && *byte == b'\\';
    }
    good && !escaped
}

/// A line without its end.
fn line(input: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    let end = input.iter().position(|it| *it == b'\n').ok_or(Stop::Open)?;
    let text = input[..end].strip_suffix(b"\r").ok_or(Stop::Wrong)?;
    wrong_unless(!text.contains(&b'\r'))?;
    Ok((text, &input[end + 1..]))
}

fn values(fields: &[Field], name: &str) -> Vec<Vec<u8>> {
    fields.iter().filter(|it| it.0 == name).map(|it| it.1.clone()).collect()
}

/// In lower case.
fn elements(fields: &[Field], name: &str) -> Vec<String> {
    let joined = values(fields, name).join(&b","[..]);
    let elements = split(&joined, b",");
    let text = elements.iter().map(|it| String::from_utf8_lossy(trim(it)).to_ascii_lowercase());
    text.filter(|it| !it.is_empty()).collect()
}

fn is_token(text: &[u8]) -> bool {
    let plain = |it: &u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(it);
    !text.is_empty() && text.iter().all(plain)
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|it| it == part)
}

fn split<'a>(mut text: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = find(text, by) {
        parts.push(&text[..at]);
        text = &text[at + by.len()..];
    }
    parts.push(text);
    parts
}
