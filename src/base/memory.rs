//! Giving memory back to the system.

/// Gives back what this thread's heap does not use any more. The allocator does so by itself only as it goes on
/// allocating, and a thread whose thousands of connections have gone may have nothing to allocate for hours.
#[expect(
    unsafe_code,
    reason = "the allocator offers no safe function; this one takes no pointer and has no precondition"
)]
pub fn give_back_memory() {
    // SAFETY: `mi_collect` may be called at any time from any thread, also where another allocator is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
