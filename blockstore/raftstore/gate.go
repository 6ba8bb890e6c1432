package raftstore

import (
	"context"
	"sync"
	"time"

	"dfs/internal/errors"
)

// gate lets entries pass to the state machine, or holds them back behind an index for a consistent read.
type gate struct {
	closing <-chan struct{}
	mu      sync.Mutex
	current *hold // guarded by mu
}

// hold keeps entries above `at` back (every entry, if at is 0) until done.
type hold struct {
	at      uint64
	done    chan struct{}
	blocked chan struct{} // closed when an entry waits
	once    sync.Once
	first   sync.Once
}

func (h *hold) lift() { h.once.Do(func() { close(h.done) }) }

func (g *gate) init(closing <-chan struct{}) { g.closing = closing }

// holding returns the hold that keeps index back, or nil.
func (g *gate) holding(index uint64) *hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != nil && index > g.current.at {
		return g.current
	}
	return nil
}

// enter waits until index may be applied and takes l; false, without l, if the node closes.
func (g *gate) enter(index uint64, l *sync.RWMutex) bool {
	for {
		l.Lock()
		h := g.holding(index)
		if h == nil {
			return true
		}
		l.Unlock()
		h.first.Do(func() { close(h.blocked) })
		select {
		case <-h.done:
			g.drop(h)
		case <-g.closing:
			return false
		}
	}
}

func (g *gate) set(h *hold) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != nil {
		return errors.New(errors.KindBusy, "this replica is already held for another consistent read; try again later, or on another replica")
	}
	g.current = h
	return nil
}

func (g *gate) drop(h *hold) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == h {
		g.current = nil
	}
}

// liftAny ends the hold, if there is one.
func (g *gate) liftAny() bool {
	g.mu.Lock()
	h := g.current
	g.current = nil
	g.mu.Unlock()
	if h == nil {
		return false
	}
	h.lift()
	return true
}

// HoldApply stops this replica's apply where it is, so that every read until release sees the block store as of the
// returned index. Limits.HoldMax later (60 s by default), or when this node becomes the leader of others, the hold ends by
// itself: ask Held after the last read. It is refused (KindBusy) on a leader that has other voters, because the group
// would stand still: use a follower.
func (n *Node) HoldApply(ctx context.Context) (index uint64, release func(), err error) {
	return n.holdAt(ctx, 0)
}

// HoldAt is HoldApply at exactly that index: it waits until index is applied. KindStale if the replica is beyond it.
func (n *Node) HoldAt(ctx context.Context, index uint64) (release func(), err error) {
	if index == 0 {
		return nil, errors.New(errors.KindInvalid, "cannot hold at index 0")
	}
	_, release, err = n.holdAt(ctx, index)
	return release, err
}

// Held tells whether apply is held now.
func (n *Node) Held() bool {
	n.applier.gate.mu.Lock()
	defer n.applier.gate.mu.Unlock()
	return n.applier.gate.current != nil
}

func (n *Node) holdAt(ctx context.Context, at uint64) (uint64, func(), error) {
	if err := n.mayHold(); err != nil {
		return 0, nil, err
	}
	if err := n.applier.progress.wait(ctx, n.closing, n.applier.progress.settled); err != nil {
		return 0, nil, errors.New(errors.KindNotReached, "this replica is still catching up: %w", err)
	}
	a := n.applier
	h := &hold{at: at, done: make(chan struct{}), blocked: make(chan struct{})}
	if err := a.gate.set(h); err != nil {
		return 0, nil, err
	}
	a.exclusive.RLock() // the entry being applied, if any, is finished
	index := a.progress.applied.Load()
	a.exclusive.RUnlock()
	timer := time.AfterFunc(n.limits.HoldMax, func() {
		n.log.Warn("a hold of apply lasted too long; going on", "index", index)
		a.gate.drop(h)
		h.lift()
	})
	release := func() {
		timer.Stop()
		a.gate.drop(h)
		h.lift()
	}
	if at == 0 {
		return index, release, n.stillMayHold(release)
	}
	if index > at {
		release()
		return 0, nil, errors.New(errors.KindStale, "this replica has applied index %d already, beyond %d: choose a later one", index, at)
	}
	reached := func() bool {
		select {
		case <-h.blocked:
			return true
		default:
			return a.progress.applied.Load() >= at
		}
	}
	if err := n.waitHold(ctx, h, reached); err != nil {
		release()
		return 0, nil, err
	}
	return at, release, n.stillMayHold(release)
}

// waitHold waits until the hold is reached.
func (n *Node) waitHold(ctx context.Context, h *hold, reached func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-h.blocked:
			n.applier.progress.wake()
		case <-h.done:
		case <-ctx.Done():
		}
	}()
	err := n.applier.progress.wait(ctx, n.closing, reached)
	if err != nil {
		return errors.New(errors.KindNotReached, "this replica did not reach the index to hold at: %w", err)
	}
	select {
	case <-h.done:
		return errors.New(errors.KindNotReached, "the hold was lifted before its index was reached")
	default:
		return nil
	}
}

// stillMayHold looks again, since the node may have become leader before the hold was set.
func (n *Node) stillMayHold(release func()) error {
	if err := n.mayHold(); err != nil {
		release()
		return err
	}
	return nil
}

func (n *Node) mayHold() error {
	if n.isRaftLeader() && n.voterCount() > 1 {
		return errors.New(errors.KindBusy, "node %s is the leader: holding its apply would stop the group; ask a follower", n.opts.ID)
	}
	return nil
}
