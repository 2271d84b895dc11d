use super::*;

/// All that comes of `input` when it is received in pieces: data, trailers, and what is left of it.
fn decode(framing: Framing, input: &[u8], size: usize) -> Result<(Vec<u8>, String, Vec<u8>, bool), BodyError> {
    let (mut buffer, mut decoder, mut data) = (BytesMut::new(), BodyDecoder::new(framing), Vec::new());
    let mut pieces = input.chunks(size);
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(piece) => data.extend_from_slice(&piece),
            Decoded::End(trailers) => {
                pieces.for_each(|it| buffer.extend_from_slice(it));
                assert_eq!(decoder.received() as usize, input.len() - buffer.len());
                assert_eq!((decoder.is_done(), decoder.decode(&mut buffer)), (true, Ok(Decoded::End(None))));
                let trailers = trailers.map(|it| format!("{it:?}")).unwrap_or_default();
                return Ok((data, trailers, buffer.to_vec(), true));
            }
            Decoded::More => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok((data, String::new(), buffer.to_vec(), false)),
            },
        }
    }
}

#[track_caller]
fn check(framing: Framing, input: &str, data: &str, left: &str) {
    for size in [1, 2, 3, input.len().max(1)] {
        let expected = (data.as_bytes().to_vec(), String::new(), left.as_bytes().to_vec(), true);
        assert_eq!(decode(framing, input.as_bytes(), size), Ok(expected), "{input:?} in pieces of {size}");
    }
}

#[track_caller]
fn refused(input: &[u8]) {
    for size in [1, 2, input.len()] {
        let result = decode(Framing::Chunked, input, size);
        assert!(matches!(result, Err(BodyError::Malformed(_))), "{}: {result:?}", input.escape_ascii());
    }
}

#[test]
fn each_framing_has_its_end() {
    check(Framing::Empty, "GET /", "", "GET /");
    check(Framing::Length(0), "GET /", "", "GET /");
    check(Framing::Length(5), "helloGET /", "hello", "GET /");
    check(Framing::Chunked, "5\r\nhello\r\n0\r\n\r\nGET /", "hello", "GET /");
    check(Framing::Chunked, "0\r\n\r\n", "", "");
    check(Framing::Chunked, "005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n", "hello0123456789", "");
    check(Framing::Chunked, "5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n", "hello", "");
    check(Framing::Chunked, "17\r\nGET /inner HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", "GET /inner HTTP/1.1\r\n\r\n", "");
    check(Framing::Chunked, "0\r\nHost: evil\r\nContent-Length: 99\r\n\r\nx", "", "x");
}

#[test]
fn the_end_of_the_connection_ends_only_what_has_no_other_end() {
    let after = |framing, input: &str| {
        let (mut buffer, mut decoder) = (BytesMut::from(input), BodyDecoder::new(framing));
        while let Ok(Decoded::Data(_)) = decoder.decode(&mut buffer) {}
        (decoder.on_eof(), decoder.is_done())
    };
    assert_eq!(after(Framing::UntilClose, "hello"), (Ok(()), true));
    assert_eq!(after(Framing::UntilClose, ""), (Ok(()), true));
    assert_eq!(after(Framing::Empty, ""), (Ok(()), true));
    assert_eq!(after(Framing::Length(5), "hello"), (Ok(()), true));
    assert_eq!(after(Framing::Chunked, "0\r\n\r\n"), (Ok(()), true));
    let cut = (Err(BodyError::Truncated), false);
    assert_eq!(after(Framing::Length(5), "hell"), cut);
    for input in ["", "5", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\nx: y\r\n"] {
        assert_eq!(after(Framing::Chunked, input), cut, "{input:?}");
    }
    assert!(matches!(after(Framing::Chunked, "x"), (Err(BodyError::Malformed(_)), false)));
}

#[test]
fn data_are_parts_of_the_buffer() {
    let mut buffer = BytesMut::from("5\r\nhello\r\n0\r\n\r\n");
    let at = buffer.as_ptr() as usize + 3;
    let Ok(Decoded::Data(data)) = BodyDecoder::new(Framing::Chunked).decode(&mut buffer) else { panic!("no data") };
    assert_eq!((data.as_ptr() as usize, &data[..]), (at, &b"hello"[..]));
}

#[test]
fn what_is_not_in_the_grammar_is_refused() {
    let bodies: [&[u8]; 37] = [
        b"\r\n",
        b";x\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\t\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5,5\r\n",
        b"g\r\n",
        b"xyz\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n",
        b"2;\nxx\r\n2e\r\n0\r\n\r\n",
        b"5;a\nb\r\n",
        b"5;a\rb\r\n",
        b"5;\0\r\n",
        b"5;a=\"\x01\"\r\n",
        b"5\r\nhello world\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\n\r\n\r\n",
        b"5\r\nhello\r\n;x\r\n\r\n",
        b"5\r\nhello\r\n-0\r\n\r\n",
        b"0\n\r\n",
        b"0\r\nXX\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\r\nX Y: 1\r\n\r\n",
        b"0\r\nX: \0\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\nX: 1\r\n 2\r\n\r\n",
        b"0\r\n: 1\r\n\r\n",
        b"0;\r\n\r\n",
        b"8000000000000000\r\n",
        b"100000000000000000\r\n",
    ];
    bodies.iter().for_each(|it| refused(it));
}

#[test]
fn the_cost_of_framing_is_bounded() {
    let overhead = |input: String| decode(Framing::Chunked, input.as_bytes(), 1000) == Err(BodyError::TooMuchOverhead);
    assert!(overhead(format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17_000))));
    assert!(overhead("1;abcdefgh\r\nx\r\n".repeat(2000)));
    assert!(overhead(format!("0\r\nX: {}\r\n\r\n", "x".repeat(17_000))));
    assert!(overhead(format!("0\r\n{}\r\n", "x: y\r\n".repeat(65))));
    assert!(!overhead("1\r\nx\r\n".repeat(20_000) + "0\r\n\r\n"));
}

#[test]
fn trailers_come_with_the_end() {
    let input = b"0\r\nGrpc-Status: 0\r\nCookie: a\r\n\r\n";
    let (_, trailers, _, ended) = decode(Framing::Chunked, input, input.len()).unwrap();
    assert_eq!((trailers.as_str(), ended), (r#"{"grpc-status": "0"}"#, true));
}

#[test]
fn nothing_is_decoded_behind_an_error() {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let error = decoder.decode(&mut BytesMut::from("x")).unwrap_err();
    assert_eq!(decoder.decode(&mut BytesMut::from("0\r\n\r\n")), Err(error));
}
