package lockserver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// sim runs a script in virtual time with n nodes, of which the first leads.
func sim(t *testing.T, n int, script func(t *testing.T, c *fakeCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, Options{})
		c.elect(c.nodes[0])
		script(t, c)
	})
}

func TestGrantRevokeRelease(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		want := c.bump()
		a.h.index = func(LockID) uint64 { return want }
		a.h.open[1] = true
		start := time.Now()
		if !b.lock(time.Second, Request{1, Shared}) {
			t.Fatal("b did not get the lock that a does not use")
		}
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("a revoke took %v of virtual time", took)
		}
		if got := b.MinIndex(1); got != want {
			t.Errorf("MinIndex %d, the release brought %d", got, want)
		}
		if a.Held(1) != Shared {
			t.Errorf("a holds %d after a reader came, want Shared", a.Held(1))
		}
		if b.OpenElsewhere(1) {
			t.Error("open elsewhere although a still holds the lock")
		}
		b.Unpin(1)
		b.must(1, Exclusive)
		if !b.OpenElsewhere(1) {
			t.Error("a said that it is still open; b was not told")
		}
		if a.Held(1) != None {
			t.Error("a holds a lock that b has exclusive")
		}
	})
}

func TestSharedByManyAndWriterNotStarved(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		var readers []*client
		for range 3 {
			readers = append(readers, c.client(ClerkOptions{}))
		}
		w := c.client(ClerkOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		var stopped atomic.Int32
		for _, r := range readers {
			go func() {
				for ctx.Err() == nil {
					if r.Acquire(ctx, Request{5, Shared}) == nil {
						time.Sleep(7 * time.Millisecond)
						r.Unpin(5)
					}
				}
				stopped.Add(1)
			}()
		}
		time.Sleep(time.Second)
		start := time.Now()
		for range 10 {
			w.must(5, Exclusive)
			time.Sleep(3 * time.Millisecond)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("ten exclusive locks among readers took %v", took)
		}
		cancel()
		time.Sleep(time.Second)
		if stopped.Load() != 3 {
			t.Error("a reader hangs")
		}
	})
}

func TestBatchIsOneMessage(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a := c.client(ClerkOptions{})
		messages := 0
		a.link.set(func(k *link) {
			k.onUp = func(m *ClientMsg) bool {
				if len(m.Acquires) > 0 {
					messages++
				}
				return true
			}
		})
		if !a.lock(time.Second, Request{9, Shared}, Request{3, Exclusive}, Request{LockRename, Exclusive}, Request{9, Exclusive}) {
			t.Fatal("no batch")
		}
		if messages != 1 {
			t.Errorf("a batch of three locks went in %d messages", messages)
		}
		if a.Held(9) != Exclusive || a.Held(3) != Exclusive || a.Held(LockRename) != Exclusive {
			t.Error("the greater of two modes did not win")
		}
		a.Unpin(9, 3, LockRename)
	})
}

func TestUpgradeBothWays(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Shared)
		b.must(1, Shared)
		done := make(chan bool, 2)
		for _, k := range []*client{a, b} {
			go func() {
				ok := k.lock(time.Second, Request{1, Exclusive})
				if ok {
					k.Unpin(1)
				}
				done <- ok
			}()
		}
		if first, second := <-done, <-done; !first || !second {
			t.Fatal("two sharers that upgrade block each other")
		}
		// One that upgrades what it pins is told.
		a.must(1, Shared)
		b.must(1, Shared)
		if !a.lock(time.Second, Request{1, Shared}) {
			t.Fatal("no shared lock")
		}
		go func() {
			if !b.lock(15*time.Second, Request{1, Exclusive}) {
				t.Error("b never got the lock")
				return
			}
			b.Unpin(1)
		}()
		time.Sleep(10 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Acquire(ctx, Request{1, Exclusive}); !errors.Is(err, errors.KindDeadlock) {
			t.Errorf("upgrade under one's own pin: %v, want KindDeadlock", err)
		}
		a.Unpin(1)
		time.Sleep(time.Second)
	})
}

