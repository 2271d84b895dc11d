//! Compressed bodies: whatever comes, a decoder ends, gives no more than it may, and makes the same of the same bytes
//! however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moongate_fuzz::codec::{Coding, DecodeError, Decoder};

const MAX: usize = 1 << 20;

fn decoded(coding: Coding, bytes: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(coding, MAX).expect("memory");
    let mut text = Vec::new();
    for piece in bytes.chunks(size) {
        text.extend(decoder.decode(piece)?);
    }
    text.extend(decoder.finish()?);
    Ok(text)
}

fuzz_target!(|input: &[u8]| {
    let [kind, size, bytes @ ..] = input else { return };
    let coding = Coding::ALL[usize::from(*kind) % Coding::ALL.len()];
    let whole = decoded(coding, bytes, bytes.len().max(1));
    let pieces = decoded(coding, bytes, usize::from(*size).max(1));
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert!(whole == pieces && whole.len() <= MAX);
    }
    // What is whole is so in pieces, too; only what is too much may show sooner or later.
    assert!(whole.is_ok() == pieces.is_ok() || [whole.err(), pieces.err()].contains(&Some(DecodeError::TooLarge)));
});
