package lockserver

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// TestRevokeWaitsForPins: while pins are out nothing is revoked, new ones are held
// back, and while the holder works only pins up to what remains get through.
func TestRevokeWaitsForPins(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		if !a.lock(time.Second, Request{1, Exclusive}) {
			t.Fatal("no lock")
		}
		prepared, goOn := make(chan struct{}), make(chan struct{})
		a.h.prepare = func(LockID, Mode) { close(prepared); <-goOn }
		a.h.block = make(chan struct{})
		go func() { b.must(1, Shared) }()
		<-prepared
		if !a.lock(time.Millisecond, Request{1, Exclusive}) {
			t.Error("while the holder prepares, pins are to be given out")
		} else {
			a.Unpin(1)
		}
		close(goOn)
		time.Sleep(20 * time.Millisecond)
		if a.h.revokes() != 0 {
			t.Error("revoked under a pin")
		}
		if a.lock(time.Millisecond, Request{1, Shared}) || a.TryAcquire(Request{1, Shared}) {
			t.Error("a new pin got through while those there are drained")
		}
		a.Unpin(1)
		time.Sleep(20 * time.Millisecond)
		if a.h.revokes() != 1 {
			t.Fatal("not revoked although no pin is left")
		}
		if a.lock(time.Millisecond, Request{1, Exclusive}) {
			t.Error("an exclusive pin got through while the holder gives up")
		}
		if !a.lock(time.Millisecond, Request{1, Shared}) {
			t.Error("a shared pin was held back although Shared remains")
		} else {
			a.Unpin(1)
		}
		close(a.h.block)
		time.Sleep(time.Second)
	})
}

