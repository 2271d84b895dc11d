//! Who a request acts for, and what proves it: principals, keys, tokens, roles.
//!
//! Knows no HTTP: which header field a credential stands in, and how a refusal looks, is for the
//! rooms above.

mod claims;
mod config;
mod keys;
mod life;
mod pem;
mod principal;

pub use claims::Claims;
pub use config::{Tokens, TokensConfig};
pub use keys::{Keys, SignError};
pub use life::Identity;
pub use principal::{Kind, Principal};
