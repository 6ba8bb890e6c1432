package raftstore

import (
	"sync"

	"dfs/blockstore"
)

// checkedRecords remembers the records that this node checked as the leader before it proposed them, until their
// outcome is known: so it need not check the same bytes in the same memory again when it applies them. What a replica gets from
// another, or reads from its log, is checked when it is applied. Bounded as the proposals in flight are. The zero
// value is ready.
type checkedRecords struct {
	mu      sync.Mutex
	entries map[*byte]blockstore.CheckedRecord // by where the record stands in memory
}

// note remembers that cmd's record was checked, if it was; forget ends that. A record that was copied since is not found again.
func (c *checkedRecords) note(cmd *blockstore.Command) (forget func()) {
	r, ok := cmd.Checked()
	if !ok || len(cmd.Record) == 0 {
		return func() {}
	}
	at := &cmd.Record[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[*byte]blockstore.CheckedRecord)
	}
	c.entries[at] = r
	return func() {
		c.mu.Lock()
		delete(c.entries, at)
		c.mu.Unlock()
	}
}

// adopt marks cmd, which was decoded, as checked if it was.
func (c *checkedRecords) adopt(cmd *blockstore.Command) {
	if len(cmd.Record) == 0 {
		return
	}
	c.mu.Lock()
	r, ok := c.entries[&cmd.Record[0]]
	c.mu.Unlock()
	if ok {
		cmd.Adopt(r)
	}
}
