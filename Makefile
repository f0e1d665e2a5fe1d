# The few commands people type; the work is in cargo and tests/ci.

.PHONY: demo test lint build bench startup-order

# Two trust domains federate and their workloads talk, on this machine.
demo:
	@tests/ci/system-packages.sh build
	cargo run --release -- demo

# Installs what the machine lacks, then format, lint, licences and every test; ends with the time of each part.
test:
	@tests/ci/test.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-features --all-targets -- -D warnings

build:
	@tests/ci/system-packages.sh build
	cargo build --workspace

# Measures the gateway as it is shipped. See docs/benchmarks.md; ARGS="idle --output json" runs one part.
ARGS ?= all
bench:
	@tests/ci/system-packages.sh build
	cargo run --profile dist -p entente-tests --bin bench -- $(ARGS)

# Renews src/startup-order.txt, which keeps an idle gateway small. Needs valgrind; see docs/benchmarks.md.
TARGET = $${CARGO_TARGET_DIR:-target}/dist
startup-order:
	@command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind, then run this again" >&2; exit 1; }
	# valgrind knows the names of functions in .text alone
	echo > src/startup-order.txt
	cargo rustc --profile dist -p entente --bin entente -- -C strip=none
	cargo build --profile dist -p entente-tests --bin bench
	tests/ci/startup_order.py "$(TARGET)/entente" "$(TARGET)/bench"
