package raftstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

func TestThreeNodesCommitAndReadEverywhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	for i := range 20 {
		w.write(7, uint64(i)*3, 3, byte(i), 3)
	}
	c.caughtUp(w.last)
	ids := map[string]bool{}
	for _, n := range c.running() {
		for i := range 20 {
			n.check(t, w.last, 7, uint64(i)*3, 3, byte(i))
		}
		ids[n.Status().Cluster] = true
		if len(n.Members()) != 3 {
			t.Fatalf("%s knows %d members", n.id, len(n.Members()))
		}
	}
	if len(ids) != 1 {
		t.Fatalf("cluster ids %v", ids)
	}
}

func TestRestartOfAllKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, checkpoint := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpoint), func(t *testing.T) {
			c := newCluster(t, "a", "b", "c")
			c.startAll()
			w := c.writer('x')
			for i := range 10 {
				w.write(7, uint64(i), 1, 'A', 1)
			}
			c.caughtUp(w.last)
			if checkpoint {
				for _, n := range c.running() {
					if err := n.Checkpoint(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i := range 10 {
				w.write(7, uint64(i), 1, 'B', 0)
			}
			c.caughtUp(w.last)
			c.closeAll()
			c.startAll()
			c.leader()
			c.caughtUp(w.last)
			for _, n := range c.running() {
				n.check(t, w.last, 7, 0, 10, 'B')
				n.View(func(s *blockstore.State, _ uint64) {
					if s.Used() != 10 {
						t.Errorf("%s counts %d used blocks", n.id, s.Used())
					}
				})
			}
			w.write(7, 3, 1, 'C', 0) // the writer lives on
		})
	}
}

// TestCheckpointThatTheDeviceWants is made with the next entry, long before bytes or time ask for one.
func TestCheckpointThatTheDeviceWants(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	var tap *tapDevice
	c.wrap = func(_ string, dev blockstore.Device) blockstore.Device {
		tap = &tapDevice{Device: dev}
		return tap
	}
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	if index, _ := tap.Meta(); index != 0 {
		t.Fatal("a checkpoint is there already, at", index)
	}
	tap.wants.Store(true)
	w.write(7, 1, 1, 'A', 1)
	c.eventually("a checkpoint", func() bool { index, _ := tap.Meta(); return index > 0 })
}

func TestLeaderLossLosesNothingAndDoesNothingTwice(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	var wg sync.WaitGroup
	var stop atomic.Bool
	wg.Add(1)
	go func() { // the leader goes away again and again
		defer wg.Done()
		for range 3 {
			time.Sleep(200 * time.Millisecond)
			l := c.leader()
			c.net.isolate(addrOf(l.id), true)
			time.Sleep(400 * time.Millisecond)
			c.net.isolate(addrOf(l.id), false)
		}
		stop.Store(true)
	}()
	n := uint64(0)
	for !stop.Load() {
		w.write(9, n, 1, 'Z', 1)
		n++
	}
	wg.Wait()
	c.caughtUp(w.last)
	for _, node := range c.running() {
		node.check(t, w.last, 9, 0, min(n, 1000), 'Z')
		node.View(func(s *blockstore.State, _ uint64) {
			if s.Used() != n {
				t.Errorf("%s counts %d used blocks, %d were written once each", node.id, s.Used(), n)
			}
			if info, ok := s.Writer(w.ses.Writer); !ok || info.NextSeq != n+1 {
				t.Errorf("%s: writer %+v, want next %d", node.id, info, n+1)
			}
		})
	}
}

func TestAsyncKeepsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		c.startAll()
		w := c.writer('x')
		l := c.leader()
		const n = 200
		var wg sync.WaitGroup
		var bad atomic.Int64
		for i := uint64(1); i <= n; i++ {
			wg.Add(1)
			l.ProposeAsync(context.Background(), w.command(i, fullRecord(5, i, 1, 'q', 1)), func(r blockstore.Result, err error) {
				if err != nil || r.Err != nil {
					bad.Add(1)
				}
				wg.Done()
			})
		}
		wg.Wait()
		if bad.Load() != 0 {
			t.Fatalf("%d of %d failed: out of order", bad.Load(), n)
		}
		if b := l.Status().InFlightBytes; b != 0 {
			t.Fatalf("%d bytes still in flight", b)
		}
	})
}

func TestProposalsOnFollowerAndBadCommandsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	f := c.follower()
	if _, err := f.Propose(c.ctx(time.Second), blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: 1}); !errors.Is(err, errors.KindNotLeader) {
		t.Fatalf("follower: %v", err)
	}
	if _, err := c.leader().Propose(c.ctx(time.Second), blockstore.Command{Kind: blockstore.CmdWrite, Writer: 1, Seq: 1, Record: []byte("junk")}); err == nil {
		t.Fatal("a record that nobody can decode was proposed")
	}
	if err := f.ProveLeadership(c.ctx(time.Second)); !errors.Is(err, errors.KindNotLeader) {
		t.Fatalf("follower proves leadership: %v", err)
	}
}

