#!/bin/bash
# Every check there is, in order, each timed; stops at the first that fails. Needs no argument.
#   CARGO_TARGET_DIR   where to build; default: a folder in the user's cache, kept for the next run
#   ENTENTE_CACHE      that cache folder; default: ${XDG_CACHE_HOME:-~/.cache}/entente
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export ENTENTE_CACHE="${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ENTENTE_CACHE/target}"
export RUST_BACKTRACE="${RUST_BACKTRACE:-1}" RUST_LIB_BACKTRACE="${RUST_LIB_BACKTRACE:-0}"

names=() seconds=() results=()

table() {
	printf '\n%-44s %8s  %s\n' part seconds result
	for i in "${!names[@]}"; do
		printf '%-44s %8s  %s\n' "${names[$i]}" "${seconds[$i]}" "${results[$i]}"
	done
	printf '%-44s %8s\n' total "$SECONDS"
}

part() { # part NAME COMMAND...
	local name="$1" start=$SECONDS
	shift
	printf '\n=== %s: %s\n' "$name" "$*"
	local result=ok
	"$@" || result="FAILED ($?)"
	names+=("$name") seconds+=($((SECONDS - start))) results+=("$result")
	if [ "$result" != ok ]; then
		table
		printf '\nFAILED: %s\n  %s\n' "$name" "$*" >&2
		exit 1
	fi
}

go_peer() { ENTENTE_GO_PEER="$(tests/ci/peers.sh go | tail -n 1)" && export ENTENTE_GO_PEER; }
kubernetes_peer() { ENTENTE_KUBEPEER="$(tests/ci/peers.sh kubepeer | tail -n 1)" && export ENTENTE_KUBEPEER; }
python_peer() { ENTENTE_PYTHON="$(tests/ci/peers.sh python | tail -n 1)" && export ENTENTE_PYTHON; }

# The names of all integration tests of the workspace.
suites() {
	cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
targets = (target for package in json.load(sys.stdin)["packages"] for target in package["targets"])
print(*sorted({target["name"] for target in targets if target["kind"] == ["test"]}))'
}

part "system packages" tests/ci/system-packages.sh test
part "format" cargo fmt --all --check
part "Go clients: build" go_peer
part "Kubernetes API server: build" kubernetes_peer
part "Python peers: virtual environment" python_peer
part "build" cargo build --workspace --all-features --all-targets
part "lint" cargo clippy --workspace --all-features --all-targets -- -D warnings
part "licences, bans, sources" tests/ci/cargo-deny.sh
export ENTENTE_BIN="$CARGO_TARGET_DIR/debug/entente"
part "unit tests" cargo test --workspace --all-features --lib --bins
part "doc tests" cargo test --workspace --all-features --doc
for suite in $(suites); do
	part "suite $suite" cargo test --workspace --all-features --test "$suite"
done
part "demo" "$ENTENTE_BIN" demo --once
# Last, since it builds dependencies anew: what `cargo build` makes without a feature.
part "build without features" cargo check -p entente

table
printf '\nall passed\n'
