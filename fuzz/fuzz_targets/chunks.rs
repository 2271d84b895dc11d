//! A chunked body behind a head that is always the same, so that nothing is spent on the head.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moongate_fuzz::{End, driver, reference};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

const ENDINGS: [&[u8]; 10] = [
    b"\n",
    b"\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b": a\r\n\r\n",
    b"\"\r\n\r\n",
    b"a\r\n\r\n",
    b"\nhello\r\n0\r\n\r\n",
];

fuzz_target!(|input: &[u8]| {
    let (size, body) = driver::split(input);
    let bytes = [HEAD, body].concat();
    let (found, expected) = (driver::connection(&bytes, size), reference::connection(&bytes));
    assert_eq!(found.requests, expected.requests);
    match (found.end, expected.end) {
        (End::Refused, End::Open) if found.requests.is_empty() => {
            for ending in ENDINGS {
                let longer = reference::connection(&[&bytes, ending].concat());
                assert!(longer.requests.is_empty(), "refused, but {longer:?}");
            }
        }
        (End::Refused, End::Open) => {}
        (found, expected) => assert_eq!(found, expected),
    }
});
