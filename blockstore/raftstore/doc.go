// Package raftstore is one replica of the block store: it owns the Raft instance, its log, and the thin FSM that
// gives committed commands to the pure state machine (blockstore.State) and the records they yield to the
// local device (blockstore.Device).
//
// # Contract
//
// Propose answers when the command is committed and applied here; an error of kind KindUnavailable means that the outcome is
// unknown. What was answered survives the loss of any minority of data directories and of power everywhere. An entry that cannot be
// decoded, a failed disk, or a write past its deadline stops this replica (Options.Fatal); the others go on.
//
// A replica is read at an index that it has applied itself. It is not read while the device may hold bytes of entries
// that it has not applied again: after a restart until the end of the log as it was then (or an entry of a later term) is
// applied, after a copy until the source's index is.
//
// # Data directory
//
//	<dir>/node.lock      locked while the node is open
//	<dir>/node.json      who this is: node id, random incarnation, cluster (identity.go)
//	<dir>/catchup.json   there while a copy from another replica is under way or fresh (catchup.go)
//	<dir>/raft/stable.db term and vote
//	<dir>/raft/log…      the log (logstore.go)
//	<dir>/raft/snapshots manifests of the newest checkpoints (manifest.go)
//
// The device's files are the caller's to place; bind them to the incarnation (see Incarnation).
//
// # Incarnations
//
// A data directory gets a random number when it is made: its incarnation. Members are known to Raft by node id and
// incarnation, a Raft connection names the incarnation that it is meant for, and a node refuses one meant for another
// (package mux). So a node whose disk was emptied is a stranger to its old cluster: it gets no entries, and can neither vote nor
// acknowledge under its old id; it must be removed and added anew. Nor can it found the cluster a second time: the first
// start needs an answer from every node of the bootstrap list, and one that lives in a cluster already ends it. (The
// cluster's id is a hash of the founders' ids, addresses and incarnations, the same on all of them.) A directory that made
// promises and lost its Raft log does not start. Only a recovery (survivor.go) gives a directory another cluster.
//
// # Recovery
//
//  1. Check node.json, open the log and the snapshots; what the newest manifest contradicts leaves the log (LogStore.Agree).
//  2. Take the state machine from the device's last finished checkpoint.
//  3. If the device is behind the newest manifest, or a copy was cut short, copy (catchup.go).
//  4. Raft replays the log from the newest manifest on; entries that the checkpoint covers are skipped.
//  5. When it is readable again, repair the blocks that redo found damaged.
//
// # Locks
//
// Order: gate.mu alone; LogStore.mu before followers.mu and identMu; applier.exclusive before applier.mu; checkpointState.mu, copyState.mu, progress.mu, identMu and the
// others are held for a few instructions, but for checkpointState.mu, which is held over a checkpoint.
package raftstore

import "dfs/blockstore"

// Incarnation returns the incarnation of the data directory dir, making the directory's identity if it has
// none: what the device beside it is to be bound to. KindForeign if dir is another node's.
func Incarnation(dir string, id blockstore.NodeID) (string, error) {
	ident, err := loadIdentity(dir, id)
	if err != nil {
		return "", err
	}
	return ident.Incarnation.String(), nil
}
