#!/bin/sh
# system-packages.sh build|test: checks for the Debian or Ubuntu packages the build (or the tests) need, names those
# that are missing, and only then asks for root to install them.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
	echo "cargo is missing: install Rust 1.95 or newer from https://rustup.rs, then run this again" >&2
	exit 1
fi

missing=""
lacks() { # lacks PACKAGE: note a missing package
	missing="$missing $1"
}

# The allocator's own build uses it.
command -v make >/dev/null 2>&1 || lacks make
command -v cc >/dev/null 2>&1 || lacks gcc
printf '#include <stdlib.h>\n' | cc -E -x c - >/dev/null 2>&1 || lacks libc6-dev
if ! command -v pkg-config >/dev/null 2>&1; then
	lacks pkg-config
	[ -e /usr/include/openssl/ssl.h ] || lacks libssl-dev
elif ! pkg-config --exists openssl; then
	lacks libssl-dev
fi
if [ "${1:-build}" = test ]; then
	command -v openssl >/dev/null 2>&1 || lacks openssl
	command -v curl >/dev/null 2>&1 || lacks curl
	{ command -v pebble && command -v pebble-challtestsrv; } >/dev/null 2>&1 || lacks pebble
	{ command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ]; } || lacks nginx-light
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || lacks postgresql
	if ! command -v python3 >/dev/null 2>&1; then
		lacks python3
		lacks python3-venv
	elif ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
		lacks python3-venv
	fi
fi

if [ -n "$missing" ]; then
	echo "missing packages:$missing"
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "this is no Debian or Ubuntu machine: install their equivalents, then run this again" >&2
		exit 1
	fi
	root=""
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null 2>&1; then
			echo "sudo is missing: run as root: apt-get install --no-install-recommends$missing" >&2
			exit 1
		fi
		echo "installing them with apt-get asks for root:"
		root="sudo"
	fi
	$root apt-get update -q
	# shellcheck disable=SC2086 # one word a package
	$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

if [ "${1:-build}" = test ] && ! command -v go >/dev/null 2>&1; then
	cat >&2 <<'TEXT'
go is missing. The tests run Go programs on go-spiffe, spire-api-sdk and Kubernetes, which need Go 1.26 or newer (Debian 12's
golang package, 1.19, is too old). Install it from https://go.dev/dl, put its bin folder on PATH, then run this again.
TEXT
	exit 1
fi
