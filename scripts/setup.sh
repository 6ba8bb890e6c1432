#!/usr/bin/env bash
# Makes sure this box has what a make target needs: a Go toolchain of at least the
# version in go.mod, and Debian/Ubuntu packages. Prints nothing when all is there.
#
#   scripts/setup.sh build     what `make build` and `make demo` need
#   scripts/setup.sh test [PACKAGES]   what `make test` needs on top, root among it
#   scripts/setup.sh spec      what `make spec` needs
#
# The last line of its standard output is the go command to use.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:?usage: scripts/setup.sh build|test|spec}

say() { echo "dfs setup: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

missing=()
need() { have "$1" || missing+=("$2"); } # need COMMAND PACKAGE

if [ "$purpose" = test ] && { [ "$(id -u)" -ne 0 ] || ! (: <>/dev/fuse) 2>/dev/null; }; then
	say "the tests need root, and a /dev/fuse that can be opened: sudo make test. A part that needs neither: make test PKG=./wal/..."
	[ "${2:-./...}" != ./... ] || exit 1
fi

want=$(awk '$1 == "go" { print $2; exit }' go.mod)

# newer_or_equal A B: is version A at least B?
newer_or_equal() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# usable GO: can this go command build us? One that may fetch a newer toolchain (GOTOOLCHAIN=auto) does so here, and tells that one's version.
usable() {
	local version
	version=$("$1" env GOVERSION 2>/dev/null | sed 's/^go//; s/ .*//') || return 1
	[ -n "$version" ] || return 1
	newer_or_equal "$version" "$want"
}

find_go() {
	local candidate
	for candidate in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
		if [ -n "$candidate" ] && [ -x "$candidate" ] && usable "$candidate"; then
			echo "$candidate"
			return 0
		fi
	done
	return 1
}

# toolchain_by_module OLDGO: one before 1.21, or with GOTOOLCHAIN=local, can still download the toolchain as a module.
toolchain_by_module() {
	local arch version out dir
	arch=$(GOTOOLCHAIN=local "$1" env GOARCH)
	version="v0.0.1-go$want.linux-$arch"
	say "fetching the Go $want toolchain (the installed Go is too old)"
	out=$(cd / && GO111MODULE=on GOTOOLCHAIN=local "$1" mod download -json "golang.org/toolchain@$version") || true
	dir=$(awk -F'"' '$2 == "Dir" { print $4 }' <<<"$out")
	[ -n "$dir" ] || { say "the toolchain module golang.org/toolchain@$version could not be downloaded: install Go $want. $out"; exit 1; }
	chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/* 2>/dev/null || true
	echo "$dir/bin/go"
}

need fusermount3 fuse3
need ip iproute2
if [ "$purpose" = test ]; then
	need git git
	need sqlite3 sqlite3
	need python3 python3
	need rsync rsync
	need setfacl acl
	need setfattr attr
	need mkfs.ext4 e2fsprogs
fi
if [ "$purpose" = spec ]; then
	need spin spin
	need gcc gcc
	[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
fi
gocmd=$(find_go || true)
if [ -z "$gocmd" ] && ! have go; then
	missing+=(golang-go)
fi
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" -ne 0 ]; then
		say "this box lacks: ${missing[*]}. Run once: sudo apt-get install -y ${missing[*]}"
		exit 1
	fi
	have apt-get || { say "this box lacks: ${missing[*]}; install them with its package manager"; exit 1; }
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2 || true
	apt-get install -y -qq --no-install-recommends ca-certificates "${missing[@]}" >&2
fi
if [ -z "$gocmd" ]; then
	gocmd=$(find_go || true)
fi
if [ -z "$gocmd" ]; then
	gocmd=$(toolchain_by_module "$(command -v go)")
fi
echo "$gocmd"
