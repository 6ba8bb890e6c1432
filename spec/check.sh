#!/usr/bin/env bash
# Checks lease.pml exhaustively: every run of the full model must hold, every guard taken out must be missed.
#
#   spec/check.sh              everything; prints the three tables of README.md
#   spec/check.sh NAME         one run or guard; prints the counter-example, if any
#
# Bounds: two at a time, 3.5 GB of memory and LIMIT seconds of processor time each (default 240), and 20 minutes of that in all: 10 minutes
# on two processors of its own. Exact storage (COLLAPSE is lossless).
set -euo pipefail
cd "$(dirname "$0")"
model=$PWD/lease.pml
limit=${LIMIT:-240}
processorMax=1200

# The full model. name | sizes | what
runs() {
	cat <<'END'
locks           | -DNO_TIME -DEVICT -DOPS=2 -DGRANTS=5 -DCAP=2 | shared and exclusive, given back unasked too
lossy           | -DNO_TIME -DFAULTS=2 -DOPS=2 -DGRANTS=3 -DCAP=2 | messages lost, doubled, late; records proposed twice
streams         | -DNO_TIME -DSTREAMS=3 -DANSWERED -DOPS=1 -DMODES=1 -DCAP=2 | streams that break and open again; no revoke is lost
streams-lossy   | -DNO_TIME -DSTREAMS=2 -DFAULTS=2 -DOPS=1 -DMODES=1 -DCAP=2 | both
ranges          | -DNO_TIME -DIMPLICIT -DSTREAMS=2 -DANSWERED -DOPS=1 -DCAP=2 | a lock held by an inode range; streams break
ranges-failover | -DNO_TIME -DIMPLICIT -DNR=2 -DANSWERED -DOPS=1 -DCAP=2 | the same with a change of leader
forget          | -DNO_TIME -DFORGET -DEVICT -DOPS=2 -DGRANTS=4 -DCAP=2 | forgotten lock entries
records         | -DNO_TIME -DPIPE=2 -DOPS=3 -DFAULTS=2 -DRECORDS_ONLY -DMODES=1 -DCAP=1 | two records in flight, proposed twice
records-lease   | -DPIPE=2 -DOPS=2 -DMODES=1 -DCAP=1 -DGRANTS=2 | two records in flight, with leases and fences
lease           | -DOPS=2 -DMODES=1 -DCAP=1 | leases run out, late answers, fences
ttl2            | -DTTL=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | leases of two ticks
clocks          | -DTTL=3 -DMARGIN=1 -DSLOW=1 -DHELD -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | clients' clocks that miss a tick
doom            | -DDOOM -DOPS=1 -DMODES=1 -DCAP=1 | sessions ended early
operation       | -DREADOP -DOPS=1 -DMODES=1 -DCAP=1 | an answer takes time
reopen          | -DSESSIONS=2 -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | new sessions after a fence
failover        | -DNO_TIME -DNR=2 -DOPS=1 -DCAP=2 -DGRANTS=2 | a change of leader; the old one goes on
failover-lossy  | -DNO_TIME -DNR=2 -DFAULTS=1 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2 | with faults
failover2       | -DNO_TIME -DNR=3 -DHELD -DWRITER0 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | two changes of leader
failover-lease  | -DNR=2 -DHELD -DNO_WRITES -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | leases, fences inherited by the new leader; no writes
failover-tick   | -DNR=2 -DHELD -DWRITER0 -DTICKS=1 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | the same with writes; time goes on once
END
}

