#!/usr/bin/env bash
# The fault and concurrency packages, again and again: scripts/repeat.sh GO TIMES
# Each round adds a line to docs/repeats.txt: when, at which commit, passed or which packages failed, seconds. The first failure ends it; its output is kept in repeat-logs.
set -euo pipefail
cd "$(dirname "$0")/.."
go=$1 times=$2
PATH=$(dirname "$go"):$PATH # tests run the go command, too
export PATH
packages=(./tests/{sim,partition,crash,coherence,hostile,rot,thin,replace,enumerate} ./lockserver/... ./blockstore/... ./wal/... ./fs ./fuse)
commit=$(git describe --always --dirty --exclude '*')
mkdir -p repeat-logs
for ((i = 1; i <= times; i++)); do
	log=repeat-logs/$(date +%m%d-%H%M%S).log begin=$SECONDS result=passed
	"$go" test -count=1 -timeout 30m -p 2 "${packages[@]}" >"$log" 2>&1 ||
		result="FAILED: $(grep -o '^FAIL	dfs/[^	 ]*' "$log" | cut -f2 | paste -sd ' ')"
	line="$(date -u +%FT%H:%MZ) $commit $result, $((SECONDS - begin)) s"
	echo "$line" | tee -a docs/repeats.txt
	[ "$result" = passed ] || exit 1
	rm -f "$log"
done
