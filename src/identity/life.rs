//! What is alive of identities: it outlives reloads.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::config::Tokens;
use super::keys::Keys;

/// What the gateway knows about who is who: keys and what was learnt with them. One for the process.
#[derive(Debug)]
pub struct Identity {
    tokens: ArcSwap<Tokens>,
}

impl Identity {
    /// Begins with what was compiled.
    pub fn begin(tokens: Tokens) -> Arc<Self> {
        Arc::new(Self { tokens: ArcSwap::from_pointee(tokens) })
    }

    /// Lets what was compiled anew count from now on.
    pub fn reload(&self, tokens: Tokens) {
        self.tokens.store(Arc::new(tokens));
    }

    /// What is configured now.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// The keys that sign and count now.
    pub fn keys(&self) -> Arc<Keys> {
        self.tokens.load().keys().clone()
    }
}
