#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS (60 where it is not set); what one finds is left in fuzz/artifacts.
# Needs cargo-fuzz; any toolchain does, for no sanitizer is used: the code has no `unsafe` of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:$HOME/.cargo/bin"

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: needs cargo-fuzz and a C++ compiler: cargo install cargo-fuzz --locked" >&2
    exit 1
fi
for target in connection chunks request_head response_head decoder; do
    echo "fuzz: $target"
    # The first folder keeps what is learnt, the second has where to begin.
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run -s none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -dict=fuzz/http1.dict -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 -verbosity=0
done
