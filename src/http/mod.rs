//! HTTP/1 as it stands on the wire, for both ends: heads, framing, chunks, trailers (RFC 9112), and the
//! fields that belong to one connection only (RFC 9110, section 7.6.1), or to one caller.
//!
//! Pure functions over buffers. Two servers that read the same bytes as different messages let one be
//! hidden in the other, so whatever leaves room for doubt is an error here, in requests and in responses
//! alike; nothing is mended. Sockets, deadlines, answers to errors, and what a message means are left to
//! the rooms above.

mod body;
mod chunk_line;
mod claims;
mod coding;
mod credentials;
mod decoder;
mod fields;
mod framing;
mod request;
mod response;
mod scan;
mod target;
mod trailers;
mod weights;
mod write;

#[cfg(test)]
mod properties;

pub use body::{BodyDecoder, BodyError, Decoded};
pub use claims::{Claim, by_spelling, claim, fold_alike, parts_requests, takes};
pub use coding::Coding;
pub use credentials::{claimed, is_credential, unverified_credentials};
pub use decoder::{DecodeError, Decoder};
pub use fields::{
    bearer, essence, has_token, is_any_grpc, is_encoded, is_event_stream, is_grpc, is_hop_by_hop, is_token_byte,
    length, media_type_is, strip_hop_by_hop, tokens,
};
pub use framing::Framing;
pub use request::{RequestHead, folds_into_framing, read_request};
pub use response::{ResponseHead, read_response};
pub use scan::{HeadError, HeadScan};
pub use target::{authority_is_plain, is_same_authority, normal_authority};
pub use trailers::{may_be_trailer, retain_request_trailers, retain_response_trailers};
pub use weights::weighted;
pub use write::{chunk_head, write_field, write_last_chunk, write_response_head};