# The guards. switch | sizes | where | what it guards; "redundant" in front: no violation is expected.
guards() {
	cat <<'END'
NO_EPOCH_CHECK   | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | blockstore/state_apply.go write | redundant: epoch of a record
NO_SEQ_CHECK     | -DOPS=1 -DMODES=1 -DCAP=1 | blockstore/state_apply.go write | a number done before is answered, not applied
NO_GAP_CHECK     | -DOPS=2 -DPIPE=2 -DMODES=1 -DCAP=1 | blockstore/state_apply.go write | a number out of turn is refused
NO_FENCE_CHECK   | -DOPS=1 -DMODES=1 -DCAP=1 | blockstore/state_apply.go live | a writer that was ended changes nothing
NO_DONE_INDEX    | -DOPS=1 -DMODES=1 -DCAP=1 | blockstore/state_apply.go write | an index in "already done"
NO_FENCE         | -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/table_grant.go Tick, server_reign.go fence | fence before locks are given away
NO_LEASE_OVER    | -DDOOM -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/table_session.go Ended, table_grant.go Tick | lease over before they are
NO_FENCING_FLAG  | -DHELD -DNO_WRITES -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | lockserver/table_session.go refuse, Renew | no renewal once a fence is proposed
NO_PROOF         | -DHELD -DNO_WRITES -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | lockserver/server_reign.go prover | proof of leadership behind renewals
NO_AWAIT         | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | lockserver/table_grant.go advance | no grant before every writer has told its claims
NO_TTL_AFTER     | -DHELD -DNO_WRITES -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | lockserver/table.go Expect | a full lease to attach after a failover
NO_BEGIN_FLOOR   | -DHELD -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2 | lockserver/server.go rule, table.go NewTable | index of BeginEpoch as the floor
NO_FLOOR         | -DNO_TIME -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/table_session.go settleClaims | floor told with the claims
LAST_INDEX       | -DNO_TIME -DEVICT -DOPS=1 -DCAP=1 -DMODES=1 | lockserver/table_grant.go Release | greatest release index, not the last
NO_COMMON        | -DNO_TIME -DFORGET -DEVICT -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/table.go settle | common index of forgotten entries
NO_NUMBER_SERVER | -DNO_TIME -DFAULTS=1 -DOPS=1 -DMODES=1 -DCAP=2 | lockserver/table_grant.go Release | grant number in a release
NO_NUMBER_CLIENT | -DNO_TIME -DFAULTS=1 -DOPS=1 -DMODES=1 -DCAP=3 | lockserver/clerk_revoke.go grantLocked | only newer grants
NO_RELEASE_EPOCH | -DNO_TIME -DHELD -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=3 | lockserver/table_grant.go Release | epoch in a release
NO_STREAM_SERVER | -DNO_TIME -DSTREAMS=2 -DFAULTS=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=3 | lockserver/table.go live | nothing of an older stream
NO_STREAM_CLIENT | -DNO_TIME -DSTREAMS=2 -DFAULTS=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2 | lockserver/clerk_conn.go take | late grants of an older stream refused
NO_EPOCH_CLIENT  | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2 | lockserver/clerk_conn.go take | nothing of another epoch's leader
NO_LEAVE         | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2 | lockserver/clerk_conn.go attach, claim | the old epoch is left when the claims are sent
NO_LEASE_LOOK    | -DOPS=1 -DMODES=1 -DCAP=1 | fs/server.go answer | the client looks at its lease
LOOK_AT_BEGIN    | -DREADOP -DOPS=1 -DMODES=1 -DCAP=1 | fs/server.go answer | and does so at the answer
FROM_ANSWER      | -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/clerk.go renewedLocked | the lease counts from the sending
NO_MARGIN        | -DMARGIN=0 -DTTL=3 -DSLOW=1 -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/clerk.go margin | margin for clocks that differ
NO_FLUSH         | -DOPS=1 -DMODES=1 -DCAP=1 | fs/revoke.go Revoke | flush before release
NO_MIN_INDEX     | -DOPS=1 -DMODES=1 -DCAP=1 | fs/node.go minIndex | index that came with the grant
NO_OWN_INDEX     | -DOPS=1 -DMODES=1 -DCAP=1 | fs/node.go minIndex | own last index
REPLAY           | -DSESSIONS=2 -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1 | fs/revoke.go SessionEnded | no dirty data under a new writer
NO_CLAIM_REST    | -DNO_TIME -DANSWERED -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=2 | lockserver/clerk_conn.go claim | what comes beside Claimed is taken
NO_UNTOLD        | -DNO_TIME -DANSWERED -DIMPLICIT -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1 | lockserver/clerk_conn.go claimed | an implicit lock given up while claiming is told
END
}

