package raftstore

import (
	"context"
	stderrors "errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// applier is the thin FSM: it decodes entries, gives them to the pure state and the resulting records to the device.
// Apply, Snapshot and Restore come from raft's one FSM goroutine; the rest from anywhere.
//
// Invariants: state has seen exactly the commands up to applied (and the one being applied, while exclusive
// is held); the device holds exactly the records up to applied, and, while not readable, perhaps bytes of later ones.
type applier struct {
	dev     blockstore.Device
	log     *slog.Logger
	fatal   func(error)
	closing <-chan struct{}

	// exclusive is held over one entry. Who holds it shared sees state and device at one index.
	exclusive sync.RWMutex
	gate      gate
	recent    recentWrites
	checked   checkedRecords

	mu    sync.RWMutex // guards state: taken inside exclusive
	state *blockstore.State

	progress progress
	volume   atomic.Int64  // bytes applied since the start
	wanted   chan struct{} // holds one token while the device wants a checkpoint
	dead     atomic.Pointer[error]
	died     chan struct{} // closed once dead is set
}

// entryOverhead is what an entry costs in the log besides its data, in bytes.
const entryOverhead = 64

var errStopped = errors.New(errors.KindUnavailable, "this replica has stopped after a failure; see its log")

// newApplier takes over what the device's last checkpoint says.
func newApplier(dev blockstore.Device, log *slog.Logger, fatal func(error), closing <-chan struct{}) (*applier, error) {
	a := &applier{dev: dev, log: log, fatal: fatal, closing: closing, state: blockstore.NewState(), wanted: make(chan struct{}, 1), died: make(chan struct{})}
	if index, meta := dev.Meta(); index > 0 {
		st, err := blockstore.DecodeState(meta)
		if err != nil {
			return nil, errors.New(errors.KindOf(err), "the state machine in the device's checkpoint (index %d) cannot be read: %w", index, err)
		}
		a.state = st
	}
	a.gate.init(closing)
	a.progress.init(dev.Applied())
	return a, nil
}

// die stops this replica: nothing is applied from now on. It returns when the node closes.
func (a *applier) die(err error) {
	if a.dead.CompareAndSwap(nil, &err) {
		close(a.died)
		a.log.Error("this replica stops", "err", err)
		go a.fatal(err)
	}
	<-a.closing
}

// apply applies one entry and returns its answer.
func (a *applier) apply(l *raft.Log) *blockstore.Result {
	entered := a.gate.enter(l.Index, &a.exclusive)
	if !entered || a.dead.Load() != nil {
		if entered {
			a.exclusive.Unlock()
		}
		<-a.closing
		return &blockstore.Result{Index: l.Index, Err: errStopped}
	}
	res, err := a.applyLocked(l)
	a.exclusive.Unlock()
	if err != nil {
		a.die(err)
		return &blockstore.Result{Index: l.Index, Err: errStopped}
	}
	a.volume.Add(int64(len(l.Data)) + entryOverhead)
	return res
}

// applyLocked is apply with exclusive held; an error is final.
func (a *applier) applyLocked(l *raft.Log) (*blockstore.Result, error) {
	if a.progress.redoEnds(l.Index-1, l.Term) {
		a.dev.EndRedo()
	}
	if l.Index <= a.dev.Applied() {
		// Replayed log that the device's checkpoint already covers.
		a.progress.note(a.progress.applied.Load(), l.Term)
		return &blockstore.Result{Index: l.Index, Err: errStopped}, nil
	}
	res := &blockstore.Result{Index: l.Index}
	if l.Type == raft.LogCommand && len(l.Data) > 0 {
		cmd, err := blockstore.DecodeCommand(l.Data)
		if err != nil {
			return nil, &blockstore.UndecodableError{Index: l.Index, Cause: err}
		}
		a.checked.adopt(&cmd)
		if *res, err = a.command(l.Index, cmd); err != nil {
			return nil, err
		}
	} else {
		a.dev.Advance(l.Index)
	}
	if a.progress.redoEnds(l.Index, 0) {
		a.dev.EndRedo() // before note, which lets reads in
	}
	a.progress.note(l.Index, l.Term)
	return res, nil
}

// command gives cmd to the state and what it yields to the device.
func (a *applier) command(index uint64, cmd blockstore.Command) (blockstore.Result, error) {
	a.mu.Lock()
	res, rec := a.state.Apply(index, cmd)
	a.mu.Unlock()
	if stderrors.Is(res.Err, blockstore.ErrUndecodable) {
		return res, res.Err
	}
	if rec == nil {
		a.dev.Advance(index)
		return res, nil
	}
	a.recent.begin(rec)
	if err := a.dev.Apply(index, rec); err != nil {
		return res, errors.New(errors.KindOf(err), "the device failed at log index %d: %w", index, err)
	}
	a.recent.end()
	if a.dev.CheckpointWanted() {
		select {
		case a.wanted <- struct{}{}:
		default:
		}
	}
	return res, nil
}

// view runs f on the state and its index.
func (a *applier) view(f func(s *blockstore.State, applied uint64)) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	f(a.state, max(a.state.Applied(), a.progress.applied.Load()))
}

// progress is how far a replica has applied, and from when on it may be read.
type progress struct {
	applied atomic.Uint64
	term    atomic.Uint64 // of the newest entry seen by the FSM since the start
	copying atomic.Bool   // a copy from another replica is under way
	waiting atomic.Int64

	mu    sync.Mutex
	moved chan struct{} // closed and replaced when something changed and somebody waits
	// The device may hold bytes of entries up to startIndex (whose term is startTerm) from before the restart, and of
	// entries up to copyFloor from a copy: it is not read before those have been applied again.
	startIndex, startTerm, copyFloor uint64
	redone                           bool // redoEnds has said so
}

func (p *progress) init(applied uint64) {
	p.applied.Store(applied)
	p.moved = make(chan struct{})
}

func (p *progress) note(index, term uint64) {
	p.applied.Store(index)
	if term > p.term.Load() {
		p.term.Store(term)
	}
	p.wake()
}

func (p *progress) wake() {
	if p.waiting.Load() == 0 {
		return
	}
	p.mu.Lock()
	close(p.moved)
	p.moved = make(chan struct{})
	p.mu.Unlock()
}

// setStart tells the last entry of the log at the start.
func (p *progress) setStart(index, term uint64) {
	p.mu.Lock()
	p.startIndex, p.startTerm = index, term
	p.mu.Unlock()
}

func (p *progress) setCopyFloor(index uint64) {
	p.mu.Lock()
	p.copyFloor = max(p.copyFloor, index)
	p.mu.Unlock()
}

// redoEnds tells, once, that the redo is over if everything up to index is applied and an entry of term follows (0: unknown).
func (p *progress) redoEnds(index, term uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.redone || index < p.startIndex && term <= p.startTerm {
		return false
	}
	p.redone = true
	return true
}

// settled tells whether the device holds nothing from beyond applied.
func (p *progress) settled() bool {
	applied, term := p.applied.Load(), p.term.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.copying.Load() || applied < p.copyFloor {
		return false
	}
	// An entry of a later term than any in our log stands behind every entry that was committed before the restart.
	return applied >= p.startIndex || term > p.startTerm
}

// wait returns when cond holds, or ctx's error.
func (p *progress) wait(ctx context.Context, closing <-chan struct{}, cond func() bool) error {
	if cond() {
		return nil
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	for {
		p.mu.Lock()
		moved := p.moved
		p.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-closing:
			return errors.New(errors.KindUnavailable, "this node is shutting down")
		}
	}
}
