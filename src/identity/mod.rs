//! Who a request acts for, and what proves it: principals, keys, tokens, roles.

mod principal;

pub use principal::{Kind, Principal};
