package raftstore

import (
	stderrors "errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"dfs/internal/errors"
)

// GuardOptions of the guarded stores.
type GuardOptions struct {
	Deadline time.Duration // the longest that one call may take (30 s)
	// Fatal is called once, at the first error or call past its deadline, from any goroutine. It should
	// end the process; it may return, and everything fails from then on.
	Fatal func(error)
}

// guard ends the node at the first failure of a store, because raft goes on after a failed
// StoreLogs, and a leader with a hung disk stays leader.
type guard struct {
	what     string
	deadline time.Duration
	fatal    func(error)

	mu       sync.Mutex
	failed   error
	disarmed bool
}

func newGuard(what string, o GuardOptions) *guard {
	if o.Deadline <= 0 {
		o.Deadline = 30 * time.Second
	}
	return &guard{what: what, deadline: o.Deadline, fatal: o.Fatal}
}

// Disarm makes the guard only pass errors on, before an orderly shutdown.
func (g *guard) Disarm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disarmed = true
}

func (g *guard) state() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// fail notes the first failure and tells of it.
func (g *guard) fail(err error) {
	g.mu.Lock()
	first := g.failed == nil && !g.disarmed
	if first {
		g.failed = err
	}
	g.mu.Unlock()
	if first && g.fatal != nil {
		g.fatal(err)
	}
}

// call runs f under the deadline. harmless errors are answers, not failures.
func (g *guard) call(op string, harmless func(error) bool, f func() error) error {
	if err := g.state(); err != nil {
		return err
	}
	timer := time.AfterFunc(g.deadline, func() {
		g.fail(errors.New(errors.KindTimeout, "%s: %s has not returned for %v: the disk hangs, and this node must not go on as if it did not", g.what, op, g.deadline))
	})
	err := f()
	timer.Stop()
	if err != nil && (harmless == nil || !harmless(err)) {
		g.fail(errors.New(errors.KindOf(err), "%s: %s failed, this node cannot go on: %w", g.what, op, err))
		return err
	}
	if late := g.state(); late != nil {
		return late
	}
	return err
}

func isLogNotFound(err error) bool { return stderrors.Is(err, raft.ErrLogNotFound) }

// isKeyNotFound knows the answer that raft itself compares by its text.
func isKeyNotFound(err error) bool {
	return stderrors.Is(err, raftboltdb.ErrKeyNotFound) || err.Error() == "not found"
}

// GuardedLogStore wraps a raft.LogStore: any error but raft.ErrLogNotFound, and
// any call past its deadline, is fatal, and fails every later call.
type GuardedLogStore struct {
	*guard
	store raft.LogStore
}

// GuardedStable wraps a raft.StableStore alike; "not found" is not an error.
type GuardedStable struct {
	*guard
	store raft.StableStore
}

var (
	_ raft.LogStore          = (*GuardedLogStore)(nil)
	_ raft.MonotonicLogStore = (*GuardedLogStore)(nil)
	_ raft.StableStore       = (*GuardedStable)(nil)
)

// NewGuardedLogStore wraps s.
func NewGuardedLogStore(s raft.LogStore, o GuardOptions) *GuardedLogStore {
	return &GuardedLogStore{guard: newGuard("the Raft log", o), store: s}
}

// NewGuardedStable wraps s.
func NewGuardedStable(s raft.StableStore, o GuardOptions) *GuardedStable {
	return &GuardedStable{guard: newGuard("the store of term and vote", o), store: s}
}

// IsMonotonic is the wrapped store's answer.
func (s *GuardedLogStore) IsMonotonic() bool {
	m, ok := s.store.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// FirstIndex is raft.LogStore's.
func (s *GuardedLogStore) FirstIndex() (index uint64, err error) {
	err = s.call("FirstIndex", nil, func() (err error) { index, err = s.store.FirstIndex(); return err })
	return index, err
}

// LastIndex is raft.LogStore's.
func (s *GuardedLogStore) LastIndex() (index uint64, err error) {
	err = s.call("LastIndex", nil, func() (err error) { index, err = s.store.LastIndex(); return err })
	return index, err
}

// GetLog is raft.LogStore's.
func (s *GuardedLogStore) GetLog(index uint64, out *raft.Log) error {
	return s.call("GetLog", isLogNotFound, func() error { return s.store.GetLog(index, out) })
}

// StoreLog is raft.LogStore's.
func (s *GuardedLogStore) StoreLog(l *raft.Log) error {
	return s.call("StoreLog", nil, func() error { return s.store.StoreLog(l) })
}

// StoreLogs is raft.LogStore's.
func (s *GuardedLogStore) StoreLogs(logs []*raft.Log) error {
	return s.call("StoreLogs", nil, func() error { return s.store.StoreLogs(logs) })
}

// DeleteRange is raft.LogStore's.
func (s *GuardedLogStore) DeleteRange(min, max uint64) error {
	return s.call("DeleteRange", nil, func() error { return s.store.DeleteRange(min, max) })
}

// Set is raft.StableStore's.
func (s *GuardedStable) Set(key, val []byte) error {
	return s.call("Set", nil, func() error { return s.store.Set(key, val) })
}

// Get is raft.StableStore's.
func (s *GuardedStable) Get(key []byte) (val []byte, err error) {
	err = s.call("Get", isKeyNotFound, func() (err error) { val, err = s.store.Get(key); return err })
	return val, err
}

// SetUint64 is raft.StableStore's.
func (s *GuardedStable) SetUint64(key []byte, val uint64) error {
	return s.call("SetUint64", nil, func() error { return s.store.SetUint64(key, val) })
}

// GetUint64 is raft.StableStore's.
func (s *GuardedStable) GetUint64(key []byte) (val uint64, err error) {
	err = s.call("GetUint64", isKeyNotFound, func() (err error) { val, err = s.store.GetUint64(key); return err })
	return val, err
}
