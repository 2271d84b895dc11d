# What people and CI do with this repository. Everything installs what it lacks (scripts/setup.sh)
# and nothing that is already there. CARGO_TARGET_DIR is respected.

SHELL := /bin/bash
CARGO_TARGET_DIR ?= target
MOONGATE := $(CARGO_TARGET_DIR)/release/moongate
# Cargo and rustup live here when the shell's start files were not read.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Given to benches/lab/bench.py, such as BENCH=--quick.
BENCH ?=

.PHONY: help run release test lint fuzz bench overload soak schema clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

run: release ## the gateway with two demo back ends; Ctrl-C stops all three
	@scripts/run.sh $(MOONGATE)

release:
	@scripts/setup.sh build
	@scripts/announce_build.sh $(MOONGATE)
	cargo build --release --locked

test: ## every test
	@scripts/setup.sh build test
	cargo test --locked

lint: ## formatting, clippy, rustdoc, dependencies: all without a warning
	@scripts/setup.sh build lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	@scripts/advisories.sh

fuzz: ## the codec of HTTP/1 against a reference, each target for FUZZ_SECONDS=60; needs cargo-fuzz
	@scripts/setup.sh build
	@scripts/fuzz.sh

bench: release ## CPU time of a request and memory of a connection, beside bare Pingora and five other proxies
	@scripts/setup.sh bench
	cargo bench --locked --bench routing --bench filters --bench limits --bench identity --bench balance -- --quick
	python3 benches/lab/bench.py $(BENCH)

overload: release ## what important requests take while an upstream gets twice what it can do
	python3 benches/lab/overload.py --binary $(MOONGATE)

soak: ## 1,000 reloads under load, dying endpoints, 10,000 idle sockets; a million addresses: nobody may notice
	@scripts/setup.sh build
	@# The gateway has two for each socket; what the limit does not allow is left out, and said so.
	ulimit -n "$$(ulimit -Hn)" && MOONGATE_SOAK=full cargo test --release --locked --test soak -- --nocapture

schema: ## what is generated in docs/: JSON Schemas for editors, references, the list of errors
	@scripts/setup.sh build
	MOONGATE_REFRESH=1 cargo test --locked --test docs

clean: ## remove what was built
	cargo clean