func TestInFlightBytesAreBounded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.InFlightBytes = entryBytesMax
	c.startAll()
	w := c.writer('x')
	l := c.leader()
	for _, n := range c.running() {
		if n != l {
			c.net.isolate(addrOf(n.id), true)
		}
	}
	done := make(chan error, 1)
	l.ProposeAsync(context.Background(), w.command(1, fullRecord(5, 0, 120, 'q', 120)), func(_ blockstore.Result, err error) { done <- err })
	begin := time.Now()
	second := make(chan error, 1)
	l.ProposeAsync(c.ctx(50*time.Millisecond), w.command(2, fullRecord(5, 200, 120, 'q', 120)), func(_ blockstore.Result, err error) { second <- err })
	if err := <-second; !errors.Is(err, errors.KindUnavailable) || time.Since(begin) < 40*time.Millisecond {
		t.Fatalf("the second proposal did not wait for room: %v after %v", err, time.Since(begin))
	}
	if err := <-done; !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("without a quorum: %v", err)
	}
}

func TestWatchLeadership(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	l := c.leader()
	ctx, cancel := context.WithCancel(context.Background())
	watch := l.WatchLeadership(ctx)
	var first blockstore.Leadership
	c.eventually("told of its own leadership", func() bool {
		select {
		case first = <-watch:
		default:
		}
		return first.Self
	})
	if first.Term == 0 || first.Leader != blockstore.NodeID(l.id) || first.Address != addrOf(l.id) {
		t.Fatalf("told %+v", first)
	}
	c.net.isolate(addrOf(l.id), true)
	deadline := time.After(10 * time.Second)
	for v := first; v.Self; {
		select {
		case v = <-watch:
		case <-deadline:
			t.Fatal("a cut-off leader is not told that it leads no more")
		}
	}
	next := c.leader()
	if got := next.Leadership(); got.Term <= first.Term {
		t.Fatalf("new leader in term %d, old one in %d", got.Term, first.Term)
	}
	cancel()
	c.eventually("channel closed", func() bool {
		select {
		case _, ok := <-watch:
			return !ok
		default:
			return false
		}
	})
}

func TestDeposedLeaderNeverProvesLeadership(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	for range 3 {
		old := c.leader()
		if err := old.ProveLeadership(c.ctx(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		c.net.isolate(addrOf(old.id), true)
		cut := time.Now()
		c.leader()
		for time.Since(cut) < 600*time.Millisecond {
			if err := old.ProveLeadership(c.ctx(300 * time.Millisecond)); err == nil {
				t.Fatal("a leader that is cut off from all proved its leadership")
			}
			time.Sleep(10 * time.Millisecond)
		}
		c.net.isolate(addrOf(old.id), false)
		c.eventually("the old leader follows", func() bool { return !old.Leadership().Self && old.Leadership().Leader != "" })
	}
}

func TestProofsAreSharedButNeverOld(t *testing.T) {
	var commits atomic.Int64
	gate := make(chan struct{})
	p := prover{commit: func() error { commits.Add(1); <-gate; return nil }}
	first := make(chan error, 1)
	go func() { first <- p.prove(context.Background()) }()
	for commits.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	const n = 50
	late := make(chan error, n)
	for range n {
		go func() { late <- p.prove(context.Background()) }()
	}
	for {
		p.mu.Lock()
		waiting := p.next != nil
		p.mu.Unlock()
		if waiting {
			break
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // let all 50 join
	gate <- struct{}{}
	<-first
	select {
	case <-late:
		t.Fatal("a proof begun before the call was taken")
	case <-time.After(20 * time.Millisecond):
	}
	gate <- struct{}{}
	for range n {
		<-late
	}
	if got := commits.Load(); got != 2 {
		t.Fatalf("%d commits for %d callers in two waves", got, n+1)
	}
}

func TestGracefulCloseHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.HeartbeatTimeout = 2 * time.Second // an election by timeout would take longer
	c.startAll()
	w := c.writer('x')
	w.write(1, 1, 1, 'a', 1)
	old := c.leader()
	begin := time.Now()
	c.stop(old.id)
	c.leader()
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Fatalf("a new leader after %v: not handed over", took)
	}
	w.write(1, 2, 1, 'a', 1)
}

func TestUndecodableEntryStopsTheNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	n := c.start("a")
	c.leader()
	bad := n.raft.Load().Apply([]byte("no command"), time.Second)
	select {
	case err := <-n.fatal:
		if !strings.Contains(err.Error(), "cannot be decoded") {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the node goes on behind an entry that it could not decode")
	}
	if bad.Index() == 0 || n.Applied() >= bad.Index() {
		t.Fatalf("applied %d, the entry that cannot be decoded is %d", n.Applied(), bad.Index())
	}
	if _, err := n.Propose(c.ctx(time.Second), blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: 1}); err == nil {
		t.Fatal("a stopped replica answers proposals")
	}
	if n.Leadership().Self {
		t.Fatal("a stopped replica says that it leads")
	}
}

func TestForeignAndNewerIdentityIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	dir := c.dirOf("a")
	c.start("a")
	c.leader()
	c.stop("a")
	path := filepath.Join(dir, identityFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		old, new string
		kind     errors.Kind
	}{
		{identityMagic, "etcd-node", errors.KindForeign},
		{`"version": 1`, `"version": 99`, errors.KindTooNew},
		{`"lives": true`, `"lives": false`, errors.KindCorrupt},
	} {
		bad := strings.Replace(string(good), tc.old, tc.new, 1)
		if bad == string(good) {
			t.Fatalf("no %q in %s", tc.old, good)
		}
		os.WriteFile(path, []byte(bad), 0o600)
		if _, err := loadIdentity(dir, "a"); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", tc.new, err)
		}
	}
	os.WriteFile(path, good, 0o600)
	if _, err := loadIdentity(dir, "b"); !errors.Is(err, errors.KindForeign) {
		t.Errorf("another node's directory: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open("a", nil); !errors.Is(err, errors.KindCorrupt) {
		t.Errorf("without its log: %v", err)
	}
}