// TestMinHold: a lock just granted is kept for a while if it is in use when it is asked back, and given up at once if not.
func TestMinHold(t *testing.T) {
	const hold = 300 * time.Millisecond
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		for id, used := range map[LockID]bool{1: true, 2: false} {
			a, b := c.client(ClerkOptions{MinHold: hold}), c.client(ClerkOptions{})
			began := time.Now()
			if !a.lock(time.Second, Request{id, Exclusive}) {
				t.Fatal("no lock")
			}
			if !used {
				a.Unpin(id)
			}
			asked := make(chan time.Duration, 1)
			a.h.prepare = func(LockID, Mode) { asked <- time.Since(began) }
			go func() {
				if b.lock(2*time.Second, Request{id, Exclusive}) {
					b.Unpin(id)
				} else {
					t.Error("the other client got no lock")
				}
			}()
			if after := <-asked; used && after < hold || !used && after > hold/2 {
				t.Errorf("in use %v: asked back after %v", used, after)
			}
			if used {
				a.Unpin(id)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestLateGrantAndRevokeIgnored: duplicates of old messages change nothing at the client.
func TestLateGrantAndRevokeIgnored(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		var mu sync.Mutex // of what the link sees
		var grants []Grant
		var revokes []Revoke
		a.link.set(func(k *link) {
			k.onDown = func(m *ServerMsg) bool {
				mu.Lock()
				defer mu.Unlock()
				grants, revokes = append(grants, m.Grants...), append(revokes, m.Revokes...)
				return true
			}
		})
		a.must(1, Exclusive)
		b.must(1, Exclusive)
		time.Sleep(time.Second)
		deliver := func(m *ServerMsg) {
			a.mu.Lock()
			k := a.conn
			a.mu.Unlock()
			a.take(k, m)
			time.Sleep(100 * time.Millisecond)
		}
		mu.Lock()
		grant, revoke := grants[0], revokes[0]
		mu.Unlock()
		deliver(&ServerMsg{Epoch: a.Epoch(), Grants: []Grant{grant}})
		if a.Held(1) != None {
			t.Error("a late duplicate of a grant gave the lock twice")
		}
		b.must(2, Exclusive)
		a.must(1, Exclusive)
		deliver(&ServerMsg{Epoch: a.Epoch(), Revokes: []Revoke{revoke}})
		if a.Held(1) != Exclusive {
			t.Error("a late duplicate of a revoke was obeyed")
		}
		// What another epoch's leader says is dropped.
		left := a.LeaseLeft()
		time.Sleep(300 * time.Millisecond)
		a.mu.Lock()
		a.lease.sent[999] = a.o.Clock()
		number, held := a.newest, a.table.locks[1].number
		a.mu.Unlock()
		deliver(&ServerMsg{Epoch: a.Epoch() - 1, Renewed: 999, Grants: []Grant{{ID: 3, Number: number + 5, Mode: Exclusive}},
			Revokes: []Revoke{{ID: 1, Number: held}}})
		if a.Held(3) != None || a.Held(1) != Exclusive || a.LeaseLeft() > left {
			t.Error("a message of another epoch was obeyed")
		}
	})
}

// TestLateReleaseIgnored: a duplicate of an old release frees nothing at the server.
func TestLateReleaseIgnored(t *testing.T) {
	now := time.Unix(1, 0)
	tab := NewTable(TableOptions{}, 5, 10)
	for id := blockstore.WriterID(1); id <= 2; id++ {
		tab.Expect(now, id, time.Minute, false)
		if err := tab.Attach(now, id, uint64(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Claims(now, id, uint64(id), &Claims{Done: true}); err != nil {
			t.Fatal(err)
		}
	}
	grant := func() Grant {
		tab.Acquire(now, 1, 1, []Request{{1, Exclusive}})
		for _, o := range tab.Drain() {
			if o.Grant != nil {
				return *o.Grant
			}
		}
		t.Fatal("no grant")
		return Grant{}
	}
	first := Release{ID: 1, Epoch: 5, Number: grant().Number, Index: 20}
	tab.Release(now, 1, 1, []Release{first})
	second := grant()
	if second.MinIndex != 20 {
		t.Errorf("MinIndex %d, want 20", second.MinIndex)
	}
	held := func() bool { return len(tab.locks[1].holders) == 1 }
	tab.Release(now, 1, 1, []Release{first})
	if !held() {
		t.Error("a late duplicate of a release freed the lock")
	}
	tab.Release(now, 1, 1, []Release{{ID: 1, Epoch: 4, Number: second.Number}})
	if !held() {
		t.Error("a release of another epoch freed the lock")
	}
	tab.Release(now, 1, 9, []Release{{ID: 1, Epoch: 5, Number: second.Number}})
	tab.Release(now, 2, 2, []Release{{ID: 1, Epoch: 5, Number: second.Number}})
	if !held() {
		t.Error("a release on a dead stream, or by another session, freed the lock")
	}
	// The greatest index counts, not the last.
	tab.Release(now, 1, 1, []Release{{ID: 1, Epoch: 5, Number: second.Number, Index: 15}})
	if third := grant(); third.MinIndex != 20 {
		t.Errorf("MinIndex %d after a release with a lesser index, want 20", third.MinIndex)
	}
}

// TestForgottenLocks: one index stands in for what the bounded table forgot.
func TestForgottenLocks(t *testing.T) {
	now := time.Unix(1, 0)
	tab := NewTable(TableOptions{RememberMax: 4}, 5, 10)
	tab.Expect(now, 1, time.Minute, false)
	if err := tab.Attach(now, 1, 1); err != nil {
		t.Fatal(err)
	}
	tab.Claims(now, 1, 1, &Claims{Done: true})
	for id := LockID(1); id <= 100; id++ {
		tab.Acquire(now, 1, 1, []Request{{id, Shared}})
		tab.Release(now, 1, 1, []Release{{ID: id, Epoch: 5, Number: tab.number, Index: 1000 + uint64(id)}})
	}
	tab.Drain()
	if len(tab.locks) != 4 {
		t.Errorf("%d locks are remembered, the bound is 4", len(tab.locks))
	}
	tab.Acquire(now, 1, 1, []Request{{50, Shared}})
	if g := tab.Drain()[0].Grant; g == nil || g.MinIndex < 1050 {
		t.Errorf("a forgotten lock was granted with %+v", g)
	}
	if err := tab.Check(); err != nil {
		t.Error(err)
	}
}

// TestConflictingClaims: the later claimant is ended; what it claimed besides
// stays its own until it is fenced and its lease is over.
func TestConflictingClaims(t *testing.T) {
	now := time.Unix(1, 0)
	tab := NewTable(TableOptions{}, 5, 10)
	for id := blockstore.WriterID(1); id <= 3; id++ {
		tab.Expect(now, id, 10*time.Second, true)
		if err := tab.Attach(now, id, uint64(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tab.Claims(now, 1, 1, &Claims{Locks: []Claim{{ID: 1, Mode: Exclusive}}, Done: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Claims(now, 2, 2, &Claims{Locks: []Claim{{ID: 1, Mode: Shared}, {ID: 2, Mode: Exclusive}}, Done: true}); err == nil {
		t.Fatal("conflicting claims were accepted")
	}
	if _, err := tab.Claims(now, 3, 3, &Claims{Done: true}); err != nil {
		t.Fatal(err)
	}
	tab.Acquire(now, 3, 3, []Request{{2, Shared}})
	step := func(at time.Time) (granted, fence bool) {
		tab.Received(at, 1, 1)
		tab.Received(at, 3, 3)
		tab.Received(at, 2, 2)
		tab.Tick(at)
		if tab.Renew(at, 2, 2) {
			t.Error("the ended one was renewed")
		}
		for _, o := range tab.Drain() {
			granted = granted || o.Grant != nil
			fence = fence || o.Fence && o.Session == 2
		}
		return granted, fence
	}
	at, fenced := now, false
	for !fenced {
		at = at.Add(200 * time.Millisecond)
		granted := false
		if granted, fenced = step(at); granted {
			t.Fatal("the ended one's other lock was given away")
		}
	}
	if at.Sub(now) < 10*time.Second {
		t.Errorf("fenced after %v, its lease lives for 10s", at.Sub(now))
	}
	tab.Ended(at, 2, 77, false)
	if o := tab.Drain(); len(o) == 0 || o[len(o)-1].Grant == nil || o[len(o)-1].Grant.MinIndex < 77 {
		t.Errorf("after the fence: %+v", o)
	}
}

// TestEviction: the clerk gives idle locks back beyond its bound.
func TestEviction(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		c.spareInodes(1000)
		a := c.client(ClerkOptions{LocksMax: 50})
		for id := LockID(100); id < 600; id++ {
			a.must(id, Shared)
		}
		time.Sleep(time.Second)
		a.mu.Lock()
		n := a.table.held.Len()
		a.mu.Unlock()
		if n > 60 {
			t.Errorf("%d locks are held, the bound is 50", n)
		}
		if n := c.nodes[0].server.Stats().Locks; n > 600 {
			t.Errorf("the server has %d locks", n)
		}
	})
}

// TestManyClients: under contention every acquire ends, and no two exclusive
// holders meet.
func TestManyClients(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		var inside [4]atomic.Int32
		done := make(chan bool)
		for i := range 6 {
			k := c.client(ClerkOptions{})
			go func() {
				ok := true
				for n := range 40 {
					x, y := LockID((i+n)%4), LockID((i+3*n+1)%4)
					ok = ok && k.lock(20*time.Second, Request{1 + x, Exclusive}, Request{1 + y, Exclusive})
					if !ok {
						break
					}
					if inside[x].Add(1) != 1 || x != y && inside[y].Add(1) != 1 {
						t.Error("two exclusive holders")
					}
					time.Sleep(time.Millisecond)
					inside[x].Add(-1)
					if k.Unpin(1 + x); x != y {
						inside[y].Add(-1)
						k.Unpin(1 + y)
					}
				}
				done <- ok
			}()
		}
		time.Sleep(50 * time.Millisecond)
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		for range 6 {
			if !<-done {
				t.Error("an acquire did not end")
			}
		}
	})
}

// TestLeaseCountsFromSending: an answer that took long prolongs the lease by that much less.
func TestLeaseCountsFromSending(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a := c.client(ClerkOptions{})
		a.link.set(func(k *link) { k.cut = true })
		a.mu.Lock()
		k := a.conn
		a.lease.sent[999] = a.o.Clock()
		a.mu.Unlock()
		time.Sleep(1500 * time.Millisecond)
		a.take(k, &ServerMsg{Epoch: a.Epoch(), Renewed: 999})
		if left, want := a.LeaseLeft(), 10*time.Second-margin(10*time.Second)-1500*time.Millisecond; left != want {
			t.Errorf("the lease lives for %v, want %v", left, want)
		}
	})
}

// TestPausedLeaderGivesTimeBack: a leader that slept does not fence those
// whose keep-alives lie unread.
func TestPausedLeaderGivesTimeBack(t *testing.T) {
	now := time.Unix(1, 0)
	tab := NewTable(TableOptions{}, 5, 10)
	tab.Expect(now, 1, 10*time.Second, false)
	tab.Tick(now)
	now = now.Add(20 * time.Second)
	tab.Tick(now)
	if out := tab.Drain(); len(out) != 0 {
		t.Errorf("after a pause of its own the leader wants %+v", out)
	}
	for range 50 {
		now = now.Add(250 * time.Millisecond)
		tab.Tick(now)
	}
	if out := tab.Drain(); len(out) != 1 || !out[0].Fence {
		t.Errorf("a session that never came is not fenced: %+v", out)
	}
}

func TestFileLocks(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		set := func(k *client, owner, start, end uint64, typ FileLockType, wait bool) errors.Kind {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := k.FileLock(ctx, 7, FileLock{Owner: owner, Start: start, End: end, Type: typ, PID: uint32(owner)}, wait); err != nil {
				return errors.KindOf(err)
			}
			return 0
		}
		if k := set(a, 1, 0, 99, FileWrite, false); k != 0 {
			t.Fatal(k)
		}
		if k := set(b, 1, 50, 60, FileRead, false); k != errors.KindAgain {
			t.Errorf("a lock in the way: %v, want KindAgain", k)
		}
		if l, err := b.TestFileLock(short(), 7, FileLock{Owner: 1, Start: 98, End: 200, Type: FileRead}); err != nil || l.Type != FileWrite || l.End != 99 || l.PID != 1 {
			t.Errorf("test: %+v, %v", l, err)
		}
		if k := set(a, 1, 40, 69, FileUnlock, false); k != 0 {
			t.Fatal(k)
		}
		if k := set(b, 1, 50, 60, FileWrite, false); k != 0 {
			t.Errorf("a range let go is not free: %v", k)
		}
		// Both wait for the other: EDEADLK.
		go set(a, 1, 55, 55, FileWrite, true)
		time.Sleep(50 * time.Millisecond)
		if k := set(b, 1, 5, 5, FileWrite, true); k != errors.KindDeadlock {
			t.Errorf("a circle: %v, want KindDeadlock", k)
		}
		// Re-asserted after a failover.
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		if k := set(b, 2, 10, 10, FileRead, false); k != errors.KindAgain {
			t.Errorf("after a failover a's lock is not there: %v", k)
		}
		time.Sleep(3 * time.Second)
		// A cancelled waiter has nothing.
		ctx := short()
		if err := a.FileLock(ctx, 7, FileLock{Owner: 9, Start: 50, End: 50, Type: FileWrite}, true); !errors.Is(err, errors.KindTimeout) {
			t.Errorf("a cancelled wait: %v", err)
		}
		b.ReleaseFileLocks(7, 1, false)
		if l, err := b.TestFileLock(short(), 7, FileLock{Owner: 3, Start: 50, End: 60, Type: FileWrite}); err != nil || l.Type != FileUnlock {
			t.Errorf("after b let go: %+v, %v", l, err)
		}
		flock := func(k *client, owner uint64, typ FileLockType, wait bool) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return k.FileLock(ctx, 7, FileLock{Owner: owner, Type: typ, Flock: true}, wait)
		}
		if flock(a, 1, FileRead, false) != nil || flock(b, 1, FileRead, false) != nil {
			t.Error("two shared flocks")
		}
		res := make(chan error, 2)
		go func() { err := flock(a, 1, FileWrite, true); a.ReleaseFileLocks(7, 1, true); res <- err }()
		go func() { err := flock(b, 1, FileWrite, true); b.ReleaseFileLocks(7, 1, true); res <- err }()
		if e, f := <-res, <-res; e != nil || f != nil {
			t.Errorf("two that convert their flock: %v, %v", e, f)
		}
		// Lost with the session.
		set(a, 1, 1000, 1000, FileWrite, false)
		a.link.set(func(k *link) { k.cut = true })
		time.Sleep(15 * time.Second)
		if k := set(b, 1, 1000, 1000, FileWrite, false); k != 0 {
			t.Errorf("a dead session's file lock is still there: %v", k)
		}
	})
}

