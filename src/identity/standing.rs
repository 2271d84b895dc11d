//! Whether credentials that were good when a connection began still are: for connections that last.

use std::sync::Arc;

use super::api_key::Holder;
use super::principal::{Kind, Principal};
use super::revocations::{Effect, Facts};
use super::verifier::Identity;
use crate::base::unix_seconds;

/// What has become of somebody's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They count, for all that they did.
    Good,
    /// Their time is over.
    Expired,
    /// They were taken back, or count for less than they did.
    Revoked,
}

/// Whether nothing of what somebody `had` is missing.
pub(super) fn includes(has: &[Arc<str>], had: &[Arc<str>]) -> bool {
    had.iter().all(|it| has.contains(it))
}

impl Identity {
    /// Goes up whenever a token is taken back.
    pub fn revocations_epoch(&self) -> u64 {
        self.revocations.epoch()
    }

    /// How the credentials of a principal stand, as far as memory knows: of API keys, only whether their time is over.
    pub fn standing(&self, principal: &Principal) -> Standing {
        if principal.validity.ends.is_some_and(|it| unix_seconds() >= it) {
            return Standing::Expired;
        }
        if !principal.validity.own_token {
            return Standing::Good;
        }
        match self.revocations.effect(Facts::of(principal)) {
            Effect::None => Standing::Good,
            Effect::Roles(roles) if includes(&roles, &principal.roles) => Standing::Good,
            Effect::Roles(_) | Effect::Revoked => Standing::Revoked,
        }
    }

    /// How an API key stands by its record, which is remembered for a little while and looked up in the store then. A
    /// store that can't be reached takes nothing back.
    pub async fn standing_of_key(&self, principal: &Principal) -> Standing {
        let (Kind::ApiKey, Some(id), Some(accounts)) = (principal.kind, &principal.credential, self.accounts.get())
        else {
            return Standing::Good;
        };
        let ask = async { Ok(accounts.api_key(id).await?.map(|it| Holder::new(id, it))) };
        match self.api_keys.find(id, self.tokens().records_life, ask).await {
            Ok(Some(holder)) if holder.stands_by(principal) => Standing::Good,
            Ok(_) => Standing::Revoked,
            Err(_) => Standing::Good,
        }
    }
}
