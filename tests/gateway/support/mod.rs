//! What black-box tests are made of: the gateway as a process, upstreams that obey or are real,
//! and clients that see every byte. Everything blocks, and everything has a deadline.

pub mod demo;
pub mod dns;
pub mod files;
pub mod gateway;
pub mod http1;
pub mod http2;
pub mod npm;
pub mod oidc;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod tokens;
pub mod upstream;
pub mod waiting;
pub mod websocket;
pub mod websocket_http2;

mod tests;

pub use demo::{Demo, DemoProcess};
pub use dns::DnsServer;
pub use files::{Ca, Folder, Leaf};
pub use gateway::{Gateway, GatewayBuilder, Refused};
pub use http1::{RawClient, Response, get, request};
pub use http2::H2Client;
pub use oidc::{Browser, OidcServer};
pub use postgres::Postgres;
pub use process::{DEADLINE, Process};
pub use redis::Redis;
pub use upstream::{RawUpstream, Request, Script, Signal, nobody};
pub use waiting::{eventually, figure, let_pass};
pub use websocket::{Message, WsClient};
pub use websocket_http2::H2Socket;
