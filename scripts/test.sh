#!/usr/bin/env bash
# Runs the tests: scripts/test.sh GO PACKAGES…
# Fails if a test that should run here was skipped. Ends with go test's own output.
set -euo pipefail
cd "$(dirname "$0")/.."
go=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
unformatted=$("$(dirname "$("$go" env GOROOT)/bin/go")/gofmt" -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt: $unformatted"; exit 1; }
"$go" vet "$@"
status=0
"$go" test -count=1 -timeout 20m -v "$@" >"$log" 2>&1 || status=$?
if [ $status -ne 0 ]; then
	grep -E '^(---|===|\s+---) FAIL|^FAIL|panic:|DATA RACE' "$log" | head -n 50 || true
	echo "---- the failing packages' output (last 400 lines) ----"
	tail -n 400 "$log"
	exit $status
fi
if skipped=$(grep -E '^\s*--- SKIP' "$log"); then
	# A skip that says it belongs to the long runs is as it should be.
	if other=$(grep -A1 -E '^\s*--- SKIP' "$log" | grep -vE '^\s*--- SKIP|^--$|long run' | head -n 20) && [ -n "$other" ]; then
		echo "skipped, but should have run:"
		echo "$skipped"
		echo "$other"
		exit 1
	fi
fi
grep -E '^(ok|\?|---|FAIL)' "$log" | grep -vE '^--- (PASS|SKIP)'