// TestFailover: what is held stays held, without a pause of more than 3s, and
// the new leader gives nobody what another claims.
func TestFailover(t *testing.T) {
	sim(t, 3, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		c.spareInodes(20000)
		for id := LockID(1); id <= 9000; id++ {
			if !a.lock(time.Second, Request{id, Mode(1 + id%2)}) {
				t.Fatal("no lock")
			}
			a.Unpin(id)
		}
		var epochs []blockstore.Epoch
		a.SetOnEpoch(func(e blockstore.Epoch) { epochs = append(epochs, e) })
		old := a.Epoch()
		c.down(c.nodes[0])
		died := time.Now()
		time.Sleep(time.Second)
		if !a.TryAcquire(Request{7, Exclusive}) {
			t.Error("a cannot use its lock without a leader")
		}
		c.elect(c.nodes[1])
		if !b.lock(2*time.Second, Request{10000, Exclusive}) {
			t.Fatalf("no lock 3s after the leader died")
		}
		if d := time.Since(died); d > 3*time.Second {
			t.Errorf("failover took %v", d)
		}
		b.Unpin(10000)
		if a.Epoch() <= old || len(epochs) != 2 || epochs[1] != a.Epoch() {
			t.Errorf("epochs told: %v, now %d, before %d", epochs, a.Epoch(), old)
		}
		if b.lock(100*time.Millisecond, Request{7, Exclusive}) {
			t.Fatal("b got the lock that a claimed and pins")
		}
		a.Unpin(7)
		b.must(7, Exclusive)
		b.must(8, Shared)
		if a.h.endings()+b.h.endings() > 0 {
			t.Error("a failover ended a session")
		}
		if got, begin := b.MinIndex(10000), c.state.EpochIndex(); got < begin {
			t.Errorf("after a failover MinIndex is %d, BeginEpoch's index is %d", got, begin)
		}
	})
}

// TestNewLeaderWaits: a writer that does not come back holds everything up
// until it is fenced, and only after a full TTL.
func TestNewLeaderWaits(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.link.set(func(k *link) { k.cut = true })
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		elected := time.Now()
		if !b.lock(15*time.Second, Request{1, Exclusive}) {
			t.Fatal("b never got the dead one's lock")
		}
		if d := time.Since(elected); d < 10*time.Second {
			t.Errorf("b got the lock after %v: the dead one's lease may live for 10s", d)
		}
		if a.LeaseLeft() > 0 {
			t.Error("a's lease lives while b holds its lock")
		}
		fence := uint64(0)
		for i, cmd := range c.log {
			if cmd.Kind == blockstore.CmdFenceWriter {
				fence = uint64(i + 1)
			}
		}
		if fence == 0 || b.MinIndex(1) < fence {
			t.Errorf("MinIndex %d, the fence stands at %d", b.MinIndex(1), fence)
		}
		b.Unpin(1)
		a.link.set(func(k *link) { k.cut = false })
		time.Sleep(5 * time.Second)
		if a.h.endings() != 1 {
			t.Errorf("a was told %d times that its session ended", a.h.endings())
		}
	})
}

// TestDeposedLeaderCannotRenew: a leader that is cut off from the others, but not
// from its client, must not keep the client's lease alive.
func TestDeposedLeaderCannotRenew(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.link.set(func(k *link) { k.only = c.nodes[0] })
		c.mu.Lock()
		c.nodes[0].alone = true
		c.mu.Unlock()
		c.elect(c.nodes[1])
		for range 30 {
			time.Sleep(500 * time.Millisecond)
			b.lock(time.Millisecond, Request{2, Shared}) // make it move over
		}
		if !b.lock(10*time.Second, Request{1, Exclusive}) {
			t.Fatal("b never got the lock")
		}
		if left := a.LeaseLeft(); left > 0 {
			t.Errorf("a's lease lives for %v by a deposed leader's word, while b holds its lock", left)
		}
		if _, err := c.write(a.Session(), a.Epoch(), 1); !errors.Is(err, errors.KindDeadWriter) {
			t.Errorf("a's write: %v, want KindDeadWriter", err)
		}
	})
}

