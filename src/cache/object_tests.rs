use super::*;
use http::StatusCode;
use proptest::prelude::*;

fn freshness() -> Freshness {
    Freshness {
        born: Duration::from_millis(1_700_000_000_123),
        lifetime: Duration::from_secs(60),
        while_revalidate: Duration::from_secs(5),
        if_error: Duration::ZERO,
        always_ask: false,
        never_stale: true,
        for_everybody: true,
    }
}

fn object(fields: &[(&'static str, &'static str)], body: &'static str) -> Object {
    let mut head = ResponseHeader::build(200, None).unwrap();
    for (name, value) in fields {
        head.append_header(*name, *value).unwrap();
    }
    let target = Target::new(true, "example.org", &"/a?b".parse().unwrap());
    Object::new(&head, body.into(), freshness(), ("r".into(), target), [1, 2].into(), 7).unwrap()
}

#[test]
fn rfc_9111_what_belongs_to_a_connection_is_not_kept() {
    let kept = object(
        &[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=b"),
            ("age", "3"),
            ("content-length", "99"),
            ("x-kept", "1"),
        ],
        "four",
    );
    let names: Vec<&str> = kept.head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-kept", "content-length"]);
    assert_eq!(kept.head.headers["content-length"], "4");
}

#[test]
fn rfc_9111_a_304_replaces_fields_but_not_the_body_and_what_describes_it() {
    let kept = object(&[("etag", "\"a\""), ("x-a", "1"), ("x-a", "2"), ("content-type", "text/plain")], "body");
    let mut answer = ResponseHeader::build(304, None).unwrap();
    for (name, value) in [("x-a", "3"), ("x-new", "4"), ("content-length", "0"), ("content-type", "text/html")] {
        answer.append_header(name, value).unwrap();
    }
    let confirmed = kept.confirmed(&answer, freshness(), 9).unwrap();
    let all =
        |name: &str| confirmed.head.headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("x-a"), all("x-new"), all("etag")), (vec!["3"], vec!["4"], vec!["\"a\""]));
    assert_eq!((all("content-length"), all("content-type")), (vec!["4"], vec!["text/plain"]));
    assert_eq!((confirmed.body.as_ref(), confirmed.known), (&b"body"[..], 9));
}

#[test]
fn r9_1_a_slot_comes_back_from_its_bytes() {
    let slot = Slot::Whole(Arc::new(object(&[("etag", "\"a\""), ("x-a", "1"), ("x-a", "2")], "body")));
    let bytes = encode(b"key", &slot, 42);
    let Some((Slot::Whole(read), 42)) = decode(b"key", &bytes, 9) else { panic!("not read") };
    let Slot::Whole(written) = slot else { panic!() };
    assert_eq!(read.head.headers, written.head.headers);
    assert_eq!((read.head.status, &read.body, read.freshness), (StatusCode::OK, &written.body, written.freshness));
    assert_eq!((&read.target, &read.depends, read.known), (&written.target, &written.depends, 9));

    let spec = Slot::Varied([http::header::ACCEPT_ENCODING].into());
    let Some((Slot::Varied(fields), 1)) = decode(b"k", &encode(b"k", &spec, 1), 0) else { panic!("not read") };
    assert_eq!(fields[..], [http::header::ACCEPT_ENCODING]);
}

#[test]
fn r9_1_what_is_damaged_or_anothers_is_as_good_as_nothing() {
    let bytes = encode(b"key", &Slot::Whole(Arc::new(object(&[("etag", "\"a\"")], "body"))), 1);
    assert!(decode(b"other", &bytes, 0).is_none());
    for length in 0..bytes.len() {
        assert!(decode(b"key", &bytes.slice(..length), 0).is_none(), "cut at {length}");
    }
    for place in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[place] ^= 1;
        assert!(decode(b"key", &damaged.into(), 0).is_none(), "damaged at {place}");
    }
}

proptest! {
    #[test]
    fn whatever_lies_there_nothing_breaks(bytes in any::<Vec<u8>>(), cut in 0_usize..200) {
        let _ = decode(b"key", &bytes.clone().into(), 0);
        // Well summed, but nonsense.
        let mut whole = encode(b"key", &Slot::Varied([].into()), 0).to_vec();
        whole.truncate(12 + cut);
        whole.extend(&bytes);
        if whole.len() > 12 {
            let sum = sum(&whole[12..]);
            whole[4..12].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = decode(b"key", &whole.into(), 0);
    }
}