func TestEmptiedDiskCannotComeBackUnderItsOldID(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	w.write(1, 0, 4, 'a', 4)
	c.caughtUp(w.last)
	for _, victim := range []string{c.follower().id} {
		c.stop(victim)
		if err := os.RemoveAll(c.dirOf(victim)); err != nil {
			t.Fatal(err)
		}
		n := c.start(victim)
		select {
		case err := <-n.fatal:
			if !errors.Is(err, errors.KindForeign) {
				t.Fatalf("refused with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a node with an emptied disk founded the cluster again")
		}
		c.stop(victim)
		// Told to join instead, it stays out: the members refuse to speak to another incarnation.
		n = c.startWith(victim, func(o *Options) { o.Bootstrap, o.Join = nil, []string{c.leader().opts.Advertise} })
		c.eventually("joined", func() bool { return n.raft.Load() != nil })
		time.Sleep(500 * time.Millisecond)
		if last := n.raft.Load().LastIndex(); last != 0 {
			t.Fatalf("the old member's entries (to %d) reach a node with another incarnation", last)
		}
		if err := c.leader().AddNonvoter(c.ctx(5*time.Second), blockstore.NodeID(victim), addrOf(victim)); !errors.Is(err, errors.KindExist) {
			t.Fatalf("added although the old incarnation is a member: %v", err)
		}
		// Removed and added anew, it works.
		if err := c.leader().Remove(c.ctx(5*time.Second), blockstore.NodeID(victim)); err != nil {
			t.Fatal(err)
		}
		if err := c.leader().AddNonvoter(c.ctx(5*time.Second), blockstore.NodeID(victim), addrOf(victim)); err != nil {
			t.Fatal(err)
		}
		c.caughtUp(w.last)
		c.eventually("promoted", func() bool {
			return c.leader().Promote(c.ctx(5*time.Second), blockstore.NodeID(victim)) == nil
		})
		n.check(t, w.last, 1, 0, 4, 'a')
	}
}

// heldDevice holds every Apply once it is told to, and fails it when it is let go.
type heldDevice struct {
	blockstore.Device
	held  atomic.Bool
	letGo chan struct{}
}

func (d *heldDevice) Apply(index uint64, rec *wal.Record) error {
	if d.held.Load() {
		<-d.letGo
		return errOdd
	}
	return d.Device.Apply(index, rec)
}

// TestCloseWhileTheDeviceDies: a leader whose device hangs until raft waits for it, too, is being closed when the device fails. Raft answers
// nobody then, and the close ends all the same.
func TestCloseWhileTheDeviceDies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	held := map[string]*heldDevice{}
	c.wrap = func(id string, d blockstore.Device) blockstore.Device {
		held[id] = &heldDevice{Device: d, letGo: make(chan struct{})}
		return held[id]
	}
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	l := c.leader()
	held[l.id].held.Store(true)
	commits := func() bool {
		w.seq++
		before := l.Status().CommitIndex
		l.ProposeAsync(c.ctx(time.Minute), w.command(w.seq, fullRecord(7, w.seq, 1, 'A', 1)), func(blockstore.Result, error) {})
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if l.Status().CommitIndex > before {
				return true
			}
		}
		return false
	}
	for n := 0; commits(); n++ {
		if n > 5000 {
			t.Fatal("raft waits for no device")
		}
	}
	closed := make(chan struct{})
	go func() { c.stop(l.id); close(closed) }()
	select {
	case <-closed:
		t.Fatal("closed while raft and the device hang")
	case <-time.After(100 * time.Millisecond): // it waits for an answer to the transfer of its leadership
	}
	close(held[l.id].letGo)
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("the close of a node whose device has died hangs")
	}
}
