//! A request's head: the same in pieces, unambiguous for whoever reads it next, and never a panic.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use moongate_fuzz::codec::{Framing, RequestHead, authority_is_plain, read_request, write_field};
use moongate_fuzz::driver;

fuzz_target!(|input: &[u8]| {
    let (size, bytes) = driver::split(input);
    let text =
        |size| driver::head(bytes, size, read_request).map(|it| it.map(|(head, taken)| (format!("{head:?}"), taken)));
    assert_eq!(text(size), text(bytes.len().max(1)));
    if let Ok(Some((head, _))) = driver::head(bytes, size, read_request) {
        check(&head);
    }
});

fn check(head: &RequestHead) {
    let headers = &head.request.headers;
    let hosts: Vec<_> = headers.get_all("host").iter().collect();
    assert!(hosts.len() <= 1 && hosts.iter().all(|it| authority_is_plain(it.as_bytes())));
    assert!(!hosts.is_empty() || head.request.version == http::Version::HTTP_10);
    assert_ne!(head.framing, Framing::UntilClose);
    assert!(!headers.contains_key("content_length") && !headers.contains_key("transfer_encoding"));
    if head.request.method != "CONNECT" {
        let declares = headers.contains_key("transfer-encoding");
        assert_eq!(head.framing == Framing::Chunked, declares);
        assert!(head.request.uri.authority().is_none() && !head.request.raw_path().is_empty());
        assert_eq!(written(head), written(&again(head)));
    }
}

/// The head as it is written when nothing is changed.
fn written(head: &RequestHead) -> BytesMut {
    let mut out = BytesMut::new();
    let request = &head.request;
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(request.raw_path());
    out.extend_from_slice(format!(" {:?}\r\n", request.version).as_bytes());
    for (name, value) in &request.headers {
        write_field(&mut out, name.as_str(), &[value.as_bytes()]);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn again(head: &RequestHead) -> RequestHead {
    let again = read_request(&mut written(head), &mut Default::default());
    let again = again.expect("what was read is written readably").expect("it is whole");
    assert_eq!((again.framing, again.persistent), (head.framing, head.persistent));
    again
}
