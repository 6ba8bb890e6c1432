package raftstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
)

// TestSnapshotContradictsLog: a leader that was cut off has entries that nobody else has; the others go on without it, and keep none of the log that it
// would need to see where they part, only a snapshot that ends within those entries, with the last of them, or behind them. It takes the
// snapshot, goes on from there, and has no other entry than the others at any index, now and after a restart.
func TestSnapshotContradictsLog(t *testing.T) {
	t.Parallel()
	for stale := range 14 {
		for _, keeps := range []int64{1, 1 << 20} { // how much of its log the one that is cut off keeps behind a snapshot
			inVirtualTime(t, fmt.Sprintf("%d entries, keeps %d", stale, keeps), func(t *testing.T) { snapshotContradictsLog(t, stale, keeps) })
		}
	}
}

func snapshotContradictsLog(t *testing.T, stale int, keeps int64) {
	c := newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes, c.limit.FollowerLogBytes = 1, 1
	start := func(id string) *testNode {
		return c.startWith(id, func(o *Options) {
			if id == "a" {
				o.Limits.TrailingBytes = keeps
			}
		})
	}
	for _, id := range []string{"a", "b", "c"} {
		start(id)
	}
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	lead(t, c, "a")
	old := c.leader()
	c.net.isolate(addrOf(old.id), true)
	for i := range stale {
		old.ProposeAsync(c.ctx(time.Second), w.command(w.seq+1+uint64(i), fullRecord(7, 100, 1, 'Z', 1)), func(blockstore.Result, error) {})
	}
	for i := range uint64(5) {
		w.write(7, 1+i, 1, 'A', 1)
	}
	at, terms := w.last, map[uint64]uint64{}
	for _, n := range c.running() {
		if n != old {
			c.eventually("the others at the end", func() bool { return n.Applied() >= at })
			sameTerms(t, n, terms)
			if err := n.Checkpoint(c.ctx(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.write(7, 6, 1, 'A', 1)
	c.net.isolate(addrOf(old.id), false)
	c.caughtUp(w.last)
	check := func() {
		t.Helper()
		for _, n := range c.running() {
			n.check(t, w.last, 7, 0, 7, 'A')
			sameTerms(t, n, terms)
		}
	}
	check()
	c.stop(old.id)
	start(old.id)
	c.caughtUp(w.last)
	check()
	sameStates(t, c, w.last)
}

// sameTerms checks that the committed entries that n has are those of terms, and adds what is not there.
func sameTerms(t *testing.T, n *testNode, terms map[uint64]uint64) {
	t.Helper()
	for i := max(n.stores.entries.back.first(), 1); i <= min(n.stores.entries.back.last(), n.Status().CommitIndex); i++ {
		var l raft.Log
		if err := n.stores.entries.GetLog(i, &l); err != nil {
			t.Fatalf("%s: entry %d: %v", n.id, i, err)
		}
		if was, known := terms[i]; known && was != l.Term {
			t.Errorf("%s has entry %d of term %d, another node had that of term %d", n.id, i, l.Term, was)
		}
		terms[i] = l.Term
	}
}

// lead makes id the leader.
func lead(t *testing.T, c *cluster, id string) {
	t.Helper()
	c.eventually(id+" leads", func() bool {
		l := c.leader()
		if l.id == id {
			return true
		}
		inc := c.node(id).ident.Incarnation
		_ = l.raft.Load().LeadershipTransferToServer(serverID(blockstore.NodeID(id), inc), serverAddress(addrOf(id), inc)).Error()
		return false
	})
}

// TestVouch: what a snapshot covers is taken out of a leader's request, and nothing else is.
func TestVouch(t *testing.T) {
	for _, tc := range []struct{ prev, first, last, covered, wantPrev, wantFirst uint64 }{
		{9, 10, 12, 0, 9, 10},  // no snapshot
		{9, 10, 12, 8, 9, 10},  // an older one
		{9, 10, 12, 9, 0, 10},  // it ends just before
		{9, 10, 12, 11, 0, 12}, // within
		{9, 10, 12, 12, 0, 0},  // with the last one
		{9, 10, 12, 40, 0, 0},  // far behind
		{0, 1, 3, 2, 0, 3},     // the log's first entries
		{20, 0, 0, 20, 0, 0},   // no entries
		{21, 0, 0, 20, 21, 0},  // no entries, and unknown
		{100, 101, 101, 99, 100, 101},
	} {
		req := &raft.AppendEntriesRequest{PrevLogEntry: tc.prev, PrevLogTerm: min(tc.prev, 5)}
		for i := tc.first; i <= tc.last && i > 0; i++ {
			req.Entries = append(req.Entries, &raft.Log{Index: i})
		}
		req.LeaderCommitIndex = 1000
		(&appendWire{covered: func() uint64 { return tc.covered }}).vouch(req)
		if want := max(tc.prev, tc.last, tc.covered); req.LeaderCommitIndex != want {
			t.Errorf("%+v: committed up to %d, want %d", tc, req.LeaderCommitIndex, want)
		}
		first := uint64(0)
		if len(req.Entries) > 0 {
			first = req.Entries[0].Index
		}
		if req.PrevLogEntry != tc.wantPrev || req.PrevLogTerm != min(tc.wantPrev, 5) || first != tc.wantFirst || first != 0 && req.Entries[len(req.Entries)-1].Index != tc.last {
			t.Errorf("%+v: before the entries %d, the first is %d", tc, req.PrevLogEntry, first)
		}
	}
}

// TestOlderSnapshot: a leader that does not know how far a follower has come sends it a snapshot older than the follower's own. It changes nothing.
func TestOlderSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		c.limit.TrailingBytes, c.limit.FollowerLogBytes = 1, 1
		c.startAll()
		w := c.writer('x')
		for i := range uint64(10) {
			w.write(7, i, 1, 'A', 1)
		}
		c.caughtUp(w.last)
		l, f := c.leader(), c.follower()
		if err := l.Checkpoint(c.ctx(time.Minute)); err != nil {
			t.Fatal(err)
		}
		list, err := l.stores.snapshots.List()
		if err != nil || len(list) == 0 {
			t.Fatal(list, err)
		}
		for i := range uint64(10) {
			w.write(7, 10+i, 1, 'A', 1)
		}
		c.caughtUp(w.last)
		if err := f.Checkpoint(c.ctx(time.Minute)); err != nil {
			t.Fatal(err)
		}
		meta, data, err := l.stores.snapshots.Open(list[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		req := &raft.InstallSnapshotRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(blockstore.NodeID(l.id), l.ident.Incarnation)), Addr: []byte(serverAddress(addrOf(l.id), l.ident.Incarnation))},
			SnapshotVersion: meta.Version, Term: l.Leadership().Term, LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex}
		var resp raft.InstallSnapshotResponse
		if err := l.transport.InstallSnapshot(serverID(blockstore.NodeID(f.id), f.ident.Incarnation), serverAddress(addrOf(f.id), f.ident.Incarnation), req, &resp, data); err != nil || !resp.Success {
			t.Fatal(resp, err)
		}
		for i := range uint64(10) {
			w.write(7, 20+i, 1, 'A', 1)
		}
		c.caughtUp(w.last)
		f.check(t, w.last, 7, 0, 30, 'A')
		sameStates(t, c, w.last)
	})
}

