//! A connection with requests one behind the other: the codec and the reference understand the same, and
//! what the codec refuses early has no ending that the reference would take.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moongate_fuzz::{End, driver, reference};

/// Ways in which bytes could go on.
const ENDINGS: [&[u8]; 10] = [
    b"\n",
    b"\n\r\n",
    b"\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\r\nHost: a\r\n\r\n",
    b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b" HTTP/1.0\r\n\r\n",
    b": a\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"0\r\n\r\n0\r\n\r\n",
];

fuzz_target!(|input: &[u8]| {
    let (size, bytes) = driver::split(input);
    let (found, expected) = (driver::connection(bytes, size), reference::connection(bytes));
    assert_eq!(found.requests, expected.requests);
    match (found.end, expected.end) {
        (End::Refused, End::Open) => {
            for ending in ENDINGS {
                let longer = reference::connection(&[bytes, ending].concat());
                assert_eq!(longer.requests.len(), found.requests.len(), "refused, but {longer:?}");
            }
        }
        (found, expected) => assert_eq!(found, expected),
    }
});
