package blockrpc

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
)

// spoilReleased overwrites records as soon as they are released, as one does who uses their memory for others; it returns how many were.
func spoilReleased(t *testing.T, c *Client) *atomic.Int64 {
	var n atomic.Int64
	var mu sync.Mutex
	seen := map[*byte]bool{}
	c.OnRelease(func(record []byte) {
		mu.Lock()
		defer mu.Unlock()
		if seen[&record[0]] {
			t.Error("a record is released twice")
		}
		seen[&record[0]] = true
		for i := range record {
			record[i] = 0xff
		}
		n.Add(1)
	})
	return &n
}

func TestWritesInOrder(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		released := spoilReleased(t, c)
		defer func() {
			synctest.Wait() // a record is released after it is told to be done
			if n := released.Load(); n != 500 {
				t.Errorf("%d records of 500 are released", n)
			}
		}()
		var a acks
		for i := uint64(1); i <= 500; i++ {
			a.submit(c, i)
		}
		a.wg.Wait()
		a.check(t, g, 500)
		if c.LastIndex() != a.index[499] {
			t.Fatalf("last index %d, acknowledged %d", c.LastIndex(), a.index[499])
		}
	})
}

// TestLostAcknowledgementsAndLeaderChanges: answers get lost and leaders change
// in the midst of the pipeline; each record is applied once, in order.
func TestLostAcknowledgementsAndLeaderChanges(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			g, ses := newGroup(t, 3)
			defer g.stop()
			rnd := rand.New(rand.NewPCG(seed, 1))
			g.writeDelay = time.Millisecond
			var n atomic.Int64
			g.loseAnswer = func() bool { return n.Add(1)%23 == 22 }
			c, end := g.client(ses, 1, ClientOptions{})
			defer end()
			released := spoilReleased(t, c)
			var a acks
			next := uint64(0)
			for round := range 6 {
				for range 50 {
					next++
					a.submit(c, next)
				}
				time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
				e := g.lead((round+1)%3, ses)
				if rnd.IntN(2) == 0 { // the file server hears of it late
					time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				}
				c.SetEpoch(e)
			}
			a.wg.Wait()
			a.check(t, g, next)
			if n := released.Load(); n >= int64(next) { // how many is for the scheduler to say; TestWritesInOrder sees that some are
				t.Errorf("%d records of %d are released, though some were sent again", n, next)
			}
		})
	}
}

func TestStaleEpochWaitsForSetEpoch(t *testing.T) {
	withClient(t, 1, 1, func(t *testing.T, g *group, c *Client) {
		e := g.lead(0, c.session)
		var a acks
		a.submit(c, 1)
		a.submit(c, 2)
		time.Sleep(10 * time.Second)
		if a.count() != 0 {
			t.Fatal("a record of a stale epoch was acknowledged")
		}
		if n := g.nodes[0].proposals(); n > 60 {
			t.Fatalf("%d proposals in 10 s of waiting for an epoch", n)
		}
		start := time.Now()
		c.SetEpoch(e)
		a.wg.Wait()
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Fatalf("it took %v after the epoch was told", d)
		}
		a.check(t, g, 2)
	})
}

func TestNoEpochYet(t *testing.T) {
	withClient(t, 1, 0, func(t *testing.T, g *group, c *Client) {
		var a acks
		a.submit(c, 1)
		time.Sleep(time.Minute)
		if g.nodes[0].proposals() != 0 {
			t.Fatal("proposed without an epoch")
		}
		c.SetEpoch(1)
		a.wg.Wait()
		a.check(t, g, 1)
	})
}

