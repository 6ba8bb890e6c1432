package raftstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
)

// reign follows who leads, and tells watchers. This node counts as leader (Self) of a term only after an entry
// that it proposed in that term was applied here: so it has applied everything of earlier terms.
type reign struct {
	confirmed atomic.Uint64 // the newest term in which this node was seen to lead so

	mu       sync.Mutex
	last     blockstore.Leadership // told last
	watchers map[chan blockstore.Leadership]struct{}
	begin    uint64 // the term whose first entry is under way; only the watching goroutine uses it
}

func (g *reign) init() { g.watchers = make(map[chan blockstore.Leadership]struct{}) }

// publish tells every watcher, if something changed.
func (g *reign) publish(l blockstore.Leadership) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l == g.last {
		return
	}
	g.last = l
	for c := range g.watchers {
		replace(c, l)
	}
}

// replace puts l into c, whose one place may hold an older value. Called with mu held, so there is one sender.
func replace(c chan blockstore.Leadership, l blockstore.Leadership) {
	select {
	case <-c:
	default:
	}
	c <- l
}

func (g *reign) close() {
	g.publish(blockstore.Leadership{Term: g.confirmed.Load()})
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.watchers {
		close(c)
	}
	g.watchers = nil
}

// Leadership is blockstore.Proposer's.
func (n *Node) Leadership() blockstore.Leadership {
	r := n.raft.Load()
	if r == nil || n.isClosing() {
		return blockstore.Leadership{}
	}
	term := r.CurrentTerm()
	addr, id := r.LeaderWithID()
	node, _, _ := splitServer(string(id))
	host, _, _ := splitServer(string(addr))
	self := r.State() == raft.Leader && n.reign.confirmed.Load() == term && n.applier.dead.Load() == nil
	return blockstore.Leadership{Leader: blockstore.NodeID(node), Address: host, Self: self, Term: term}
}

// WatchLeadership is blockstore.Proposer's. The channel is closed when ctx ends or the node is closed.
func (n *Node) WatchLeadership(ctx context.Context) <-chan blockstore.Leadership {
	c := make(chan blockstore.Leadership, 1)
	g := &n.reign
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watchers == nil {
		c <- blockstore.Leadership{}
		close(c)
		return c
	}
	c <- g.last
	g.watchers[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, ok := g.watchers[c]; ok {
			delete(g.watchers, c)
			close(c)
		}
	})
	return c
}

func (n *Node) isRaftLeader() bool {
	r := n.raft.Load()
	return r != nil && r.State() == raft.Leader
}

// watchRaft runs until the node closes.
func (n *Node) watchRaft(r *raft.Raft) {
	events := make(chan raft.Observation, 16)
	o := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	r.RegisterObserver(o)
	defer r.DeregisterObserver(o)
	begun := make(chan struct{}, 1)
	tick := time.NewTicker(time.Second) // in case an event was dropped
	defer tick.Stop()
	for {
		n.lookAtRaft(r, begun)
		select {
		case <-events:
		case <-begun:
		case <-tick.C:
		case <-n.closing:
			return
		}
	}
}

// lookAtRaft begins a reign if there is a new one, and publishes what is known.
func (n *Node) lookAtRaft(r *raft.Raft, begun chan struct{}) {
	term := r.CurrentTerm()
	if r.State() == raft.Leader && n.reign.confirmed.Load() != term && n.reign.begin != term {
		n.reign.begin = term
		if n.voterCount() > 1 && n.applier.gate.liftAny() {
			n.log.Warn("a hold of apply was lifted because this node became the leader")
		}
		n.spawn(func() {
			n.beginReign(r, term)
			select {
			case begun <- struct{}{}:
			default:
			}
		})
	}
	n.reign.publish(n.Leadership())
}

// beginReign commits the first entry of term, and marks the term as confirmed once it is applied here.
func (n *Node) beginReign(r *raft.Raft, term uint64) {
	for r.State() == raft.Leader && r.CurrentTerm() == term && !n.isClosing() {
		err := n.commitOwn()
		// Had the entry been of a later term, that term would be the current one now.
		if err == nil && r.State() == raft.Leader && r.CurrentTerm() == term {
			n.reign.confirmed.Store(term)
			n.log.Info("this node leads", "term", term, "applied", n.Applied())
			n.capacity.kick()
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-n.closing:
		}
	}
}
