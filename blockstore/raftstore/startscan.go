package raftstore

import (
	"sync/atomic"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
)

// startScan makes raft's look through the log at a start cheap. NewRaft reads every entry behind the newest snapshot, once each
// and in order, for the configurations among them; of a command it looks at the type alone. So of an entry that begins with
// an undamaged head of a command, which nothing else does, only that much is read. All of it is read, and its checksum verified, when it is
// applied or sent. Whatever does not come in that order is read whole.
type startScan struct {
	next atomic.Uint64 // the entry that raft reads next; 0: it does not scan
	last uint64
}

// begin expects the entries from first to last.
func (s *startScan) begin(first, last uint64) {
	s.last = last
	s.next.Store(first)
}

// end is called when raft runs: nothing is read in part from then on.
func (s *startScan) end() { s.next.Store(0) }

// take tells whether index is the scan's next entry, and goes on to the one after it.
func (s *startScan) take(index uint64) bool {
	after := index + 1
	if index >= s.last {
		after = 0
	}
	return index != 0 && s.next.CompareAndSwap(index, after)
}

// commandHead gives out what is known of the entry at index but its data, if it is a command.
func (s *LogStore) commandHead(index uint64, out *raft.Log) bool {
	back, ok := s.back.(*segBack)
	if !ok {
		return false
	}
	b, err := back.log.Prefix(index, logEntryHead+blockstore.CommandHeadMax)
	if err != nil || decodeLog(index, b, out) != nil || out.Type != raft.LogCommand || !blockstore.StartsCommand(out.Data) {
		return false
	}
	out.Data = nil
	return true
}
