package raftstore

import (
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
)

// TestVoteForAMemberNotHeardOf: a node that was away while another was replaced votes for the new one when it is back, though it has not heard
// of it. Otherwise the two, a majority, could not elect a leader once the third is gone: the new one alone has the newest entries.
func TestVoteForAMemberNotHeardOf(t *testing.T) { synctest.Test(t, testVoteForAMemberNotHeardOf) }

func testVoteForAMemberNotHeardOf(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	l := c.leader()
	var others []string
	for _, n := range c.running() {
		if n != l {
			others = append(others, n.id)
		}
	}
	away, old := others[0], others[1]
	c.net.isolate(addrOf(away), true)
	d := c.startWith("d", func(o *Options) { o.Bootstrap, o.Join = nil, []string{addrOf(l.id)} })
	c.eventually("d waits", func() bool { return d.raft.Load() != nil })
	if err := l.AddNonvoter(c.ctx(5*time.Second), "d", addrOf("d")); err != nil {
		t.Fatal(err)
	}
	c.eventually("promoted", func() bool { return l.Promote(c.ctx(5*time.Second), "d") == nil })
	if err := l.Remove(c.ctx(5*time.Second), blockstore.NodeID(old)); err != nil {
		t.Fatal(err)
	}
	c.eventually("d has heard of it", func() bool { return d.voterCount() == 3 })
	c.net.isolate(addrOf(l.id), true)
	c.net.isolate(addrOf(old), true)
	c.net.isolate(addrOf(away), false)
	if n := c.leader(); n.id != "d" {
		t.Errorf("%s leads", n.id)
	}
	w.write(7, 1, 1, 'B', 1)
	for _, id := range []string{l.id, old} {
		c.net.isolate(addrOf(id), false)
	}
}
