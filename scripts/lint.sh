#!/usr/bin/env bash
# gofmt, go vet and golangci-lint (pinned in lint/go.mod, a module of its own).
set -euo pipefail
cd "$(dirname "$0")/.."
go=$1
unformatted=$("$(dirname "$("$go" env GOROOT)/bin/go")/gofmt" -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt: $unformatted"; exit 1; }
"$go" vet ./...
"$go" tool -modfile=lint/go.mod golangci-lint run ./...
