//! Who a request acts for, and what proves it: principals, keys, tokens, roles.
//!
//! Knows no HTTP: which header field a credential stands in, and how a refusal looks, is for the
//! rooms above.

mod accounts;
mod api_key;
mod badge;
mod cache;
mod certificate;
mod claims;
mod config;
mod flaw;
mod json;
mod keys;
mod keyset;
mod life;
mod metrics;
mod pem;
mod principal;
mod records;
mod remote;
mod revocations;
mod roles;
mod rules;
mod token;
mod trust;

pub use accounts::{Account, Accounts, ApiKeyRecord, Unavailable};
pub use api_key::is_api_key;
pub use badge::{Badge, Fields};
pub use certificate::{CertificateConfig, CertificateRules, ClientCertificate};
pub use claims::Claims;
pub use config::{Tokens, TokensConfig};
pub use flaw::{Denied, Flaw};
pub use keys::{Keys, SignError};
pub use life::{Identity, Verdict, Verified, Voucher};
pub use principal::{Kind, Principal};
pub use revocations::{Revocation, Revocations};
pub use roles::{Roles, RolesConfig};
pub use trust::TrustConfig;
