#!/bin/sh
# Checks licences, bans and sources with the one version of cargo-deny the tests use, installing it if it is missing.
set -eu
version=0.20.2
tools="${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}/tools"
deny="$tools/bin/cargo-deny"
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
	# Its speed does not matter; a debug build takes half the time.
	CARGO_TARGET_DIR="$tools/build" cargo install --locked --debug --force --root "$tools" --version "$version" cargo-deny
	rm -rf "$tools/build"
fi
exec "$deny" --workspace --all-features check bans licenses sources
