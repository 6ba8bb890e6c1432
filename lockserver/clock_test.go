package lockserver

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
)

// jumpClock is a CLOCK_BOOTTIME that jumps: a machine that was suspended.
type jumpClock struct {
	base   func() time.Duration
	jumped atomic.Int64
}

func newJumpClock() *jumpClock { return &jumpClock{base: simClock()} }

func (j *jumpClock) now() time.Duration   { return j.base() + time.Duration(j.jumped.Load()) }
func (j *jumpClock) jump(d time.Duration) { j.jumped.Add(int64(d)) }

// TestSuspendedOvernight suspends everything, the leader too: when the machine wakes no timer has run, and only CLOCK_BOOTTIME
// tells. The lease is over at once; an answer from before does not bring it back, one from after does, and nothing is lost.
func TestSuspendedOvernight(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		clock := newJumpClock()
		a := c.client(ClerkOptions{Clock: clock.now})
		a.must(1, Exclusive)
		asked, resume := make(chan struct{}), make(chan struct{})
		a.link.set(func(k *link) { // the next keep-alive is answered, and the answer is on its way
			k.onUp = func(m *ClientMsg) bool {
				if m.KeepAlive == 0 || k.paused != nil {
					return m.KeepAlive == 0
				}
				k.paused = resume
				close(asked)
				return true
			}
		})
		<-asked
		time.Sleep(100 * time.Millisecond)
		if a.LeaseLeft() <= 0 {
			t.Fatal("no lease to lose")
		}
		clock.jump(9 * time.Hour)
		if left := a.LeaseLeft(); left > 0 {
			t.Errorf("the lease lives for %v after a night", left)
		}
		time.Sleep(time.Second)
		if a.h.expiries() != 1 {
			t.Error("the file server was not told that the lease is over: no timer has run so long")
		}
		a.link.set(func(k *link) { k.paused, k.onUp = nil, func(m *ClientMsg) bool { return m.KeepAlive == 0 } })
		close(resume)
		for range 20 { // the late answer arrives, and no newer one
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
			if left := a.LeaseLeft(); left > 0 {
				t.Fatalf("an answer to what was asked before the night prolonged the lease to %v", left)
			}
		}
		if a.h.expiries() == 0 {
			t.Error("the file server was not told that the lease is over")
		}
		a.link.set(func(k *link) { k.onUp = nil })
		time.Sleep(3 * time.Second)
		if a.LeaseLeft() <= 0 || a.h.endings() != 0 || a.Held(1) != Exclusive {
			t.Errorf("after the night: lease left %v, %d endings, lock 1 held in mode %d; nobody else ran meanwhile", a.LeaseLeft(), a.h.endings(), a.Held(1))
		}
	})
}

// TestSuspendedClient suspends a client alone: others go on after its lease; when it wakes, its clock tells before anybody else could.
func TestSuspendedClient(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		// Its clock is driven by hand, because all goroutines of the simulation share one time.
		var clock atomic.Int64
		clock.Store(int64(time.Hour))
		a := c.client(ClerkOptions{Clock: func() time.Duration { return time.Duration(clock.Load()) }})
		b := c.client(ClerkOptions{})
		a.must(1, Exclusive)
		a.link.set(func(k *link) { k.cut = true })
		start := time.Now()
		if !b.lock(20*time.Second, Request{1, Exclusive}) {
			t.Fatal("b never got what the suspended one held")
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("b waited %v for a lease of 10s", took)
		}
		if a.LeaseLeft() <= 0 {
			t.Fatal("the clock that stands still lets the lease run out: this shows nothing")
		}
		clock.Add(int64(time.Since(start))) // it wakes
		if left := a.LeaseLeft(); left > 0 {
			t.Errorf("it wakes with a lease of %v, and b holds its lock", left)
		}
		b.Unpin(1)
		a.link.set(func(k *link) { k.cut = false })
		time.Sleep(5 * time.Second)
		if a.h.endings() != 1 {
			t.Errorf("it was told %d times that its session is over", a.h.endings())
		}
	})
}

// TestShortJump: a jump within the lease shortens it by as much, and costs nothing.
func TestShortJump(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		clock := newJumpClock()
		a := c.client(ClerkOptions{Clock: clock.now})
		a.must(1, Exclusive)
		for range 5 {
			before := a.LeaseLeft()
			clock.jump(4 * time.Second)
			if left := a.LeaseLeft(); left != before-4*time.Second {
				t.Errorf("%v left of %v after a jump of 4s", left, before)
			}
			time.Sleep(3 * time.Second)
		}
		if a.h.expiries()+a.h.endings() != 0 || a.Held(1) != Exclusive {
			t.Errorf("%d expiries, %d endings after jumps within the lease", a.h.expiries(), a.h.endings())
		}
	})
}

// TestPausedLeaderGivesRevokesTimeBack: a leader that slept does not end those whose answers to its revokes lie unread.
func TestPausedLeaderGivesRevokesTimeBack(t *testing.T) {
	now := time.Unix(1, 0)
	tab := NewTable(TableOptions{}, 5, 10)
	grant, asked := Grant{}, false
	for s := range uint64(2) {
		tab.Expect(now, 1+blockstore.WriterID(s), time.Hour, false)
		if err := tab.Attach(now, 1+blockstore.WriterID(s), 1+s); err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Claims(now, 1+blockstore.WriterID(s), 1+s, &Claims{Done: true}); err != nil {
			t.Fatal(err)
		}
		tab.Acquire(now, 1+blockstore.WriterID(s), 1+s, []Request{{1, Exclusive}})
		for _, o := range tab.Drain() {
			if o.Grant != nil {
				grant = *o.Grant
			}
			asked = asked || o.Revoke != nil
		}
	}
	tick := func(d time.Duration) []Output {
		now = now.Add(d)
		tab.Tick(now)
		return tab.Drain()
	}
	tick(0)
	for _, o := range tick(250 * time.Millisecond) {
		asked = asked || o.Revoke != nil
	}
	if !asked {
		t.Fatal("no revoke")
	}
	if out := tick(time.Minute); len(out) != 0 {
		t.Errorf("after a pause of its own the leader wants %+v", out)
	}
	tab.Release(now, 1, 1, []Release{{ID: 1, Epoch: 5, Number: grant.Number}})
	if out := tab.Drain(); len(out) != 1 || out[0].Grant == nil {
		t.Errorf("the release that lay unread brought %+v", out)
	}
	// One that stays silent is ended still.
	tab.Acquire(now, 1, 1, []Request{{1, Exclusive}})
	ended := false
	for range 200 {
		for _, o := range tick(250 * time.Millisecond) {
			ended = ended || o.Close != nil && o.Session == 2
		}
	}
	if !ended {
		t.Error("a session that does not answer a revoke is not ended")
	}
}
