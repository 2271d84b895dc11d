//! The gateway as it is shipped: with the built-in filters alone.

use std::process::ExitCode;

use moongate::app;
use moongate::pipeline::Filters;

// Requests allocate many small things of one size: mimalloc takes a tenth off their cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    app::main(Filters::none())
}
