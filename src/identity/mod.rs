//! Who a request acts for, and what proves it: principals, keys, tokens, roles.
//!
//! Knows no HTTP: which header field a credential stands in, and how a refusal looks, is for the
//! rooms above.

mod accounts;
mod administration;
mod api_key;
mod cache;
mod certificate;
mod claims;
mod config;
mod identity_token;
mod keys;
mod keyset;
mod metrics;
mod pem;
mod principal;
mod records;
mod remote;
mod revocations;
mod roles;
mod rules;
mod standing;
mod token;
mod token_error;
mod trust;
mod verifier;

pub use accounts::{Account, Accounts, ApiKeyRecord, Unavailable};
pub use administration::NotAdministrator;
pub use api_key::is_api_key;
pub use certificate::{CertificateConfig, CertificateRules, ClientCertificate};
pub use claims::Claims;
pub use config::{Tokens, TokensConfig};
pub use identity_token::{Fields, IdentityToken};
pub use keys::{Keys, SignError};
pub use principal::{Caller, CallerKey, Kind, Principal, Validity};
pub use revocations::{Revocation, Revocations};
pub use roles::{Roles, RolesConfig};
pub use standing::Standing;
pub use token_error::{AuthError, TokenError};
pub use trust::TrustConfig;
pub use verifier::{Identity, IssuerId, Verdict, Verified};
