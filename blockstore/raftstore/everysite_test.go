package raftstore

import (
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/simdisk"
	"dfs/wal"
)

// TestEverySite has one of three nodes meet a fault in each operation of its disk in turn, from its start through a copy of what it missed and
// redone entries to a checkpoint that cuts its log, until such a run has no more operations: the power fails there (what was not synced is
// lost or torn), the process dies there (all is kept), or the operation fails with EIO. The files that stay on the host (term and vote, the chunk map,
// node.json, the note of a copy, the manifest) change whole or not at all in it. The node ends itself where the operation mattered; it starts again,
// catches up, and is what the others are.
//
// The short run draws one of the faults for each operation; with DFS_SOAK_MINUTES set all are done.
func TestEverySite(t *testing.T) {
	faults := []string{"power", "kill", "error"}
	synctest.Test(t, func(t *testing.T) {
		s := newSiteRun(t)
		hit := 0
		for n, more := 1, true; more; n++ {
			for i, f := range faults {
				if os.Getenv("DFS_SOAK_MINUTES") == "" && (n+i)%len(faults) != 0 {
					continue
				}
				site, ok := s.round(f, n)
				if !ok {
					more = false
					break
				}
				hit++
				s.sites[f+" in a "+site]++
			}
		}
		t.Logf("%d faults: %v; %d copies were begun", hit, s.sites, s.copies)
		if hit < 30 || s.copies < hit/2 {
			t.Error("the node hardly met any fault, or did not copy: the test does not test")
		}
	})
}

// siteRun is a cluster whose node c has a power supply of its own.
type siteRun struct {
	*powerRun
	own    *simdisk.Power // c's
	w      *writer
	want   map[wal.Addr]*[wal.BlockSize]byte
	sites  map[string]int
	copies int
	tag    byte
}

func newSiteRun(t *testing.T) *siteRun {
	s := &siteRun{own: newPower(2), want: map[wal.Addr]*[wal.BlockSize]byte{}, sites: map[string]int{}}
	s.powerRun = &powerRun{cluster: newCluster(t, "a", "b", "c"), t: t, p: newPower(1), rng: rand.New(rand.NewPCG(1, 6)), sum: &powerCounts{}}
	s.disks = map[string]*simdisk.Disk{"a": simdisk.New(s.p), "b": simdisk.New(s.p), "c": simdisk.New(s.own)}
	s.limit.TrailingBytes = 1
	s.startAll()
	s.w = s.cluster.writer('w')
	return s
}

// write changes some blocks of two vdisks, whole and in part, and trims one.
func (s *siteRun) write(n int) {
	for range n {
		s.tag++
		rec := &wal.Record{Trims: []wal.Span{{VDisk: 2, Block: uint64(s.tag) % 20, Count: 1}}}
		for _, block := range []uint64{uint64(s.tag) % 20, 300} {
			rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: 1, Block: block}, Data: fill(block, s.tag)},
				wal.Range{Addr: wal.Addr{VDisk: 2, Block: block + 1}, Off: uint32(s.tag), Data: fill(block, s.tag)[:700]})
		}
		before := len(s.want)
		applyModel(s.want, rec)
		rec.AllocDelta = int64(len(s.want) - before)
		s.w.seq++
		res := s.propose(s.w.command(s.w.seq, rec))
		s.w.must(res)
		s.w.last = res.Index
	}
}

