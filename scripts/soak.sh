#!/usr/bin/env bash
# The long forms of the tests: scripts/soak.sh GO MINUTES WORLDS [only]
# Half of the time goes to tests/partition, WORLDS times side by side, all of it with `only`. Counts add up in docs/soak-results.json; the logs,
# of worlds that failed those of their nodes and mounts, too, are kept in soak-logs.
set -euo pipefail
cd "$(dirname "$0")/.."
go=$1 minutes=$2 worlds=$3 only=${4:-}
PATH=$(dirname "$go"):$PATH # tests run the go command, too
export PATH
if [ -z "$only" ]; then
	minutes=$(((minutes + 1) / 2))
	DFS_SOAK_MINUTES=$minutes "$go" test -count=1 -timeout 1000m $("$go" list ./tests/... | grep -v /partition)
fi
export DFS_SOAK_MINUTES=$minutes DFS_SOAK_WORLDS=$worlds DFS_LOGS=${DFS_LOGS:-$PWD/soak-logs}
mkdir -p "$DFS_LOGS"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
"$go" build -o "$bin/dfs" ./cmd/dfs
"$go" test -c -o "$bin/partition.test" ./tests/partition
export DFS_BINARY=$bin/dfs
run() { (cd tests/partition && exec "$bin/partition.test" -test.v -test.timeout 1000m); }
if [ "$worlds" = 1 ]; then
	run
	exit
fi
failed=0 running=()
for ((i = 1; i <= worlds; i++)); do
	log=$DFS_LOGS/$(date +%m%d-%H%M%S)-world-$i.log
	run >"$log" 2>&1 &
	running+=("$! $log")
done
for world in "${running[@]}"; do
	read -r pid log <<<"$world"
	result=passed
	wait "$pid" || { result=failed failed=1; }
	echo "$result: $log"
done
sed -n '/in all:/,/^---/p' "$log"
exit $failed
