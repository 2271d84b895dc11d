//! Black-box tests of the room, over real sockets.