// TestPausedClient: a client that sleeps beyond its lease looks at its own
// clock when it wakes, before anybody has told it.
func TestPausedClient(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		resume := make(chan struct{})
		a.link.set(func(k *link) { k.paused = resume; k.onUp = func(*ClientMsg) bool { return false } })
		start := time.Now()
		if !b.lock(20*time.Second, Request{1, Exclusive}) {
			t.Fatal("b never got the lock")
		}
		if a.LeaseLeft() > 0 {
			t.Errorf("a's lease still lives %v after it was paused", time.Since(start))
		}
		b.Unpin(1)
		a.link.set(func(k *link) { k.paused = nil; k.onUp = nil })
		close(resume)
		time.Sleep(5 * time.Second)
		if a.h.endings() != 1 || a.h.expiries() == 0 {
			t.Errorf("a: %d endings, %d expiries told", a.h.endings(), a.h.expiries())
		}
		if err := a.Acquire(t.Context(), Request{1, Shared}); !errors.Is(err, errors.KindSessionEnded) {
			t.Errorf("acquire after the end: %v", err)
		}
	})
}

// TestFenceBeforeFree: as long as the fence is not applied the locks stay.
func TestFenceBeforeFree(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		held := make(chan struct{})
		c.mu.Lock()
		c.hold[blockstore.CmdFenceWriter] = held
		c.mu.Unlock()
		a.link.set(func(k *link) { k.cut = true })
		if b.lock(20*time.Second, Request{1, Exclusive}) {
			t.Fatal("b got the lock although the fence stands in no log")
		}
		if _, err := c.write(a.Session(), a.Epoch(), 1); err != nil {
			t.Fatalf("a is not fenced, but: %v", err)
		}
		// Back in reach, but proposed for fencing: not renewed.
		a.link.set(func(k *link) { k.cut = false })
		time.Sleep(5 * time.Second)
		if a.LeaseLeft() > 0 {
			t.Error("a session proposed for fencing was renewed")
		}
		c.mu.Lock()
		delete(c.hold, blockstore.CmdFenceWriter)
		c.mu.Unlock()
		close(held)
		b.must(1, Exclusive)
		time.Sleep(time.Second)
		if a.h.endings() != 1 {
			t.Error("a does not know that it is over")
		}
	})
}

// TestBothOver: a fence alone does not free locks, the lease must be over, too.
func TestBothOver(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		time.Sleep(3 * time.Second)
		a.link.set(func(k *link) { k.cut = true }) // so that nobody tells it
		if _, err := c.nodes[0].Propose(t.Context(), blockstore.Command{Kind: blockstore.CmdFenceWriter, Writer: a.Session().Writer}); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			got := b.lock(500*time.Millisecond, Request{1, Exclusive})
			if got && a.LeaseLeft() > 0 {
				t.Fatalf("b holds a's lock, and a's lease lives for %v", a.LeaseLeft())
			}
			if got {
				return
			}
		}
		t.Fatal("b never got the lock")
	})
}

// TestRevokeUnanswered: it costs the session, not the one lock, and not before the lease is over.
func TestRevokeUnanswered(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.must(2, Exclusive)
		stuck := make(chan struct{})
		a.h.block = stuck
		start := time.Now()
		for !b.lock(time.Second, Request{1, Exclusive}) {
			if time.Since(start) > time.Minute {
				t.Fatal("b never got the lock")
			}
		}
		if a.LeaseLeft() > 0 {
			t.Error("a's lease lives while b holds its lock")
		}
		if took := time.Since(start); took < 30*time.Second {
			t.Errorf("the session was given up after %v, the revoke timeout is 30s", took)
		}
		b.must(2, Exclusive)
		close(stuck)
		time.Sleep(time.Second)
		if a.h.endings() != 1 {
			t.Error("a does not know that it is over")
		}
	})
}

