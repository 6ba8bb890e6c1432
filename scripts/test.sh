#!/usr/bin/env bash
# Runs the tests: scripts/test.sh GO PACKAGES…
# Fails if a test that should run here was skipped. Ends with go test's own closing lines.
set -euo pipefail
cd "$(dirname "$0")/.."
go=$1
shift
unformatted=$("$("$go" env GOROOT)/bin/gofmt" -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt: $unformatted"; exit 1; }
"$go" vet "$@"
PATH=$(dirname "$go"):$PATH # tests run the go command, too
export PATH
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$go" build -o "$report" ./internal/testreport
# Tests on real processes share two cores: few packages at a time.
"$go" test -count=1 -timeout 20m -p 2 -json "$@" | "$report"