func BenchmarkPin(b *testing.B) {
	c, err := NewClerk(nil, ClerkOptions{})
	if err != nil {
		b.Fatal(err)
	}
	c.mu.Lock()
	for id := LockID(1); id <= 10000; id++ {
		l := c.entryLocked(id)
		l.mode, l.number = Exclusive, uint64(id)
	}
	c.mu.Unlock()
	c.OwnInodes(blockstore.InodeRange{First: 1 << 20, Count: 1 << 20})
	b.Run("try", func(b *testing.B) {
		for i := range b.N {
			id := LockID(1 + i%10000)
			if !c.TryAcquire(Request{id, Shared}) {
				b.Fatal("not held")
			}
			c.Unpin(id)
		}
	})
	b.Run("acquire2", func(b *testing.B) {
		var clerk Clerk = c
		for i := range b.N {
			id := LockID(1 + i%9999)
			if clerk.Acquire(b.Context(), Request{id + 1, Shared}, Request{id, Exclusive}) != nil {
				b.Fatal("not held")
			}
			clerk.Unpin(id, id+1)
		}
	})
	b.Run("own range", func(b *testing.B) {
		for i := range b.N {
			id := LockID(1<<20 + i%(1<<20))
			if !c.TryAcquire(Request{id, Exclusive}) {
				b.Fatal("not held")
			}
			c.Unpin(id)
		}
	})
	b.Run("lease", func(b *testing.B) {
		c.leaseEnd.Store(int64(c.o.Clock() + time.Hour))
		for range b.N {
			if c.LeaseLeft() <= 0 {
				b.Fatal("no lease")
			}
		}
	})
}

