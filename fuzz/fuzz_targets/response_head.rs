//! A response's head: the same in pieces, without what belonged to its connection, readable again when it
//! is written, and never a panic.

#![no_main]

use bytes::BytesMut;
use http::Method;
use libfuzzer_sys::fuzz_target;
use moongate_fuzz::codec::{Framing, ResponseHead, is_hop_by_hop, read_response, write_response_head};
use moongate_fuzz::driver;

fuzz_target!(|input: &[u8]| {
    let (size, bytes) = driver::split(input);
    let method = if size % 2 == 0 { Method::HEAD } else { Method::GET };
    let read = |size| driver::head(bytes, size, |buffer, scan| read_response(buffer, scan, &method));
    let text = |size| read(size).map(|it| it.map(|(head, taken)| (format!("{head:?}"), taken)));
    assert_eq!(text(size), text(bytes.len().max(1)));
    if let Ok(Some((head, _))) = read(size) {
        check(&head, &method);
    }
});

fn check(head: &ResponseHead, method: &Method) {
    let (status, headers) = (head.response.status.as_u16(), &head.response.headers);
    assert!(!headers.keys().any(is_hop_by_hop));
    let bodiless = *method == Method::HEAD || status < 200 || status == 204 || status == 304;
    assert!(!bodiless || head.framing == Framing::Empty);
    assert!(!(status < 200 || status == 204) || !headers.contains_key("content-length"));
    assert!(head.framing != Framing::UntilClose || !head.persistent);
    assert!(head.upgrade.is_none() || status == 101);

    let mut out = BytesMut::new();
    write_response_head(&head.response, &mut out);
    let again = read_response(&mut out, &mut Default::default(), method);
    let again = again.expect("what was read is written readably").expect("it is whole");
    assert_eq!(again.response.headers, *headers);
    assert_eq!(again.response.status, head.response.status);
}
