#!/bin/sh
# peers.sh go|python: builds one of the client programs the tests talk to, if it changed, and prints its path as the
# last line. Everything goes below the user's cache folder.
set -eu
here="$(cd "$(dirname "$0")/.." && pwd)/peers"
cache="${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}/peers"
mkdir -p "$cache"

case "${1:-}" in
go)
	if ! command -v go >/dev/null 2>&1; then
		echo "go is missing: install Go 1.24 or newer from https://go.dev/dl and put its bin folder on PATH" >&2
		exit 1
	fi
	cd "$here/go"
	# Build aside and rename, so that a running test keeps its file; go's own cache makes a rebuild cheap.
	CGO_ENABLED=0 go build -trimpath -o "$cache/entente-peer.$$" .
	mv "$cache/entente-peer.$$" "$cache/entente-peer"
	echo "$cache/entente-peer"
	;;
python)
	wanted="$(python3 --version) $(cksum <"$here/python/requirements.txt")"
	venv="$cache/python"
	if [ "$(cat "$venv/wanted" 2>/dev/null)" != "$wanted" ]; then
		rm -rf "$venv"
		if ! python3 -m venv "$venv" >&2; then
			echo "python3 cannot make a virtual environment: install the packages python3 and python3-venv" >&2
			exit 1
		fi
		"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt" >&2
		echo "$wanted" >"$venv/wanted"
	fi
	echo "$venv/bin/python"
	;;
*)
	echo "usage: peers.sh go|python" >&2
	exit 2
	;;
esac