# Guards without which acknowledged writes are lost: with no other invariant looked at (-DLOST_ONLY), that is found. switch | sizes
losses() {
	cat <<'END'
NO_SEQ_CHECK     | -DNO_TIME -DFAULTS=1 -DRECORDS_ONLY -DOPS=1 -DMODES=1 -DCAP=1
NO_GAP_CHECK     | -DOPS=2 -DPIPE=2 -DMODES=1 -DCAP=1
NO_FENCE_CHECK   | -DOPS=1 -DMODES=1 -DCAP=1
NO_DONE_INDEX    | -DOPS=1 -DMODES=1 -DCAP=1
NO_FENCE         | -DOPS=1 -DMODES=1 -DCAP=1
NO_AWAIT         | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=1 -DGRANTS=2
NO_FLOOR         | -DNO_TIME -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1
LAST_INDEX       | -DNO_TIME -DEVICT -DOPS=1 -DCAP=1 -DMODES=1
NO_COMMON        | -DNO_TIME -DFORGET -DEVICT -DOPS=1 -DMODES=1 -DCAP=1
NO_NUMBER_SERVER | -DNO_TIME -DFAULTS=1 -DOPS=1 -DMODES=1 -DCAP=2
NO_NUMBER_CLIENT | -DNO_TIME -DFAULTS=1 -DOPS=1 -DMODES=1 -DCAP=3
NO_RELEASE_EPOCH | -DNO_TIME -DHELD -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=3
NO_STREAM_SERVER | -DNO_TIME -DSTREAMS=2 -DFAULTS=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=3
NO_STREAM_CLIENT | -DNO_TIME -DSTREAMS=2 -DFAULTS=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2
NO_EPOCH_CLIENT  | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2
NO_LEAVE         | -DNO_TIME -DNR=2 -DOPS=1 -DMODES=1 -DCAP=2 -DGRANTS=2
NO_FLUSH         | -DOPS=1 -DMODES=1 -DCAP=1
NO_MIN_INDEX     | -DOPS=1 -DMODES=1 -DCAP=1
REPLAY           | -DSESSIONS=2 -DSTREAMS=2 -DOPS=1 -DMODES=1 -DCAP=1
END
}

trim() { sed -E 's/^[[:space:]]+//; s/[[:space:]]+$//'; }

# build DIR FLAGS CFLAGS
build() {
	(cd "$1" && spin $2 -a "$model" >spin.out 2>&1) || { cat "$1/spin.out" >&2; return 1; }
	gcc -O2 -w -DSAFETY -DNOREDUCE -DCOLLAPSE -DMEMLIM=3500 -DVECTORSZ=1024 $3 -o "$1/pan" "$1/pan.c"
}

lost="no acknowledged write lost"

figure() { sed -nE "s/$2/\\1/p" "$1" | head -n 1; }

# job KIND NAME FLAGS WHERE WHAT: one line of a table, and its name in FAILED if it is not as it should be
job() {
	local kind=$1 name=$2 flags=$3 where=$4 what=$5 dir=$work/$1-$2 states seconds status=0
	[ "$kind" != loss ] || flags="-DLOST_ONLY $flags"
	mkdir -p "$dir"
	if [ "$kind" = run ]; then
		build "$dir" "$flags" "" || { echo "$name: does not compile" >>"$work/FAILED"; return 0; }
		(cd "$dir" && ulimit -t "$limit" && exec ./pan -E -m100000 -w24 >out 2>&1) || status=$?
	else
		build "$dir" "-D$name $flags" -DBFS || { echo "$name: does not compile" >>"$work/FAILED"; return 0; }
		(cd "$dir" && ulimit -t "$limit" && exec ./pan -E -w24 >out 2>&1) || status=$?
	fi
	states=$(figure "$dir/out" '^ *([0-9.e+]+) states, stored.*')
	seconds=$(figure "$dir/out" '.*elapsed time ([0-9.]+) seconds.*')
	local complete=yes trail=$dir/lease.pml.trail
	if [ $status -ne 0 ] || [ -z "$states" ] || grep -qE 'Search not completed|MEMLIM|max search depth too small|out of memory' "$dir/out"; then complete=no; fi
	if [ -e "$trail" ]; then
		local steps broken
		(cd "$dir" && spin -T -t -D"$name" $flags -k "$trail" "$model" >steps 2>&1) || true
		grep -E '^(client|server|record|the |[A-Za-z]+ is |epoch|time|[0-9]+ is|VIOLATED)' "$dir/steps" >"$dir/short" || true
		steps=$(grep -vc VIOLATED "$dir/short" || true)
		broken=$(sed -n 's/^VIOLATED: //p' "$dir/short" | head -n 1)
		if [ -z "$broken" ]; then
			case $(grep -m 1 'assertion violated' "$dir/out") in
			*.gen==g*) broken="no write of a fenced writer" ;;
			*sq==*) broken="once, in order" ;;
			*) broken="fresh read" ;;
			esac
		fi
		if [ "$kind" = loss ]; then
			printf '| `%s` | %s | %s |\n' "$name" "$steps" "$states" >"$dir/row"
			[ "$broken" = "$lost" ] || echo "$name: $broken is violated, not that $lost" >>"$work/FAILED"
		else
			printf '| `%s` | %s | %s | %s | %s | %s |\n' "$name" "$where" "$what" "$broken" "$steps" "$states" >"$dir/row"
		fi
		if [ "$kind" = run ]; then echo "$name: the full model is violated ($broken)" >>"$work/FAILED"; fi
		case $what in redundant:*) echo "$name: said to be redundant, but it is missed" >>"$work/FAILED" ;; esac
	elif [ "$kind" = run ]; then
		printf '| %s | `%s` | %s | %s | %s |\n' "$name" "$flags" "$what" "$states" "$seconds" >"$dir/row"
		[ $complete = yes ] || echo "$name: not finished within $limit s and 3.5 GB" >>"$work/FAILED"
	else
		printf '| `%s` | %s | %s | **none** | - | %s |\n' "$name" "$where" "$what" "$states" >"$dir/row"
		case $what in
		redundant:*) [ $complete = yes ] || echo "$name: not finished within $limit s and 3.5 GB" >>"$work/FAILED" ;;
		*) echo "$name: the guard is taken out and nothing is violated" >>"$work/FAILED" ;;
		esac
	fi
	echo "$kind $name: ${states:-?} states, ${seconds:-?} s" >&2
}

