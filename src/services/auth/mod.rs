//! The local service `auth`: sign-in, tokens, users (R4, PX-1, US-009).

mod accounts;
mod passwords;

pub use accounts::{
    MadeKey, NAME_RULE, NoRandomness, ROLE_RULE, ROLES_MAX, is_role, is_scope, is_user_name, random_password,
};
pub use passwords::{BadPassword, Busy, Passwords};
