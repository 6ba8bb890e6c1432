package lockserver

import (
	"context"
	"testing"
	"time"
)

// busy takes and lets go a lock again and again, with pauses between, until ctx ends; it returns how often and the longest wait.
func busy(ctx context.Context, k *client, id LockID, pause time.Duration) (n int, longest time.Duration) {
	for ctx.Err() == nil {
		start := time.Now()
		if k.Acquire(ctx, Request{id, Exclusive}) != nil {
			break
		}
		longest = max(longest, time.Since(start))
		k.Unpin(id)
		n++
		time.Sleep(pause)
	}
	return n, longest
}

// A lock that several sessions use all the time changes hands seldom, none waits long, and each gets its share.
func TestLingerWhileInUse(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		const sessions = 4
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		type figures struct {
			n, revokes int
			longest    time.Duration
		}
		results := make(chan figures, sessions)
		for range sessions {
			k := c.client(ClerkOptions{})
			go func() {
				n, longest := busy(ctx, k, 1, 200*time.Microsecond)
				results <- figures{n, k.h.revokes(), longest}
			}()
		}
		var all []figures
		for range sessions {
			all = append(all, <-results)
		}
		least, most := all[0].n, all[0].n
		for _, f := range all {
			least, most = min(least, f.n), max(most, f.n)
			if f.n < 10*f.revokes {
				t.Errorf("%d uses took %d hand-overs: a lock in use is not kept", f.n, f.revokes)
			}
			if limit := sessions * 20 * time.Millisecond; f.longest > limit {
				t.Errorf("a session waited %v for a lock, want at most %v", f.longest, limit)
			}
		}
		if least*2 < most {
			t.Errorf("the sessions used the lock between %d and %d times: not fair", least, most)
		}
	})
}

// A lock that is passed to and fro, one use each time, is not kept.
func TestLingerLearns(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		const rounds = 200
		kept := 0
		for range rounds {
			for _, k := range []*client{a, b} {
				start := time.Now()
				k.must(1, Exclusive)
				if time.Since(start) >= lingerStep {
					kept++
				}
			}
		}
		if kept > 2*rounds/10 {
			t.Errorf("of %d hand-overs %d waited for a use that never came", 2*rounds, kept)
		}
	})
}

// A session that wants more than it holds gives up what it holds at once, if it wants that already when it is asked.
func TestLingerNotForOneself(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		const rounds = 12
		late := 0
		for id := range LockID(rounds) { // each with no habits yet
			a.must(1+id, Shared)
			b.must(1+id, Shared)
			done := make(chan time.Duration, 2)
			for _, k := range []*client{a, b} {
				go func() {
					start := time.Now()
					k.must(1+id, Exclusive)
					done <- time.Since(start)
				}()
			}
			if <-done >= lingerStep {
				late++
			}
			<-done
		}
		if late > rounds/2 {
			t.Errorf("of %d pairs of upgrades the first was kept waiting in %d", rounds, late)
		}
	})
}