// round lets c fall behind, and come back with the fault in its n-th operation; false: it did not make so many.
func (s *siteRun) round(fault string, n int) (site string, hit bool) {
	s.stop("c")
	s.leader()
	s.write(4)
	for _, id := range []string{"a", "b"} {
		if err := s.node(id).Checkpoint(s.ctx(10 * time.Second)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write(1)
	if fault == "error" {
		s.own.ErrorsIn(n, 1)
	} else {
		s.own.FailIn(n)
	}
	c := s.comeBack()
	kind, hit := s.own.Hit()
	site = kind.String()
	if hit {
		s.fell(c, fault, site)
		s.stop("c")
		left := simdisk.Nothing // as of a machine whose process died: the kernel keeps it
		if fault == "power" {
			left = simdisk.Torn
		}
		s.disks["c"].Lose(left)
		s.own.Restore()
		c = s.start("c")
	} else {
		s.own.Restore()
	}
	s.verify(c, fmt.Sprintf("%s in operation %d, a %s", fault, n, site))
	return site, hit
}

// comeBack starts c and lets it copy, follow and make a checkpoint, until all is done or the fault has come. Nil: it did not start.
func (s *siteRun) comeBack() *testNode {
	met := func() bool { _, ok := s.own.Hit(); return ok }
	c, err := s.open("c", nil)
	if err != nil {
		if !met() {
			s.t.Fatalf("c does not start, without a fault: %v", err)
		}
		return nil
	}
	go c.mux.Serve()
	s.mu.Lock()
	s.nodes[addrOf("c")] = c
	s.mu.Unlock()
	if err := c.Start(s.ctx(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	there := func() bool { return c.Applied() >= s.w.last && c.applier.progress.settled() }
	s.eventually("c is back", func() bool { return met() || there() })
	if c.CatchUp().Manifest > 0 {
		s.copies++
	}
	if !met() {
		s.write(2)
		s.eventually("c follows", func() bool { return met() || there() })
	}
	if !met() {
		c.clearCopyMark()
		if err := c.Checkpoint(s.ctx(10 * time.Second)); err != nil && !met() {
			s.t.Fatalf("a checkpoint on c, without a fault: %v", err)
		}
	}
	return c
}

// fell checks that c ended itself, or was not harmed: an error that is not told is one of a spare segment.
func (s *siteRun) fell(c *testNode, fault, site string) {
	if c == nil || fault != "error" {
		return
	}
	before := s.w.last
	s.write(1)
	s.eventually(fmt.Sprintf("c ends itself, or goes on, after an error of a %s", site), func() bool {
		return len(c.fatal) > 0 || c.Applied() > before && c.applier.progress.settled()
	})
}

// verify compares c with what was written.
func (s *siteRun) verify(c *testNode, what string) {
	s.t.Helper()
	s.eventually("c is where the others are, after "+what, func() bool { return c.Applied() >= s.w.last && c.applier.progress.settled() })
	s.heal(c)
	s.compare(c, s.want)
	c.View(func(st *blockstore.State, _ uint64) {
		if st.Used() != uint64(len(s.want)) {
			s.t.Errorf("after %s c counts %d blocks used, it is %d", what, st.Used(), len(s.want))
		}
	})
	select {
	case err := <-c.fatal:
		s.t.Errorf("after %s c ended itself again: %v", what, err)
	default:
	}
	if s.t.Failed() {
		s.t.Fatalf("%s", what)
	}
}

// dull is a power supply under which the files that stay on the host cannot be changed any more.
type dull struct{ after int }

func (d *dull) Off() bool { return false }

func (d *dull) Commit(change func() error) error {
	if d.after--; d.after < 0 {
		return fmt.Errorf("test: %w", syscall.EIO)
	}
	return change()
}

// TestTermCannotBeNoted: raft, which panics then, must not: the node says what is the matter, promises nothing, and nothing of it
// is left when it is closed.
func TestTermCannotBeNoted(t *testing.T) {
	for after := range 4 {
		inVirtualTime(t, fmt.Sprint("after ", after), func(t *testing.T) { // which ends when every goroutine has
			c := newCluster(t, "a")
			a := c.startWith("a", func(o *Options) { o.Power = &dull{after} })
			select {
			case err := <-a.fatal:
				if !stderrors.Is(err, syscall.EIO) {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Error("the node does not end itself")
			}
			if _, err := a.Propose(c.ctx(50*time.Millisecond), blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: 1}); err == nil {
				t.Error("a proposal was carried out")
			}
			c.stop("a")
			if a = c.start("a"); !a.isRaftLeader() {
				c.leader()
			}
		})
	}
}

// TestTermNeverGoesBack: raft has goroutines that may try, and the node ends rather than follow a leader of a term that it has left.
func TestTermNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a")
		a := c.start("a")
		c.leader()
		term, err := a.stores.stable.GetUint64(keyCurrentTerm)
		if err != nil || term < 1 {
			t.Fatal(term, err)
		}
		returned := make(chan error, 1)
		go func() { returned <- a.stores.stable.SetUint64(keyCurrentTerm, term-1) }()
		select {
		case <-a.fatal:
		case err := <-returned:
			t.Errorf("the term was set back: %v", err)
		}
		if now, err := a.stores.stable.GetUint64(keyCurrentTerm); err != nil || now != term {
			t.Errorf("term %d became %d (%v)", term, now, err)
		}
	})
}
