//! Upstreams with real sockets: the room seen from its door.
