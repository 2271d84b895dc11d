//! Peers that say whom they forward for and are not believed. Mostly such a one is a proxy that `trusted_proxies` does not
//! name, and its operators wonder why every client has its address: so it is told, once for each.

use std::net::IpAddr;

use parking_lot::Mutex;

/// Of more peers than these nothing is told: they are strangers.
const TOLD_MAX: usize = 64;

static TOLD: Mutex<Vec<IpAddr>> = Mutex::new(Vec::new());

/// Tells of a peer, unless that was done before. A request waits for no other: then the next one tells.
pub(super) fn tell(peer: IpAddr) {
    let Some(mut told) = TOLD.try_lock() else { return };
    if told.len() == TOLD_MAX || told.contains(&peer) {
        return;
    }
    told.push(peer);
    tracing::warn!(
        event = "forwarded_ignored",
        client = %peer,
        "what this peer says of its clients (X-Forwarded-For, Forwarded) counts for nothing: if it is a proxy of yours, name \
         its network under trusted_proxies"
    );
}