func TestFencedSessionFailsAll(t *testing.T) {
	withClient(t, 1, 1, func(t *testing.T, g *group, c *Client) {
		var a acks
		a.submit(c, 1)
		a.wg.Wait()
		g.apply(blockstore.Command{Kind: blockstore.CmdFenceWriter, Writer: c.session.Writer})
		for i := uint64(2); i < 10; i++ {
			a.submit(c, i)
		}
		a.wg.Wait()
		a.submit(c, 10)
		a.wg.Wait()
		for i, err := range a.errs {
			if (i == 0) != (err == nil) || (i > 0 && !errors.Is(err, errors.KindDeadWriter)) || a.order[i] != uint64(i+1) {
				t.Fatalf("record %d: %v", a.order[i], err)
			}
		}
		if len(g.order) != 1 {
			t.Fatalf("%d records applied", len(g.order))
		}
		if _, err := c.TakeInodes(t.Context(), 5); !errors.Is(err, errors.KindDeadWriter) {
			t.Fatalf("inodes for a dead writer: %v", err)
		}
	})
}

func TestWrongTokenIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, 1)
		defer g.stop()
		ses.Token[0] ^= 1
		c, end := g.client(ses, 1, ClientOptions{})
		defer end()
		var a acks
		a.submit(c, 1)
		a.wg.Wait()
		if !errors.Is(a.errs[0], errors.KindWrongToken) {
			t.Fatalf("%v", a.errs[0])
		}
	})
}

// TestSilentLeader: the leader stops answering (and its connection stays up), another leads.
func TestSilentLeader(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		var a acks
		a.submit(c, 1)
		a.wg.Wait()
		g.nodes[0].set(func(r *fakeReplica) { r.hang = make(chan struct{}) })
		a.submit(c, 2)
		time.Sleep(100 * time.Millisecond)
		e := g.lead(1, c.session)
		g.nodes[0].set(func(r *fakeReplica) { r.thinks = true })
		start := time.Now()
		// The epoch is told only later, as by a clerk that reaches the new leader itself.
		time.AfterFunc(time.Second, func() { c.SetEpoch(e) })
		a.wg.Wait()
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("it took %v", d)
		}
		a.check(t, g, 2)
	})
}

// TestSilentLeaderIsLeft: the epoch was told before; the client itself must
// notice that the leader is silent and another leads.
func TestSilentLeaderIsLeft(t *testing.T) {
	withClient(t, 3, 2, func(t *testing.T, g *group, c *Client) {
		g.nodes[0].set(func(r *fakeReplica) { r.hang = make(chan struct{}) })
		var a acks
		a.submit(c, 1)
		time.Sleep(100 * time.Millisecond)
		g.lead(1, c.session)
		g.nodes[0].set(func(r *fakeReplica) { r.thinks = true })
		start := time.Now()
		a.wg.Wait()
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("it took %v", d)
		}
		a.check(t, g, 1)
	})
}

func TestLostQuorumKeepsRecords(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		var a acks
		for _, r := range g.nodes {
			r.set(func(r *fakeReplica) { r.leader, r.thinks = false, false })
		}
		a.submit(c, 1)
		time.Sleep(10 * time.Minute)
		if a.count() != 0 {
			t.Fatal("answered without a leader")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := c.Reserve(ctx, 1); !errors.Is(err, errors.KindUnavailable) {
			t.Fatalf("reserve without a leader: %v", err)
		}
		c.SetEpoch(g.lead(2, c.session))
		a.wg.Wait()
		a.check(t, g, 1)
	})
}

func TestCloseFailsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, 1)
		defer g.stop()
		g.writeDelay = time.Hour
		c, end := g.client(ses, 1, ClientOptions{})
		var a acks
		a.submit(c, 1)
		a.submit(c, 2)
		time.Sleep(time.Second)
		end()
		a.submit(c, 3)
		a.wg.Wait()
		for _, err := range a.errs {
			if !errors.Is(err, errors.KindUnavailable) {
				t.Fatalf("%v", err)
			}
		}
		if len(a.errs) != 3 {
			t.Fatal(len(a.errs))
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestGarbageNeverReachesTheLog sends what no client sends.
func TestGarbageNeverReachesTheLog(t *testing.T) {
	withClient(t, 1, 1, func(t *testing.T, g *group, c *Client) {
		cc, _, err := c.cluster.Leader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := g.nodes[0].proposals()
		bad := record(1, 0)
		bad[len(bad)-1] ^= 1
		tok := c.session.Token[:]
		for name, m := range map[string]*blockpb.WriteRequest{
			"no token":   {Writer: 1, Epoch: 1, Seq: 1, Record: record(1, 0)},
			"no writer":  {Token: tok, Epoch: 1, Seq: 1, Record: record(1, 0)},
			"no number":  {Writer: 1, Token: tok, Epoch: 1, Record: record(1, 0)},
			"no record":  {Writer: 1, Token: tok, Epoch: 1, Seq: 1},
			"bad record": {Writer: 1, Token: tok, Epoch: 1, Seq: 1, Record: bad},
			"too large":  {Writer: 1, Token: tok, Epoch: 1, Seq: 1, Record: make([]byte, 1<<20)},
		} {
			st, err := blockpb.NewBlockStoreClient(cc).Write(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Send(m); err != nil {
				t.Fatal(err)
			}
			if _, err = st.Recv(); !errors.Is(err, errors.KindInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		api := blockpb.NewBlockStoreClient(cc)
		for name, m := range map[string]*blockpb.CommandRequest{
			"fence":    {Kind: blockpb.CommandRequest_Kind(blockstore.CmdSetSetting), Writer: 1, Token: tok, Op: 1},
			"none":     {Writer: 1, Token: tok, Op: 1},
			"no op":    {Kind: blockpb.CommandRequest_RESERVE, Writer: 1, Token: tok},
			"no token": {Kind: blockpb.CommandRequest_RESERVE, Writer: 1, Op: 1},
		} {
			if _, err := api.Command(t.Context(), m); !errors.Is(err, errors.KindInvalid) {
				t.Errorf("command %s: %v", name, err)
			}
		}
		if g.nodes[0].proposals() != before {
			t.Fatal("garbage was proposed")
		}
	})
}

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, 3)
		defer g.stop()
		var n atomic.Int64
		g.loseAnswer = func() bool { return n.Add(1)%2 == 1 } // every answer is lost once
		c, end := g.client(ses, 1, ClientOptions{})
		defer end()
		ctx := t.Context()
		r1, err1 := c.TakeInodes(ctx, 100)
		g.lead(1, ses)
		r2, err2 := c.TakeInodes(ctx, 100)
		if err1 != nil || err2 != nil || r1.Count != 100 || r2.First != r1.First+100 {
			t.Fatalf("%v %v, %v %v: not exactly once", r1, err1, r2, err2)
		}
		if err := c.Reserve(ctx, 50); err != nil {
			t.Fatal(err)
		}
		if err := c.Unreserve(ctx, 20); err != nil {
			t.Fatal(err)
		}
		if sp, err := c.Space(ctx); err != nil || sp.ReservedBlocks != 30 {
			t.Fatalf("%+v %v", sp, err)
		}
		if list, err := c.Retired(ctx); err != nil || len(list) != 0 {
			t.Fatalf("%v %v", list, err)
		}
		if err := c.ForgetRetired(ctx, 77); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOutOfTurnAcknowledgement: what a faulty server acknowledges does no harm.
func TestOutOfTurnAcknowledgement(t *testing.T) {
	withClient(t, 1, 1, func(t *testing.T, g *group, c *Client) {
		if _, ok := c.w.acked(1, 5); ok {
			t.Fatal("a record that was never sent was acknowledged")
		}
		var a acks
		a.submit(c, 1)
		a.wg.Wait()
		if _, ok := c.w.acked(1, 5); ok {
			t.Fatal("a record was acknowledged twice")
		}
		g.nodes[0].set(func(r *fakeReplica) { r.hang = make(chan struct{}) })
		a.submit(c, 2)
		a.submit(c, 3)
		time.Sleep(100 * time.Millisecond)
		if _, ok := c.w.acked(3, 5); ok {
			t.Fatal("a record was acknowledged before the one ahead of it")
		}
		g.nodes[0].set(func(r *fakeReplica) { close(r.hang); r.hang = nil })
		a.wg.Wait()
		a.check(t, g, 3)
	})
}
