//! What may be on an upstream's connection: requests in the one canonical form, read without any
//! leniency. Where two readers could differ, this one fails.

pub type Fields = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    /// Whether the connection ended before the body did.
    pub cut: bool,
}

impl Exact {
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// Every request of a connection.
pub fn requests(mut bytes: &[u8]) -> Result<Vec<Exact>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (request, rest) = request(bytes).map_err(|it| format!("{it}, in '{}'", bytes.escape_ascii()))?;
        bytes = rest;
        found.push(request);
    }
    Ok(found)
}

fn request(bytes: &[u8]) -> Result<(Exact, &[u8]), String> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").ok_or("a head without an end")?;
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    if !head.iter().all(|it| matches!(it, b'\r' | b'\n' | b'\t' | b' '..=b'~' | 0x80..)) {
        return Err("a control byte in the head".into());
    }
    let head: String = head.iter().map(|it| char::from(*it)).collect();
    if head.split("\r\n").any(|line| line.contains(['\r', '\n']) || line.starts_with([' ', '\t'])) {
        return Err("a line that is not one".into());
    }
    let mut lines = head.split("\r\n");
    let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return Err("a request line of other words".into()) };
    if !is_token(method) || !target.starts_with('/') || !target.bytes().all(|it| it.is_ascii_graphic() && it != b'#') {
        return Err("a bad method or target".into());
    }
    let mut fields = Fields::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
        if !is_token(name) {
            return Err(format!("the field's name {name:?}"));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let mut request = Exact { method: method.into(), target: target.into(), fields, body: Vec::new(), cut: false };
    let [host] = request.all("host")[..] else { return Err("not one Host".into()) };
    if host.is_empty() || !host.bytes().all(|it| it.is_ascii_alphanumeric() || b".-_~:[]".contains(&it)) {
        return Err(format!("the Host {host:?}"));
    }
    let rest = match (&request.all("content-length")[..], &request.all("transfer-encoding")[..]) {
        ([], []) => rest,
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| format!("the length {length:?}"))?;
            if length.to_string() != request.all("content-length")[0] {
                return Err("a length in another form".into());
            }
            request.cut = rest.len() < length;
            let (body, rest) = rest.split_at(length.min(rest.len()));
            request.body = body.to_vec();
            rest
        }
        ([], ["chunked"]) => chunks(rest, &mut request)?,
        (lengths, codings) => return Err(format!("the framing {lengths:?} {codings:?}")),
    };
    Ok((request, rest))
}

fn chunks<'a>(mut rest: &'a [u8], request: &mut Exact) -> Result<&'a [u8], String> {
    loop {
        let Some(end) = rest.windows(2).position(|it| it == b"\r\n") else {
            request.cut = true;
            return Ok(&[]);
        };
        let size = std::str::from_utf8(&rest[..end]).map_err(|it| it.to_string())?;
        if size.is_empty() || !size.bytes().all(|it| it.is_ascii_hexdigit()) {
            return Err(format!("the chunk size {size:?}"));
        }
        let size = usize::from_str_radix(size, 16).map_err(|it| it.to_string())?;
        rest = &rest[end + 2..];
        if rest.len() < size + 2 {
            request.cut = true;
            return Ok(&[]);
        }
        if &rest[size..size + 2] != b"\r\n" {
            return Err("a chunk without its end".into());
        }
        request.body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
        if size == 0 {
            return Ok(rest);
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it))
}
