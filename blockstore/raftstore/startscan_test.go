package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/wal/seglog"
)

// TestStartScan: in the order of raft's scan commands come without their data and everything else whole; out of that order, and
// when the scan is over, everything comes whole.
func TestStartScan(t *testing.T) {
	l, err := OpenLog(LogSeg, t.TempDir(), LogOptions{CacheBytes: -1, Seg: seglog.Options{SegmentBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var name [200]byte
	for i := range name {
		name[i] = 'n'
	}
	command := (&blockstore.Command{Kind: blockstore.CmdOpenWriter, Name: string(name[:]), TTLMilli: 1}).AppendTo(nil)
	entries := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{})},
		{Index: 2, Term: 1, Type: raft.LogCommand, Data: command},
		{Index: 3, Term: 2, Type: raft.LogNoop},
		{Index: 4, Term: 2, Type: raft.LogCommand, Data: []byte("dfsC but no command")},
		{Index: 5, Term: 2, Type: raft.LogConfiguration, Data: command},
		{Index: 6, Term: 3, Type: raft.LogCommand, Data: command},
	}
	if err := l.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	w := &watchedLog{LogStore: l, node: &Node{stores: &stores{entries: l}}}
	get := func(index uint64, whole bool) {
		t.Helper()
		var got raft.Log
		if err := w.GetLog(index, &got); err != nil {
			t.Fatal(err)
		}
		want := *entries[index-1]
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type {
			t.Errorf("entry %d: %+v, want %+v", index, got, want)
		}
		if !whole {
			want.Data = nil
		}
		if string(got.Data) != string(want.Data) {
			t.Errorf("entry %d comes with %q, want %q", index, got.Data, want.Data)
		}
	}
	w.scan.begin(1, 6)
	get(6, true) // the last entry is asked for first
	for i := uint64(1); i <= 6; i++ {
		get(i, i != 2 && i != 6)
	}
	get(2, true)
	get(6, true)
	w.scan.begin(2, 6)
	w.scan.end()
	get(2, true)
}
