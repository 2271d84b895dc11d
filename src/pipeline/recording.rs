//! Recording a response while it passes to the client.

use bytes::{Bytes, BytesMut};
use pingora::http::ResponseHeader;

/// An answer as the upstream gave it, taken down while it passes. Larger ones than its limit are let
/// go of: then there is no answer.
#[derive(Debug)]
pub struct Recording {
    body_max: usize,
    head: Option<Box<ResponseHeader>>,
    body: BytesMut,
    whole: bool,
    too_large: bool,
}

impl Recording {
    /// Takes down answers with a body of at most `body_max` bytes.
    pub fn new(body_max: usize) -> Self {
        Self { body_max, head: None, body: BytesMut::new(), whole: false, too_large: false }
    }

    /// The final head, as the upstream sent it but for what belongs to its connection.
    pub fn on_head(&mut self, head: &ResponseHeader) {
        self.head = Some(Box::new(head.clone()));
    }

    /// The next piece of the body.
    pub fn on_body(&mut self, piece: &[u8]) {
        if self.body.len() + piece.len() > self.body_max {
            self.too_large = true;
            self.body = BytesMut::new();
        }
        if !self.too_large {
            self.body.extend_from_slice(piece);
        }
    }

    /// The body has ended as it should.
    pub fn on_end(&mut self) {
        self.whole = true;
    }

    /// The answer, if it passed whole and is not too large.
    pub fn into_answer(self) -> Option<(Box<ResponseHeader>, Bytes)> {
        let head = self.head.filter(|_| self.whole && !self.too_large)?;
        Some((head, self.body.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(body_max: usize, pieces: &[&str], whole: bool) -> Option<Bytes> {
        let mut recording = Recording::new(body_max);
        recording.on_head(&ResponseHeader::build(200, None).unwrap());
        pieces.iter().for_each(|it| recording.on_body(it.as_bytes()));
        if whole {
            recording.on_end();
        }
        recording.into_answer().map(|it| it.1)
    }

    #[test]
    fn an_answer_counts_only_when_it_is_whole_and_small_enough() {
        assert_eq!(recorded(6, &["abc", "def"], true).unwrap(), "abcdef");
        assert_eq!(recorded(6, &["abc"], false), None);
        assert_eq!(recorded(5, &["abc", "def"], true), None);
        assert_eq!(recorded(2, &["abc", "d"], true), None);
    }
}