// TestEndInACopy: a node that is ended in the midst of a copy, with entries for it on the way, ends. Without the guard raft takes some of those entries in one
// end of two, before it is shut down, and panics: the log that the copy was to replace is gone.
func TestEndInACopy(t *testing.T) {
	for i := range 16 {
		inVirtualTime(t, fmt.Sprint(i), func(t *testing.T) {
			c := newCluster(t, "a", "b", "c")
			c.limit.TrailingBytes = 1
			_, behind := c.leaveBehind(4)
			c.mute.Store(true)
			n := c.start(behind)
			c.eventually("it copies", func() bool { return n.CatchUp().Active })
			l, edge := c.leader(), n.stores.edge.Load()
			term := l.raft.Load().CurrentTerm()
			for range 8 {
				go func() {
					args := &raft.AppendEntriesRequest{RPCHeader: question(l).RPCHeader, Term: term, PrevLogEntry: edge.Index, PrevLogTerm: edge.Term,
						LeaderCommitIndex: edge.Index + 1, Entries: []*raft.Log{{Index: edge.Index + 1, Term: term, Type: raft.LogNoop}}}
					_, _ = l.transport.wire.send(n.transport.LocalAddr(), args, new(raft.AppendEntriesResponse))
				}()
			}
			time.Sleep(50 * time.Millisecond) // they wait for raft
			c.stop(behind)
		})
	}
}
