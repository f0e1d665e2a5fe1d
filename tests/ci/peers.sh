#!/bin/sh
# peers.sh go|kubepeer|python: builds one of the programs the tests talk to, if it changed, and prints its path as the
# last line. Everything goes below the user's cache folder.
#   go        clients on go-spiffe and spire-api-sdk
#   kubepeer  a real Kubernetes API server with etcd inside (about four minutes the first time)
#   python    a virtual environment with PyPI `spiffe`, `moto` (Amazon S3), `standardwebhooks` and `openapi-spec-validator`
set -eu
here="$(cd "$(dirname "$0")/.." && pwd)/peers"
cache="${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}/peers"
mkdir -p "$cache"

build() { # build FOLDER NAME FLAG...: go's own cache makes a rebuild cheap
	folder="$1" name="$2"
	shift 2
	if ! command -v go >/dev/null 2>&1; then
		echo "go is missing: install Go 1.26 or newer from https://go.dev/dl and put its bin folder on PATH" >&2
		exit 1
	fi
	cd "$here/$folder"
	# Build aside and rename, so that a running test keeps its file.
	CGO_ENABLED=0 go build -trimpath -o "$cache/$name.$$" "$@" .
	mv "$cache/$name.$$" "$cache/$name"
	echo "$cache/$name"
}

case "${1:-}" in
go)
	build go entente-peer
	;;
kubepeer)
	# Kubernetes learns its version from the linker.
	version=k8s.io/component-base/version
	build kubepeer kubepeer -ldflags="-s -w -X $version.gitVersion=v1.37.1 -X $version.gitMajor=1 -X $version.gitMinor=37"
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
	echo "usage: peers.sh go|kubepeer|python" >&2
	exit 2
	;;
esac
