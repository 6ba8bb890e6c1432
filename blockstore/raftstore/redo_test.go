package raftstore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// The device is told of the end of the redo at the last index that the log held at the start: not earlier, or blocks torn by the
// crash would be taken for damage; not later, or damage would be taken for the crash's.
func TestDeviceIsToldOfTheEndOfTheRedo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	taps := c.tapped()
	c.start("a")
	if at := taps["a"].redoEndedAt(); len(at) != 1 || at[0] != 0 {
		t.Fatalf("a new device is told of the end of the redo at %v", at)
	}
	w := c.writer('x')
	for i := range 10 {
		w.write(7, uint64(i), 1, 'A', 1)
	}
	c.stop("a")
	tn, err := c.open("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	last, err := tn.stores.log.LastIndex()
	if err != nil || last < w.last {
		t.Fatal(last, err)
	}
	if at := taps["a"].redoEndedAt(); len(at) != 0 {
		t.Fatalf("told at %v before anything was redone", at)
	}
	// Not started yet: the device may hold what the state machine does not know of.
	if _, _, err := tn.ReadLocal(c.ctx(50*time.Millisecond), []wal.Span{{VDisk: 7, Block: 0, Count: 1}}, 0); !errors.Is(err, errors.KindNotReached) {
		t.Errorf("a read before the start is answered: %v", err)
	}
	tn.Close()
	tn.mux.Close()
	tn.dev.Close()
	n := c.start("a")
	w.write(7, 3, 1, 'B', 0)
	if at := taps["a"].redoEndedAt(); len(at) != 1 || at[0] != last {
		t.Errorf("told at %v, the log ended at %d", at, last)
	}
	n.check(t, w.last, 7, 3, 1, 'B')
}

// Checksums lost on the host's disk are found, although the chunk was changed after the restart.
func TestLostChecksumsAreNotMaskedByALaterChange(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	w.write(7, 256, 20, 'A', 20)
	w.write(8, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	f := c.follower()
	if err := f.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.write(8, 0, 1, 'B', 0) // something to redo, elsewhere
	c.caughtUp(w.last)
	c.stop(f.id)
	sums, err := os.OpenFile(filepath.Join(c.dirOf(f.id), "blocks", "large.0000.sum"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sums.WriteAt(make([]byte, 512), 0); err != nil { // a sector that the disk lost
		t.Fatal(err)
	}
	sums.Close()
	f = c.start(f.id)
	c.caughtUp(w.last)
	w.write(7, 300, 1, 'C', 1) // a change of the chunk
	c.caughtUp(w.last)
	if err := f.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.stop(f.id)
	f = c.start(f.id)
	c.caughtUp(w.last)
	f.check(t, w.last, 7, 256, 20, 'A')
	if r := f.Status().Repairs; r.Repaired == 0 {
		t.Errorf("nothing was repaired: %+v", r)
	}
}

func TestRedoEndsOnce(t *testing.T) {
	for _, tc := range []struct {
		what        string
		index, term uint64
		want        bool
	}{
		{"below the end", 19, 3, false}, {"an unknown term", 19, 0, false}, {"at the end", 20, 0, true}, {"beyond", 21, 3, true},
		{"before an entry of a later term", 15, 4, true},
	} {
		var p progress
		p.init(10)
		p.setStart(20, 3)
		if got := p.redoEnds(tc.index, tc.term); got != tc.want {
			t.Errorf("%s: %v", tc.what, got)
		}
		if tc.want && p.redoEnds(tc.index, tc.term) {
			t.Errorf("%s: told twice", tc.what)
		}
	}
}

// A checkpoint that something newer has overtaken is given up; the replica lives.
func TestOvertakenCheckpointIsNotFatal(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	n := c.start("a")
	w := c.writer('x')
	w.write(7, 0, 4, 'A', 4)
	first, err := fsm{n.Node}.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.dev.ResetTo(n.Applied(), n.applier.state.Encode()); err != nil {
		t.Fatal(err)
	}
	if err := first.(*checkpoint).finished(); !errors.Is(err, errors.KindInvalid) {
		t.Errorf("an overtaken checkpoint: %v", err)
	}
	w.write(7, 0, 4, 'B', 0)
	if err := n.Status().Failure; err != "" {
		t.Error(err)
	}
}

// After a copy a follower's log begins behind its snapshot. If all that it holds there was never committed, a new leader must
// still find where the two logs part: at the snapshot's end.
func TestFollowerWithSnapshotAndForeignTailRejoins(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes = 1
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 4, 'A', 4)
	c.caughtUp(w.last)
	f := c.follower()
	if err := f.Checkpoint(t.Context()); err != nil { // cuts its log
		t.Fatal(err)
	}
	id, term := f.id, f.raft.Load().CurrentTerm()
	c.stop(id)
	tn, err := c.open(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Entries of a leader that nobody else heard of, behind the snapshot.
	from := tn.stores.edge.Load().Index
	if last, _ := tn.stores.entries.LastIndex(); last > 0 {
		if err := tn.stores.entries.DeleteRange(1, last); err != nil {
			t.Fatal(err)
		}
	}
	for i := from + 1; i < from+4; i++ {
		if err := tn.stores.entries.StoreLog(&raft.Log{Index: i, Term: term, Type: raft.LogNoop, Data: nil}); err != nil {
			t.Fatal(err)
		}
	}
	tn.Close()
	tn.mux.Close()
	tn.dev.Close()
	old := c.leader() // a new term for what follows
	for _, m := range c.running() {
		if m != old {
			if err := old.TransferLeadership(c.ctx(5*time.Second), blockstore.NodeID(m.id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 6 {
		w.write(7, 0, 4, 'B', 0)
	}
	n := c.start(id)
	c.caughtUp(w.last)
	n.check(t, w.last, 7, 0, 4, 'B')
	if p := n.CatchUp(); p.Manifest != 0 {
		t.Errorf("it was copied anew: %+v", p)
	}
}