// TestReleasedWhileClaiming: what is given up after the claims were sent and before they are
// accepted is told then, with its index.
func TestReleasedWhileClaiming(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		a.must(1, Exclusive)
		block, resume := make(chan struct{}), make(chan struct{})
		want := c.bump()
		a.h.mu.Lock()
		a.h.block, a.h.index = block, func(LockID) uint64 { return want }
		a.h.mu.Unlock()
		got := make(chan bool, 1)
		go func() { got <- b.lock(15*time.Second, Request{1, Exclusive}) }()
		time.Sleep(100 * time.Millisecond)
		a.link.set(func(k *link) {
			k.onUp = func(m *ClientMsg) bool {
				if m.Claims != nil && m.Claims.Done {
					k.paused, k.onUp = resume, nil
				}
				return true
			}
		})
		c.breakStreams()
		close(block)
		time.Sleep(100 * time.Millisecond)
		a.link.set(func(k *link) { k.paused = nil })
		start := time.Now()
		close(resume)
		if !<-got || time.Since(start) > 3*time.Second {
			t.Fatalf("the release did not arrive (waited %v)", time.Since(start))
		}
		if b.MinIndex(1) < want {
			t.Errorf("MinIndex %d, want %d", b.MinIndex(1), want)
		}
		b.Unpin(1)
	})
}