// TestStreamBreakSettles: a grant that never arrived counts as released, a
// release that never arrived is told by the claims, index and open flag with it.
func TestStreamBreakSettles(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		lostGrant := false
		a.link.set(func(k *link) {
			k.onDown = func(m *ServerMsg) bool {
				if len(m.Grants) > 0 && !lostGrant {
					lostGrant = true
					return false
				}
				return true
			}
		})
		if a.lock(100*time.Millisecond, Request{1, Exclusive}) {
			t.Fatal("the grant was not lost")
		}
		c.breakStreams()
		b.must(1, Exclusive)
		if a.h.revokes() != 0 {
			t.Error("a was asked for what it never got")
		}

		want := c.bump()
		b.h.index = func(LockID) uint64 { return want }
		b.h.open[1] = true
		b.link.set(func(k *link) { k.onUp = func(m *ClientMsg) bool { return len(m.Releases) == 0 } })
		if a.lock(100*time.Millisecond, Request{1, Exclusive}) {
			t.Fatal("the release was not lost")
		}
		b.link.set(func(k *link) { k.onUp = nil })
		c.breakStreams()
		a.must(1, Exclusive)
		if a.MinIndex(1) < want || !a.OpenElsewhere(1) {
			t.Errorf("MinIndex %d, want %d; open elsewhere %v", a.MinIndex(1), want, a.OpenElsewhere(1))
		}
		if a.h.endings()+b.h.endings() > 0 {
			t.Error("a session ended")
		}
	})
}

func (c *fakeCluster) breakStreams() {
	c.mu.Lock()
	for _, n := range c.nodes {
		for p := range n.streams {
			p.cancel()
		}
	}
	c.mu.Unlock()
	time.Sleep(time.Second)
}

// TestOpenFlagsSurviveFailover: that an inode is open somewhere is told again.
func TestOpenFlagsSurviveFailover(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.h.open[1] = true
		b.must(1, Exclusive)
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		d := c.client(ClerkOptions{})
		d.must(1, Exclusive)
		if !d.OpenElsewhere(1) {
			t.Error("a still has it open, d was not told")
		}
	})
}

// TestGiveBack: a lock that is given back and got again brings what is true by then.
func TestGiveBack(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.h.open[1] = true
		b.must(1, Exclusive)
		again := func() bool {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := b.GiveBack(ctx, 1); err != nil {
				t.Fatal(err)
			}
			if b.Held(1) != None {
				t.Error("given back and held")
			}
			b.must(1, Exclusive)
			return b.OpenElsewhere(1)
		}
		if !again() {
			t.Error("a has it open")
		}
		a.link.set(func(k *link) { k.cut = true })
		time.Sleep(15 * time.Second)
		if again() {
			t.Error("open elsewhere, though who had it open is dead")
		}
		if !b.lock(time.Second, Request{1, Shared}) {
			t.Fatal("no lock")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.GiveBack(ctx, 1); !errors.Is(err, errors.KindTimeout) {
			t.Errorf("a lock in use was given back: %v", err)
		}
		b.Unpin(1)
		if err := b.GiveBack(t.Context(), 2); err != nil {
			t.Errorf("a lock that is not held: %v", err)
		}
	})
}

// TestOwnInodes: fresh inodes cost no message, are given up one by one, and stay
// given up through a failover.
func TestOwnInodes(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		r := c.take(a, 1000)
		messages := 0
		a.link.set(func(k *link) {
			k.onUp = func(m *ClientMsg) bool { messages += len(m.Acquires); return true }
		})
		first := LockID(r.First)
		for id := first; id < first+1000; id++ {
			if !a.TryAcquire(Request{id, Exclusive}) {
				t.Fatal("a fresh inode is not held")
			}
			a.Unpin(id)
		}
		if messages != 0 || len(a.table.locks) != 0 {
			t.Errorf("%d messages, %d entries for fresh inodes", messages, len(a.table.locks))
		}
		b.must(first+3, Exclusive)
		b.must(first+5, Shared)
		if a.Held(first+3) != None || a.Held(first+5) != Shared || a.Held(first+4) != Exclusive {
			t.Error("wrong exceptions")
		}
		// Taken, but not told to a's clerk yet.
		r2 := c.takeQuietly(a, 10)
		b.must(LockID(r2.First), Exclusive)
		a.OwnInodes(r2)
		if a.Held(LockID(r2.First)) != None || a.Held(LockID(r2.First+1)) != Exclusive {
			t.Error("what was given up before the range was known is held")
		}
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		b.must(first+7, Exclusive)
		a.must(first+3, Shared)
		if a.h.endings()+b.h.endings() > 0 {
			t.Error("a session ended")
		}
		b.must(first+8, Shared)
		c.breakStreams()
		a.must(first+8, Exclusive)
		b.must(first+100, Exclusive)
		if a.h.endings()+b.h.endings() > 0 {
			t.Error("a session ended")
		}
	})
}

