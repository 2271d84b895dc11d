//! Floods and worn-out work: what a client can ask for is bounded before it begins.
