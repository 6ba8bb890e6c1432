package raftstore

import (
	"math"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
)

// slowRate is what a slow follower's network brings it: an append is not given up at this rate, and nothing is caught up in the
// milliseconds of virtual time that all the writing takes.
const slowRate = appendRate

// retaining is a cluster that keeps little log behind a checkpoint, and one of its followers.
func retaining(t *testing.T, limit int64) (c *cluster, w *writer, leader, behind *testNode) {
	c = newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes = 256 << 10
	c.limit.FollowerLogBytes = limit
	c.startAll()
	w = c.writer('x')
	w.write(7, 0, 60, 'A', 60)
	c.caughtUp(w.last)
	return c, w, c.leader(), c.follower()
}

// fillLog writes so many records of 240 KiB, with a checkpoint on all but one node after each fourth.
func (c *cluster) fillLog(w *writer, records int, but *testNode) {
	c.t.Helper()
	for i := range records {
		w.write(7, 0, 60, byte(i), 0)
		if i%4 != 3 {
			continue
		}
		for _, n := range c.running() {
			if n == but {
				continue
			}
			if err := n.Checkpoint(c.ctx(10 * time.Second)); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

func (n *testNode) firstIndex() uint64 {
	first, _ := n.stores.entries.FirstIndex()
	return first
}

// A follower that is only slow, and misses more than is kept behind a checkpoint, gets it from the log, not as a copy. When it has it, the log
// is cut without another checkpoint.
func TestSlowFollowerCatchesUpFromTheLog(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, "slow", func(t *testing.T) {
		c, w, l, f := retaining(t, 64<<20)
		c.net.slowDown(addrOf(f.id), slowRate)
		c.fillLog(w, 40, f)
		has, _ := f.stores.entries.LastIndex()
		if lacks := l.stores.entries.BytesSince(has + 1); lacks < 8*c.limit.TrailingBytes || l.firstIndex() > has+1 {
			t.Fatalf("the follower is at %d and lacks %d bytes; the leader's log begins at %d", has, lacks, l.firstIndex())
		}
		if s := trimmed(l.stores.entries); s == 0 {
			t.Error("nothing counts as kept for the follower")
		}
		c.net.slowDown(addrOf(f.id), 0)
		c.caughtUp(w.last)
		if p := f.CatchUp(); p.Manifest != 0 || c.calls["chunks"] != 0 {
			t.Fatalf("the follower made a copy: %+v", p)
		}
		f.check(t, w.last, 7, 0, 60, 39)
		c.eventually("the log is cut", func() bool { return l.stores.entries.Bytes() < 4*c.limit.TrailingBytes })
		if s := trimmed(l.stores.entries); s != 0 {
			t.Errorf("%d bytes count as kept when all have them", s)
		}
		sameStates(t, c, w.last)
	})
}

// A follower that is dead or cut off gets no more log than what is kept behind a checkpoint, from contactWithin after its last answer on.
func TestDeadFollowerHoldsNoLog(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *cluster, f *testNode){
		"killed":  func(c *cluster, f *testNode) { c.stop(f.id) },
		"cut off": func(c *cluster, f *testNode) { c.net.isolate(addrOf(f.id), true) },
	} {
		inVirtualTime(t, name, func(t *testing.T) {
			c, w, l, f := retaining(t, 64<<20)
			has, _ := f.stores.entries.LastIndex()
			end(c, f)
			at := time.Now()
			c.fillLog(w, 12, f)
			if first := l.firstIndex(); time.Since(at) < contactWithin && first > has+1 {
				t.Fatalf("a follower at %d that was heard a moment ago gets no log: it begins at %d", has, first)
			}
			time.Sleep(contactWithin + 2*time.Second - time.Since(at))
			if first, bytes := l.firstIndex(), l.stores.entries.Bytes(); first <= has+1 || bytes > 8*c.limit.TrailingBytes {
				t.Errorf("the log is kept for a follower that is %s: it begins at %d, %d bytes", name, first, bytes)
			}
			time.Sleep(2 * deleteHold) // raft tries to send it a snapshot now and then
			c.fillLog(w, 12, f)
			if l.Status().LogKept {
				t.Error("the log is held for a copy that a follower makes that does not answer")
			}
			if bytes := l.stores.entries.Bytes(); bytes > 8*c.limit.TrailingBytes {
				t.Errorf("%d bytes of log with a follower that is %s", bytes, name)
			}
		})
	}
}

// The log that is kept for followers has its limit, whether checkpoints come or not; who misses more makes a copy.
func TestLogForFollowersIsBounded(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, "bound", func(t *testing.T) {
		const limit, slack = 3 << 20, 1 << 20 // of an append, and what raft holds in hand
		c, w, l, f := retaining(t, limit)
		c.net.slowDown(addrOf(f.id), slowRate)
		most := int64(0)
		for range 40 {
			c.fillLog(w, 1, nil)
			if trimmed(l.stores.entries) == 0 || l.Applied()%8 == 0 {
				if err := l.Checkpoint(c.ctx(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			most = max(most, l.stores.entries.Bytes())
		}
		if most < limit/2 || most > limit+limit/16+slack {
			t.Errorf("the log grew to %d bytes, the limit is %d", most, limit)
		}
		c.net.slowDown(addrOf(f.id), 0)
		c.caughtUp(w.last)
		if p := f.CatchUp(); p.Manifest == 0 {
			t.Errorf("a follower that missed more than the limit made no copy: %+v", p)
		}
		sameStates(t, c, w.last)
	})
}

// A leader that leads no more keeps nothing for followers.
func TestDeposedLeaderKeepsNoLog(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, "deposed", func(t *testing.T) {
		c, w, l, f := retaining(t, 64<<20)
		c.net.slowDown(addrOf(f.id), slowRate)
		c.fillLog(w, 20, f)
		var next *testNode
		for _, n := range c.running() {
			if n != l && n != f {
				next = n
			}
		}
		c.eventually("handed over", func() bool {
			return next.Leadership().Self || l.TransferLeadership(c.ctx(5*time.Second), blockstore.NodeID(next.id)) == nil
		})
		at := time.Now()
		c.eventually("the old leader's log is cut", func() bool { return l.stores.entries.Bytes() < 8*c.limit.TrailingBytes })
		if took := time.Since(at); took > contactWithin/2 {
			t.Errorf("that took %v", took)
		}
		c.net.slowDown(addrOf(f.id), 0)
		c.caughtUp(w.last)
		sameStates(t, c, w.last)
	})
}

func TestFollowersPositions(t *testing.T) {
	at := time.Unix(1000, 0)
	request := func(term, prev, entries uint64) *raft.AppendEntriesRequest {
		r := &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev}
		for i := range entries {
			r.Entries = append(r.Entries, &raft.Log{Index: prev + 1 + i})
		}
		return r
	}
	yes := func(term uint64) *raft.AppendEntriesResponse {
		return &raft.AppendEntriesResponse{Term: term, Success: true}
	}
	no := func(term, last uint64) *raft.AppendEntriesResponse {
		return &raft.AppendEntriesResponse{Term: term, LastLog: last}
	}
	const none, oldest = math.MaxUint64, 50
	var f followers
	for i, step := range []struct {
		what string
		do   func()
		term uint64
		ids  []raft.ServerID
		want uint64
	}{
		{"nobody else", func() {}, 3, nil, none},
		{"a term begins: who knows", func() {}, 3, []raft.ServerID{"b"}, oldest},
		{"a heartbeat tells nothing", func() { f.answered("b", request(3, 0, 0), yes(3), at) }, 3, []raft.ServerID{"b"}, oldest},
		{"took entries", func() { f.answered("b", request(3, 99, 5), yes(3), at) }, 3, []raft.ServerID{"b"}, 104},
		{"a heartbeat changes nothing", func() { f.answered("b", request(3, 0, 0), yes(3), at) }, 3, []raft.ServerID{"b"}, 104},
		{"has what came before", func() { f.answered("b", request(3, 120, 0), yes(3), at) }, 3, []raft.ServerID{"b"}, 120},
		{"the slowest counts", func() { f.answered("c", request(3, 99, 1), yes(3), at) }, 3, []raft.ServerID{"b", "c"}, 100},
		{"but members alone", func() {}, 3, []raft.ServerID{"b"}, 120},
		{"refused: its log ends earlier", func() { f.answered("b", request(3, 120, 4), no(3, 70), at) }, 3, []raft.ServerID{"b"}, 70},
		{"refused: another entry is there", func() { f.answered("b", request(3, 70, 4), no(3, 90), at) }, 3, []raft.ServerID{"b"}, 69},
		{"of a later term: no position", func() { f.answered("b", request(3, 88, 1), no(4, 88), at) }, 3, []raft.ServerID{"b"}, 69},
		{"refused down to nothing: must copy", func() { f.answered("b", request(3, 69, 1), no(3, 0), at) }, 3, []raft.ServerID{"b", "c"}, 100},
		{"has copied", func() { f.installed("b", 3, 77, at) }, 3, []raft.ServerID{"b", "c"}, 77},
		{"just before what may be kept", func() { f.installed("b", 3, 49, at) }, 3, []raft.ServerID{"b", "c"}, oldest},
		{"further back: must copy", func() { f.installed("b", 3, 48, at) }, 3, []raft.ServerID{"b", "c"}, 100},
		{"the next term begins", func() { at = at.Add(time.Hour); f.answered("c", request(5, 99, 9), yes(5), at) }, 5, []raft.ServerID{"b", "c"}, oldest},
		{"an answer from the term before", func() { f.answered("b", request(3, 300, 1), yes(3), at) }, 5, []raft.ServerID{"b", "c"}, oldest},
		{"asked for the term before", func() {}, 3, []raft.ServerID{"b", "c"}, none},
		{"never heard in time", func() { at = at.Add(contactWithin); f.answered("c", request(5, 0, 0), yes(5), at); at = at.Add(1) }, 5, []raft.ServerID{"b", "c"}, 108},
		{"nor the other", func() { at = at.Add(contactWithin) }, 5, []raft.ServerID{"b", "c"}, none},
	} {
		step.do()
		if got := f.needed(step.term, step.ids, oldest, at); got != step.want {
			t.Fatalf("%d, %s: %d, want %d", i, step.what, int64(got), int64(step.want))
		}
	}
}

func TestKeepBound(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct{ limit, free, log, want int64 }{
		{gib, 100 * gib, 0, gib}, {gib, 3 * gib, gib, gib}, {gib, gib, gib, gib / 2}, {gib, 0, gib, gib / 4}, {gib, 0, 0, 0}, {-1, 9 * gib, 0, 0},
	} {
		if got := keepBound(tc.limit, tc.free, tc.log); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

// What the leader's log has for followers counts as free, so the admitted capacity does not change with it.
func TestCapacityWithSpareLog(t *testing.T) {
	const gib = 1 << 30
	usage := func(kept uint64) []PeerUsage {
		return []PeerUsage{{Used: 2 * gib, Free: 10*gib - kept, FSID: "x"}, {Used: 2 * gib, Free: 10*gib - kept, FSID: "x"}, {Used: 2 * gib, Free: 6 * gib, FSID: "y"}}
	}
	if got, want := capacityOf(withSpare(usage(gib), "x", gib)), capacityOf(usage(0)); got != want {
		t.Errorf("%d blocks are admitted while 1 GiB of log is kept, %d else", got, want)
	}
}

// Entries that others need stay when the front is removed, up to the limit, and go when they are needed no more.
func TestLogKeepsWhatIsNeeded(t *testing.T) {
	for _, kind := range []LogKind{LogSeg, LogBolt} {
		need, limit := uint64(math.MaxUint64), int64(1<<40)
		o := logOptions()
		o.Needed = func(oldest uint64) uint64 { return max(need, oldest) }
		o.NeededBytes = func() int64 { return limit }
		s := openTestLog(t, kind, t.TempDir(), o)
		begins := func(what string, want uint64) {
			t.Helper()
			if first, _ := s.FirstIndex(); first != want {
				t.Fatalf("%s: %s: the log begins at %d, want %d", kind, what, first, want)
			}
		}
		store(t, s, 1, 100, 1)
		mustDelete(t, s, 1, 10)
		begins("nobody needs any", 11)
		need = 31
		mustDelete(t, s, 11, 20)
		begins("later ones are needed", 21)
		mustDelete(t, s, 21, 60)
		begins("needed", 31)
		if got, want := trimmed(s), s.BytesSince(31)-s.BytesSince(61); got != want {
			t.Errorf("%s: %d bytes to spare, want %d", kind, got, want)
		}
		need = 41
		if trimmed(s) == 0 {
			t.Error("nothing to spare")
		}
		begins("some were taken", 41)
		release := s.HoldDeletes()
		need = math.MaxUint64
		trimmed(s)
		begins("held for a copy", 41)
		need = 45
		release()
		begins("no longer, but needed still", 45)
		need, limit = 0, s.BytesSince(50)
		if trimmed(s); s.Bytes() > limit+8192 || s.Bytes() < limit/2 {
			t.Errorf("%s: the log has %d bytes, may have %d", kind, s.Bytes(), limit)
		}
		for i := uint64(101); i <= 400; i++ { // no removal is asked for, the limit holds as long as any was put off
			store(t, s, i, i, 1)
			if first, _ := s.FirstIndex(); first < 61 && s.Bytes() > limit+limit/16+8192 { // a cut is an entry of its own
				t.Fatalf("%s: the log has %d bytes, may have %d", kind, s.Bytes(), limit)
			}
		}
		begins("what was put off is gone", 61)
		need = math.MaxUint64
		mustDelete(t, s, 61, 400)
		begins("all of it", 0)
	}
}

// trimmed is Trim, when no entry is being written.
func trimmed(s *LogStore) int64 {
	for {
		if spare, done := s.Trim(); done {
			return spare
		}
		time.Sleep(time.Millisecond)
	}
}
