package raftstore

import (
	"context"
	stderrors "errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Propose is blockstore.Proposer's.
func (n *Node) Propose(ctx context.Context, cmd blockstore.Command) (blockstore.Result, error) {
	type answer struct {
		res blockstore.Result
		err error
	}
	got := make(chan answer, 1)
	n.ProposeAsync(ctx, cmd, func(r blockstore.Result, err error) { got <- answer{r, err} })
	select {
	case a := <-got:
		return a.res, a.err
	case <-ctx.Done():
		return blockstore.Result{}, errors.New(errors.KindUnavailable, "gave up waiting for a proposal; its outcome is unknown: %w", ctx.Err())
	}
}

// ProposeAsync is blockstore.Proposer's. A command that blockstore would not decode is refused here (its Validate's kinds):
// in the log it would stop every node.
func (n *Node) ProposeAsync(ctx context.Context, cmd blockstore.Command, done func(blockstore.Result, error)) {
	r, err := n.leaderNow()
	if err == nil {
		err = cmd.Validate()
	}
	if err != nil {
		done(blockstore.Result{}, err)
		return
	}
	size := int64(cmd.EncodedSize())
	if size > entryBytesMax {
		done(blockstore.Result{}, errors.New(errors.KindTooBig, "a command of %d bytes; at most %d are allowed", size, entryBytesMax))
		return
	}
	if err := n.inFlight.Acquire(ctx, size); err != nil {
		done(blockstore.Result{}, errors.New(errors.KindUnavailable, "too many bytes are in flight; nothing was proposed: %w", err))
		return
	}
	n.inFlightBytes.Add(size)
	forget := n.applier.checked.note(&cmd)
	f := r.Apply(cmd.Encode(), n.applyWait(ctx))
	go func() {
		err := f.Error()
		forget()
		n.inFlightBytes.Add(-size)
		n.inFlight.Release(size)
		if err != nil {
			done(blockstore.Result{}, n.proposeError(err))
			return
		}
		res := f.Response().(*blockstore.Result)
		if res.Err == errStopped {
			done(blockstore.Result{}, errStopped)
			return
		}
		done(*res, nil)
	}()
}

// applyWait bounds how long raft.Apply waits to hand an entry to raft.
func (n *Node) applyWait(ctx context.Context) time.Duration {
	wait := n.limits.ProposeWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	return max(wait, time.Millisecond) // 0 would be for ever
}

// leaderNow returns Raft if this node is its leader and works.
func (n *Node) leaderNow() (*raft.Raft, error) {
	r, err := n.raftNow()
	if err != nil {
		return nil, err
	}
	if n.applier.dead.Load() != nil {
		return nil, errStopped
	}
	if r.State() != raft.Leader {
		return nil, n.notLeader()
	}
	return r, nil
}

func (n *Node) notLeader() error {
	l := n.Leadership()
	if l.Leader == "" {
		return errors.New(errors.KindNotLeader, "node %s is not the leader, and knows of none now", n.opts.ID)
	}
	return errors.New(errors.KindNotLeader, "node %s is not the leader; %s at %s is", n.opts.ID, l.Leader, l.Address)
}

// proposeError gives raft's errors their kinds.
func (n *Node) proposeError(err error) error {
	switch {
	case stderrors.Is(err, raft.ErrNotLeader):
		return n.notLeader()
	case stderrors.Is(err, raft.ErrEnqueueTimeout), stderrors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errors.New(errors.KindUnavailable, "nothing was proposed; try again: %w", err)
	}
	return errors.New(errors.KindUnavailable, "the outcome of a proposal is unknown; send it again under the same number: %w", err)
}

// commitOwn commits an empty entry in this node's own term.
func (n *Node) commitOwn() error {
	r, err := n.leaderNow()
	if err != nil {
		return err
	}
	answered, err := await(r.Apply(nil, n.limits.ProposeWait), n.closing) // before raft is ended, which nothing may keep from happening
	if !answered {
		return errors.New(errors.KindUnavailable, "this node is shutting down")
	}
	if err != nil {
		return n.proposeError(err)
	}
	return nil
}

// await returns raft's answer, unless giveUp is closed before it comes: raft may never give one where its replica has died, or after its own end.
func await(f raft.Future, giveUp <-chan struct{}) (answered bool, err error) {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return true, err
	case <-giveUp:
		return false, nil
	}
}

// ProveLeadership is blockstore.Proposer's: an entry of the own term, appended after the call began, was committed.
func (n *Node) ProveLeadership(ctx context.Context) error {
	if _, err := n.leaderNow(); err != nil {
		return err
	}
	return n.prover.prove(ctx)
}

// prover shares proofs: callers that arrive while one is under way all take the next.
type prover struct {
	commit  func() error
	mu      sync.Mutex
	next    *proof // not begun yet, nil if nobody waits
	running bool
}

type proof struct {
	done chan struct{}
	err  error // valid once done is closed
}

// prove waits for a proof that begins after the call.
func (p *prover) prove(ctx context.Context) error {
	p.mu.Lock()
	if p.next == nil {
		p.next = &proof{done: make(chan struct{})}
	}
	mine := p.next
	if !p.running {
		p.running = true
		go p.run()
	}
	p.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return errors.New(errors.KindUnavailable, "leadership was not proven in time: %w", ctx.Err())
	}
}

// run makes proofs until nobody waits for one.
func (p *prover) run() {
	for {
		p.mu.Lock()
		mine := p.next
		p.next = nil
		if mine == nil {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		mine.err = p.commit()
		close(mine.done)
	}
}

// View is blockstore.Proposer's.
func (n *Node) View(f func(s *blockstore.State, applied uint64)) { n.applier.view(f) }

// Applied is the index up to which this replica has applied the log.
func (n *Node) Applied() uint64 { return n.applier.progress.applied.Load() }

// WaitApplied is blockstore.Proposer's.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	p := &n.applier.progress
	err := p.wait(ctx, n.closing, func() bool { return p.applied.Load() >= index })
	if err != nil {
		return errors.New(errors.KindNotReached, "this replica has applied index %d, not yet %d: %w", p.applied.Load(), index, err)
	}
	return nil
}
