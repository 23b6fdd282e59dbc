# What is done often. Needs a Rust toolchain; `make deb` also cargo-deb (cargo install cargo-deb --locked).

.PHONY: help build test lint man deb bench-quick

help: # Says what there is
	@sed -n 's/^\([a-z-]*\):.*# \(.*\)/\1\t\2/p' Makefile | expand -t 14

build: # Both daemons, the mirror and the testbed, optimised: target/release
	cargo build --release --locked

test: # All tests; what lacks privileges or tools says so
	cargo test --workspace --locked

lint: # Formatting, lints, docs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

man: # Manual pages and shell completions: target/dist
	cargo run --quiet --release --locked --package packaging

deb: man # Debian packages of both daemons and of the mirror: target/debian
	@command -v cargo-deb >/dev/null || { echo "cargo-deb is missing: cargo install cargo-deb --locked" >&2; exit 1; }
	cargo deb --quiet --strip --locked --package clientnic
	cargo deb --quiet --strip --locked --package servernic
	cargo deb --quiet --strip --locked --package mirror

bench-quick: # How much sooner the first byte comes, as two minutes tell
	cargo run --release --locked --package testbed -- compare --rtt 10,50 --connections 10
