//! What the fuzz targets share: the codec, what comes of bytes when it reads them in pieces, and a
//! reference that reads the same bytes in another way.
//!
//! The codec's files are compiled here as they are, without the gateway around them: what it needs of
//! Pingora is the crate of heads, so this builds in a minute and every byte of it is instrumented.

extern crate self as pingora;

pub use pingora_http as http;

#[path = "../../src/http/mod.rs"]
pub mod codec;
pub mod driver;
pub mod reference;

/// What comes of a connection's bytes: whole requests, and why there is no other one.
#[derive(Debug, PartialEq)]
pub struct Reading {
    pub requests: Vec<Request>,
    pub end: End,
}

/// One request, as any reader has to understand it.
#[derive(Debug, Default, PartialEq)]
pub struct Request {
    pub method: String,
    /// In origin form.
    pub target: String,
    /// In the order of their names; those of one name in the order in which they came.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
    pub persistent: bool,
    pub upgrade: bool,
    pub expects_continue: bool,
}

/// Why a reader stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// More has to come, or could.
    Open,
    /// What came can't be read, whatever comes behind it.
    Refused,
    /// CONNECT: nothing behind it is a request.
    Connect,
}