// breakStream breaks one client's stream alone.
func (c *fakeCluster) breakStream(k *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		for p := range n.streams {
			if p.link == k.link {
				p.cancel()
			}
		}
	}
}

// TestRevokeBesideClaimed: a revoke that was lost with the stream is sent again with
// the answer to the claims, in one message; the client takes both.
func TestRevokeBesideClaimed(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		first := LockID(c.take(a, 10).First)
		beside := false
		a.link.set(func(k *link) {
			lost := false
			k.onDown = func(m *ServerMsg) bool {
				beside = beside || m.Claimed != nil && len(m.Revokes) > 0
				if len(m.Revokes) > 0 && !lost {
					lost = true
					return false
				}
				return true
			}
		})
		got := make(chan bool, 1)
		go func() { got <- b.lock(15*time.Second, Request{first, Exclusive}) }()
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		c.breakStream(a)
		if !<-got || time.Since(start) > 3*time.Second {
			t.Fatalf("the revoke did not arrive (waited %v)", time.Since(start))
		}
		a.link.set(func(*link) {
			if !beside {
				t.Error("the revoke did not come beside Claimed: this tests nothing")
			}
		})
		b.Unpin(first)
	})
}

// TestImplicitReleasedWhileClaiming: an inode held by its range is given up between the claims,
// which do not name it, and their answer: that is told after it, index and open flag with it.
func TestImplicitReleasedWhileClaiming(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		first := LockID(c.take(a, 10).First)
		block, resume := make(chan struct{}), make(chan struct{})
		want := c.bump()
		a.h.mu.Lock()
		a.h.block, a.h.index, a.h.open[first] = block, func(LockID) uint64 { return want }, true
		a.h.mu.Unlock()
		got := make(chan bool, 1)
		go func() { got <- b.lock(15*time.Second, Request{first, Exclusive}) }()
		time.Sleep(100 * time.Millisecond)
		a.link.set(func(k *link) {
			k.onUp = func(m *ClientMsg) bool {
				if m.Claims != nil && m.Claims.Done {
					k.paused, k.onUp = resume, nil
				}
				return true
			}
		})
		c.breakStream(a)
		time.Sleep(time.Second)
		close(block)
		time.Sleep(100 * time.Millisecond)
		a.link.set(func(k *link) { k.paused = nil })
		start := time.Now()
		close(resume)
		if !<-got || time.Since(start) > 3*time.Second {
			t.Fatalf("the release did not arrive (waited %v)", time.Since(start))
		}
		if b.MinIndex(first) < want || !b.OpenElsewhere(first) {
			t.Errorf("MinIndex %d, want %d; open elsewhere %v", b.MinIndex(first), want, b.OpenElsewhere(first))
		}
		b.Unpin(first)
	})
}
