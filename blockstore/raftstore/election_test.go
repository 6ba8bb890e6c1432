package raftstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestElectionIsSoon: a dead leader has a successor one and a half heartbeat timeouts after its last word (rules 1 and 2 of elections). The bound has
// room for the time by which followers hear from a leader apart.
func TestElectionIsSoon(t *testing.T) {
	inVirtualTime(t, "default limits", func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		c.limit = Limits{ScrubPause: -1}
		c.startAll()
		w := c.writer('x')
		for i := range 20 {
			w.write(7, 0, 1, 'A'+byte(i), 0)
			c.caughtUp(w.last)
			old := c.leader()
			c.net.isolate(addrOf(old.id), true)
			cut := time.Now()
			c.leader()
			if took := time.Since(cut); took > 1500*time.Millisecond {
				t.Errorf("a new leader after %v", took)
			}
			c.net.isolate(addrOf(old.id), false)
			c.eventually("it has heard of it", func() bool { return !old.Leadership().Self })
		}
	})
}

// question is one of a candidate's before an election, in the next term, with a log as long as that of n.
func question(n *testNode) *raft.RequestPreVoteRequest {
	r := n.raft.Load()
	_, term, _ := lastEntry(n.stores.log)
	return &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: []byte(n.transport.LocalAddr())},
		Term: r.CurrentTerm() + 1, LastLogIndex: r.LastIndex(), LastLogTerm: term}
}

// asks puts a question of from's to to.
func asks(t *testing.T, from, to *testNode, q *raft.RequestPreVoteRequest) bool {
	t.Helper()
	var resp raft.RequestPreVoteResponse
	if err := from.transport.RequestPreVote(to.serverID(), to.transport.LocalAddr(), q, &resp); err != nil {
		t.Fatal(err)
	}
	return resp.Granted
}

// TestVoterStandsByItsLeader: a follower believes in its leader while it hears from it, and one heartbeat timeout longer.
func TestVoterStandsByItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, near, far := threeWithLimits(t)
		time.Sleep(5 * time.Second)
		if asks(t, near, far, question(near)) {
			t.Error("a candidate beside a living leader was promised a vote")
		}
		c.net.isolate(addrOf(c.leader().id), true)
		if near.raft.Load().LastContact().Before(far.raft.Load().LastContact()) {
			near, far = far, near // which cannot stand yet at the end
		}
		heard := far.raft.Load().LastContact()
		time.Sleep(time.Until(heard.Add(780 * time.Millisecond)))
		if asks(t, near, far, question(near)) {
			t.Error("a candidate was promised a vote less than a heartbeat timeout after the leader's last word")
		}
		time.Sleep(30 * time.Millisecond)
		if !asks(t, near, far, question(near)) {
			t.Error("a candidate was refused, more than a heartbeat timeout after the leader's last word")
		}
	})
}

// TestBetterCandidateStands: rule 3 of elections.
func TestBetterCandidateStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, w, short, long := threeWithLimits(t)
		old := question(short)
		c.net.isolate(addrOf(short.id), true)
		w.write(7, 1, 1, 'B', 1)
		c.eventually("the other follower has it", func() bool { return long.Applied() >= w.last })
		c.net.isolate(addrOf(c.leader().id), true)
		c.net.isolate(addrOf(short.id), false)
		time.Sleep(980 * time.Millisecond) // hardly anybody has stood yet
		old.Term = short.raft.Load().CurrentTerm() + 1
		if asks(t, short, long, old) {
			t.Error("a candidate that lacks an entry was promised a vote")
		}
		time.Sleep(time.Until(long.raft.Load().LastContact().Add(long.elections.patience() + long.limits.HeartbeatTimeout/8 + 10*time.Millisecond)))
		if !long.Leadership().Self {
			t.Error("whose log is longer does not lead soon after a heartbeat timeout without its leader")
		}
	})
}

// threeWithLimits is a cluster with a leader, the default limits, one record written everywhere, and its two followers.
func threeWithLimits(t *testing.T) (c *cluster, w *writer, b, d *testNode) {
	c = newCluster(t, "a", "b", "c")
	c.limit = Limits{ScrubPause: -1}
	c.startAll()
	w = c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	l := c.leader()
	for _, n := range c.running() {
		switch {
		case n == l:
		case b == nil:
			b = n
		default:
			d = n
		}
	}
	return c, w, b, d
}

// TestAskedAfterARestart: a connection that a restarted node has left costs no request.
func TestAskedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, w, near, far := threeWithLimits(t)
		asks(t, near, far, question(near)) // over a connection that is kept
		c.stop(far.id)
		far = c.start(far.id)
		c.eventually("it is back", func() bool { return far.raft.Load() != nil })
		c.caughtUp(w.last)
		asks(t, near, far, question(near))
	})
}

// TestHeartbeatsBesideRaft: a heartbeat that may change a node's term, or what it is, is for raft's main goroutine.
func TestHeartbeatsBesideRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, near, far := threeWithLimits(t)
		term := far.raft.Load().CurrentTerm()
		terms := make(chan uint64, 100)
		far.transport.SetHeartbeatHandler(func(rpc raft.RPC) {
			terms <- rpc.Command.(*raft.AppendEntriesRequest).Term
			rpc.Respond(&raft.AppendEntriesResponse{Term: term, Success: true}, nil)
		})
		beat := func(term uint64) {
			req := &raft.AppendEntriesRequest{RPCHeader: question(near).RPCHeader, Term: term}
			req.ID = []byte(near.serverID())
			if err := near.transport.AppendEntries(far.serverID(), far.transport.LocalAddr(), req, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
		}
		beat(term)
		beat(term + 1)
		if now := far.raft.Load().CurrentTerm(); now != term+1 {
			t.Errorf("term %d, want %d: the later leader's heartbeat did not reach raft", now, term+1)
		}
		if len(terms) == 0 {
			t.Error("none passed raft's main goroutine by")
		}
		for range len(terms) {
			if got := <-terms; got != term {
				t.Errorf("a heartbeat of term %d passed by a node in term %d", got, term)
			}
		}
	})
}