list() {
	case $1 in
	run) runs | sed 's/|\([^|]*\)$/| - |\1/' ;;
	guard) guards ;;
	loss) losses | sed 's/$/ | - | acknowledged writes/' ;;
	esac
}

table() {
	local name rest
	while IFS='|' read -r name rest; do
		cat "$work/$1-$(echo "$name" | trim)/row" 2>/dev/null || true
	done < <(list "$1")
}

if [ "${1:-}" = --job ]; then
	work=$2
	IFS='|' read -r kind name flags where what <<<"$3"
	job "$kind" "$(echo "$name" | trim)" "$(echo "$flags" | trim)" "$(echo "$where" | trim)" "$(echo "$what" | trim)"
	exit 0
fi

for tool in spin gcc; do
	command -v $tool >/dev/null || { echo "spec/check.sh needs $tool; make spec installs it"; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
only=${1:-}
all() {
	list run | sed 's/^/run|/'
	list guard | sed 's/^/guard|/'
	list loss | sed 's/^/loss|/'
}
if [ -n "$only" ]; then
	all | awk -F'|' -v n="$only" '{ gsub(/ /, "", $2) } $2 == n { found = 1 } END { exit !found }' || { echo "no run or guard $only"; exit 2; }
	all | awk -F'|' -v n="$only" '{ name = $2; gsub(/ /, "", name) } name == n' | while IFS= read -r line; do "$PWD/check.sh" --job "$work" "$line"; done
	cat "$work"/*/short "$work"/*/row 2>/dev/null || true
else
	all | tr '\n' '\0' | xargs -0 -n 1 -P 2 "$PWD/check.sh" --job "$work"
	echo
	echo '| run | sizes | what | states | seconds |'
	echo '|---|---|---|---|---|'
	table run
	echo
	echo '| guard taken out | where | what it guards | violated | steps | states |'
	echo '|---|---|---|---|---|---|'
	table guard
	echo
	echo '| guard taken out | steps to the loss of an acknowledged write | states |'
	echo '|---|---|---|'
	table loss
	times >"$work/times"
	used=$(awk 'NR == 2 { gsub(/[ms]/, " "); print int($1 * 60 + $2 + $3 * 60 + $4) }' "$work/times")
	echo
	echo "$used s of processor time, of $processorMax allowed"
	[ "$used" -le $processorMax ] || echo "all: $used s of processor time, more than $processorMax" >>"$work/FAILED"
fi
if [ -s "$work/FAILED" ]; then
	echo
	echo "FAILED:"
	cat "$work/FAILED"
	exit 1
fi
