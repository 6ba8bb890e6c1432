package lockserver

import (
	"context"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// TestEndDead: what a dead process held is free at once for the next, and not
// before the dead one's writer is closed in the log.
func TestEndDead(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		dead, next := c.client(ClerkOptions{}), c.client(ClerkOptions{})
		dead.must(7, Exclusive)
		dead.link.set(func(k *link) { k.cut = true }) // killed: it says nothing more
		if next.lock(time.Second, Request{7, Exclusive}) {
			t.Fatal("the lock of a session that may live was given away")
		}
		newest, err := c.write(dead.Session(), dead.Epoch(), 1) // its last record was on its way
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := EndDead(context.Background(), &link{c: c}, dead.Session()); err != nil {
			t.Fatal(err)
		}
		if !next.lock(time.Second, Request{7, Exclusive}) {
			t.Fatal("the lock of a session that its owner ended is not free")
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if got := next.MinIndex(7); got <= newest {
			t.Errorf("the next holder may read at index %d, the dead one's last record stands at %d and its end behind it", got, newest)
		}
		if _, err := c.write(dead.Session(), dead.Epoch(), 2); !errors.Is(err, errors.KindDeadWriter) {
			t.Errorf("a record of the ended session: %v, want a dead writer", err)
		}
		if err := EndDead(context.Background(), &link{c: c}, dead.Session()); err != nil {
			t.Errorf("ending it once more: %v", err)
		}
	})
}

// TestEndDeadAfterFailover: a new leader does not wait for a session that its owner ends.
func TestEndDeadAfterFailover(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		dead := c.client(ClerkOptions{})
		dead.must(7, Exclusive)
		dead.link.set(func(k *link) { k.cut = true })
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		start := time.Now()
		if err := EndDead(context.Background(), &link{c: c}, dead.Session()); err != nil {
			t.Fatal(err)
		}
		next := c.client(ClerkOptions{})
		next.must(7, Exclusive)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if next.MinIndex(7) == 0 {
			t.Error("the next holder may read at any index")
		}
	})
}

// TestEndDeadNeedsTheToken: nobody ends a session without its secret.
func TestEndDeadNeedsTheToken(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a := c.client(ClerkOptions{})
		a.must(7, Exclusive)
		forged := a.Session()
		forged.Token = blockstore.Token{1}
		if err := EndDead(context.Background(), &link{c: c}, forged); err != nil {
			t.Fatal(err) // the answer, wrong token, is final: there is nothing to end for who lacks the secret
		}
		if a.LeaseLeft() <= 0 || a.Held(7) != Exclusive {
			t.Error("a forged end took the session's lock")
		}
		if _, err := c.write(a.Session(), a.Epoch(), 1); err != nil {
			t.Errorf("the session cannot write any more: %v", err)
		}
	})
}