// spareInodes has a writer take inodes and end: they are nobody's.
func (c *fakeCluster) spareInodes(n uint64) {
	k := c.client(ClerkOptions{})
	c.take(k, n)
	if err := k.Close(context.Background()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *fakeCluster) takeQuietly(k *client, n uint64) blockstore.InodeRange {
	c.mu.Lock()
	info, _ := c.state.Writer(k.Session().Writer)
	c.mu.Unlock()
	res, err := c.lead.Propose(context.Background(), blockstore.Command{Kind: blockstore.CmdTakeInodes, Writer: k.Session().Writer, Token: k.Session().Token, Op: info.NextOp, Count: n})
	if err != nil || res.Err != nil {
		c.t.Fatal(err, res.Err)
	}
	return res.Inodes
}

func (c *fakeCluster) take(k *client, n uint64) blockstore.InodeRange {
	r := c.takeQuietly(k, n)
	k.OwnInodes(r)
	return r
}

// TestClose: everything is given back at once, and the writer is gone.
func TestClose(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		for id := LockID(1); id < 15; id++ {
			a.must(id, Exclusive)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := a.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if a.h.revokes() != 14 || a.h.endings() != 0 || a.LeaseLeft() > 0 {
			t.Errorf("%d revokes, %d endings, lease %v", a.h.revokes(), a.h.endings(), a.LeaseLeft())
		}
		start := time.Now()
		b.must(1, Exclusive)
		if time.Since(start) > 100*time.Millisecond {
			t.Error("a closed session's locks were not free at once")
		}
		if c.state.WriterCount() != 1 {
			t.Error("the writer is still there")
		}
	})
}

// TestCutOffAndBack: past its lease, but not fenced, a client loses nothing.
func TestCutOffAndBack(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a := c.client(ClerkOptions{})
		a.must(1, Exclusive)
		c.down(c.nodes[0])
		time.Sleep(30 * time.Second) // no leader at all
		if a.LeaseLeft() > 0 || a.h.expiries() != 1 {
			t.Errorf("lease left %v, %d expiries told", a.LeaseLeft(), a.h.expiries())
		}
		c.elect(c.nodes[1])
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := a.WaitLease(ctx); err != nil {
			t.Fatal(err)
		}
		if a.Held(1) != Exclusive || a.h.endings() != 0 {
			t.Error("something was lost")
		}
	})
}

// TestLying: what only a lying client can say ends its session.
func TestLying(t *testing.T) {
	for name, lie := range map[string]func(c *fakeCluster, k *client){
		"index of the future": func(c *fakeCluster, k *client) {
			k.h.index = func(LockID) uint64 { return 1 << 60 }
			b := c.client(ClerkOptions{})
			b.lock(time.Second, Request{1, Exclusive})
		},
		"inode never given out": func(c *fakeCluster, k *client) { k.lock(time.Second, Request{1 << 40, Shared}) },
	} {
		t.Run(name, func(t *testing.T) {
			sim(t, 1, func(t *testing.T, c *fakeCluster) {
				k := c.client(ClerkOptions{})
				k.must(1, Exclusive)
				lie(c, k)
				time.Sleep(20 * time.Second)
				if k.h.endings() != 1 {
					t.Error("the liar was not ended")
				}
			})
		})
	}
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		k := c.client(ClerkOptions{})
		forged := &pipe{up: make(chan *ClientMsg, 10), down: make(chan *ServerMsg, 10), served: make(chan struct{})}
		forged.ctx, forged.cancel = context.WithCancel(t.Context())
		defer forged.cancel()
		forged.up <- &ClientMsg{Hello: &Hello{Writer: k.Session().Writer, Token: blockstore.Token{1}}}
		if err := c.nodes[0].server.Serve(t.Context(), serverEnd{forged}); !errors.Is(err, errors.KindWrongToken) {
			t.Errorf("a forged token: %v", err)
		}
		if k.LeaseLeft() <= 0 || !k.lock(time.Second, Request{1, Shared}) {
			t.Error("a forged hello harmed the session")
		}
		k.Unpin(1)
	})
}
