package raftstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
)

// Nodes are stopped, started, cut off and checkpointed at random while records are written; in the end every replica
// holds and counts what was acknowledged, and nothing twice.
func soak(t *testing.T, kind LogKind, seed uint64, d time.Duration) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.kind = kind
	c.limit.TrailingBytes = 1 << 20
	c.startAll()
	w := c.writer('x')
	rng := rand.New(rand.NewPCG(seed, 1))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rng.IntN(150)) * time.Millisecond):
			}
			id := string(rune('a' + rng.IntN(3)))
			switch rng.IntN(4) {
			case 0:
				if n := c.node(id); n != nil {
					n.Checkpoint(context.Background())
				}
			case 1, 2:
				c.stop(id)
				time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
				c.start(id)
			case 3:
				c.net.isolate(addrOf(id), true)
				time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
				c.net.isolate(addrOf(id), false)
			}
		}
	}()
	tags := map[uint64]byte{}
	for begin := time.Now(); time.Since(begin) < d; {
		block, tag := rng2(w.seq, 300), byte(w.seq)
		fresh := int64(0)
		if _, ok := tags[block]; !ok {
			fresh = 1
		}
		w.write(7, block, 1, tag, fresh)
		tags[block] = tag
	}
	close(stop)
	wg.Wait()
	c.leader()
	c.caughtUp(w.last)
	for _, n := range c.running() {
		for block, tag := range tags {
			n.check(t, w.last, 7, block, 1, tag)
		}
		n.View(func(s *blockstore.State, _ uint64) {
			if s.Used() != uint64(len(tags)) {
				t.Errorf("%s counts %d used blocks, want %d", n.id, s.Used(), len(tags))
			}
		})
		if r := n.Status().Repairs; r.Found != 0 {
			t.Errorf("%s found damage: %+v", n.id, r)
		}
		select {
		case err := <-n.fatal:
			t.Errorf("%s stopped: %v", n.id, err)
		default:
		}
	}
	sameStates(t, c, w.last)
	t.Logf("%d records", w.seq)
}

func rng2(x, n uint64) uint64 { return (x * 0x9e3779b97f4a7c15 >> 33) % n }

func TestSoakSeglog(t *testing.T) { soak(t, LogSeg, 1, 3*time.Second) }
func TestSoakBolt(t *testing.T)   { soak(t, LogBolt, 2, 2*time.Second) }

// The default timing, in virtual time: a dead leader is replaced within 3 s, and an idle group does nearly nothing.
func TestDefaultTimingInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		c.kind = LogBolt
		c.limit = Limits{ScrubPause: -1}
		defer c.closeAll()
		c.startAll()
		w := c.writer('x')
		w.write(7, 0, 1, 'A', 1)
		for range 5 {
			old := c.leader()
			time.Sleep(time.Duration(rng2(w.seq, 1000)) * time.Millisecond)
			c.net.isolate(addrOf(old.id), true)
			cut := time.Now()
			c.leader()
			if took := time.Since(cut); took > 3*time.Second {
				t.Errorf("a new leader after %v", took)
			}
			w.write(7, 0, 1, 'B', 0)
			c.net.isolate(addrOf(old.id), false)
		}
		l := c.leader()
		time.Sleep(time.Minute)
		if c.leader() != l {
			t.Error("the leader changed in an idle group")
		}
		before := l.raft.Load().LastIndex()
		time.Sleep(10 * time.Minute)
		if grown := l.raft.Load().LastIndex() - before; grown > 2 {
			t.Errorf("%d entries in 10 idle minutes", grown)
		}
	})
}
