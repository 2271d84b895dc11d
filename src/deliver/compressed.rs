//! Where a body is compressed: what has come goes into the encoder when nothing more is at hand, and what comes out of it to
//! the client.

use std::io;

use bytes::Bytes;

use super::{Delivery, Undelivered};
use crate::client::Part;
use crate::pipeline::EndState;

impl Delivery<'_> {
    /// Goes on with what has come.
    pub(super) fn compress(&mut self) -> Result<(), Undelivered> {
        match self.compressed.as_mut().and_then(|it| it.advance()) {
            Some(output) => self.on_compressed(output),
            None => Ok(()),
        }
    }

    /// A piece has been compressed.
    pub(super) fn on_compressed(&mut self, output: io::Result<Bytes>) -> Result<(), Undelivered> {
        let Ok(output) = output else {
            tracing::error!(event = "compression_failed", request_id = self.exchange.request_id.as_str());
            return Err(EndState::Truncated.into());
        };
        if !output.is_empty() {
            self.pass(Part::Data(output))?;
        }
        match &mut self.compressed {
            Some(stage) if stage.is_over() => {
                let trailers = stage.take_trailers();
                self.pass(Part::End(trailers))
            }
            _ => Ok(()),
        }
    }
}
