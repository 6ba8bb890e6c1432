package raftstore

import (
	"testing"

	"dfs/blockstore"
)

// TestCheckedRecordsAreForgotten: a record is known as checked from the proposal to its outcome, and only where it stood.
func TestCheckedRecordsAreForgotten(t *testing.T) {
	var c checkedRecords
	rec := fullRecord(1, 2, 3, 'x', 3).AppendTo(make([]byte, blockstore.CommandOverheadMax))
	cmd := blockstore.Command{Kind: blockstore.CmdWrite, Writer: 1, Seq: 1, Room: rec, Record: rec[blockstore.CommandOverheadMax:]}
	c.note(&cmd)()
	if len(c.entries) != 0 {
		t.Fatal("a record that nobody checked is noted")
	}
	if err := cmd.Validate(); err != nil {
		t.Fatal(err)
	}
	forget := c.note(&cmd)
	applied := func(encoded []byte) bool {
		got, err := blockstore.DecodeCommand(encoded)
		if err != nil {
			t.Fatal(err)
		}
		c.adopt(&got)
		_, ok := got.Checked()
		return ok
	}
	entry := cmd.Encode()
	if !applied(entry) || applied(append([]byte(nil), entry...)) {
		t.Fatal("checked for other bytes than those that were")
	}
	forget()
	if applied(entry) || len(c.entries) != 0 {
		t.Fatal("not forgotten")
	}
}

// TestLeaderForgetsWhatItChecked: nothing is left of proposals whose outcome is known.
func TestLeaderForgetsWhatItChecked(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	c.startAll()
	w := c.writer('x')
	for i := range uint64(10) {
		w.write(1, i, 1, 'a', 1)
	}
	a := c.leader().applier
	a.checked.mu.Lock()
	defer a.checked.mu.Unlock()
	if n := len(a.checked.entries); n != 0 {
		t.Fatalf("%d records are still known as checked", n)
	}
}
