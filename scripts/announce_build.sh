#!/usr/bin/env bash
# Says what a build without anything to build on is about to do: nobody should sit in front of it and wonder.
# Usage: scripts/announce_build.sh BINARY
set -euo pipefail

[ ! -e "$1" ] || exit 0
crates=$(grep -c '^name = ' "$(dirname "$0")/../Cargo.lock")
echo "build: the first one compiles the gateway and the $crates packages of Cargo.lock that it may need;"
echo "build: about 7 minutes on two cores, then seconds. \`cargo run -- run\` is quicker to build and slower to serve."
