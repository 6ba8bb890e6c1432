package raftstore

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"dfs/internal/boltfile"
	"dfs/internal/errors"
)

// stores are Raft's three stores. Log and stable store are guarded: their first failure ends the node.
type stores struct {
	log       raft.LogStore
	watched   *watchedLog // is log
	entries   *LogStore   // under log
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	covered   atomic.Uint64            // index up to which the newest snapshot holds everything
	edge      atomic.Pointer[raft.Log] // stands for the last entry that the newest snapshot covers
	down      atomic.Bool              // raft has ended
	disarm    []func()
	closers   []io.Closer
	once      sync.Once

	holdMu  sync.Mutex
	release func()      // ends the veto on deletions; guarded by holdMu
	expiry  *time.Timer // guarded by holdMu
}

// deleteHold is how long the log is kept after the last sign that a replica copies from here.
const deleteHold = 2 * time.Minute

// hold vetoes deletions from the log for deleteHold from now on.
func (s *stores) hold() {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	if s.release == nil {
		s.release = s.entries.HoldDeletes()
		s.expiry = time.AfterFunc(deleteHold, s.unhold)
		return
	}
	s.expiry.Reset(deleteHold)
}

func (s *stores) unhold() {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	if s.release != nil {
		s.expiry.Stop()
		s.release()
		s.release = nil
	}
}

// holdDeletes keeps the log behind the newest snapshot for a while, for a replica that copies.
func (n *Node) holdDeletes() { n.stores.hold() }

func (s *stores) close() error {
	var first error
	s.once.Do(func() {
		s.unhold()
		for _, c := range s.closers {
			if err := c.Close(); err != nil && first == nil {
				first = err
			}
		}
	})
	return first
}

// openStores opens the stores in <dir>/raft.
func (n *Node) openStores() (*stores, error) {
	dir := filepath.Join(n.opts.Dir, "raft")
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, newRaftLogger(n.log, "snapshots"))
	if err != nil {
		return nil, errors.New(errors.KindIO, "cannot open the snapshots in %s: %w", dir, err)
	}
	s := &stores{snapshots: snaps}
	if err := n.storesWhole(dir); err != nil {
		return nil, err
	}
	bolt, err := openStable(filepath.Join(dir, stableFile))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, bolt)
	s.entries, err = OpenLog(n.opts.LogKind, dir, LogOptions{Logger: n.log, HoldBytes: n.limits.HoldLogBytes, Covered: s.covered.Load,
		Needed: n.neededLog, NeededBytes: n.keepBytes.Load, Seg: n.opts.Seg})
	if err != nil {
		_ = s.close()
		return nil, err
	}
	s.closers = append(s.closers, s.entries)
	s.noteSnapshot()
	s.covered.Store(s.snapshotIndex())
	if err := s.agreeWithSnapshot(); err != nil {
		_ = s.close()
		return nil, err
	}
	guard := GuardOptions{Deadline: n.limits.DiskDeadline, Fatal: n.storeFailed}
	log, stable := NewGuardedLogStore(s.entries, guard), NewGuardedStable(poweredBy(n.opts.Power, bolt), guard)
	s.disarm = []func(){log.Disarm, stable.Disarm}
	s.watched = &watchedLog{LogStore: log, node: n}
	s.log = s.watched
	s.stable = &watchedStable{StableStore: stable, node: n}
	s.powered(n.opts.Power)
	return s, nil
}

// stableFile holds term and vote.
const stableFile = "stable.db"

// rebuild is what to do about a node whose promises are lost.
const rebuild = "remove it from the cluster, empty its data directory and add it anew"

// storesWhole refuses a directory that made promises and lost a file they are in: an opened store would be made new.
func (n *Node) storesWhole(dir string) error {
	if !n.ident.Lives {
		return nil
	}
	stable := filepath.Join(dir, stableFile)
	if _, err := os.Stat(stable); os.IsNotExist(err) {
		return errors.New(errors.KindCorrupt, "%s is gone, so this node does not know how it has voted: %s", stable, rebuild)
	}
	if err := boltfile.Check(stable); err != nil {
		return errors.New(errors.KindOf(err), "this node cannot read how it has voted; %s: %w", rebuild, err)
	}
	if n.opts.Seg.FS != nil {
		return nil // the log is not in this directory
	}
	for _, log := range []string{filepath.Join(dir, "log", "seg-*"), filepath.Join(dir, "log", "newest-*"), filepath.Join(dir, "log.db")} { // OpenLog refuses the wrong one, and one whose newest segment is gone
		if files, err := filepath.Glob(log); err == nil && len(files) > 0 {
			return nil
		}
	}
	return errors.New(errors.KindCorrupt, "the raft log in %s is gone, so this node does not know what it has promised: %s", filepath.Join(dir, "log"), rebuild)
}

// openStable opens the store of term and vote; a damaged page under bbolt's memory map is an error, not the process's end.
func openStable(path string) (s *raftboltdb.BoltStore, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, errors.New(errors.KindCorrupt, "%s cannot be read; %s: %v", path, rebuild, r)
		}
	}()
	if s, err = raftboltdb.New(raftboltdb.Options{Path: path}); err != nil {
		return nil, errors.New(errors.KindIO, "cannot open %s: %w", path, err)
	}
	if _, err := s.GetUint64(keyCurrentTerm); err != nil && !isKeyNotFound(err) {
		return nil, errors.New(errors.KindIO, "cannot read %s: %w", path, err)
	}
	return s, nil
}

// storeFailed stops the node after a failure of its log or stable store.
func (n *Node) storeFailed(err error) {
	if a := n.applier; a != nil {
		go a.die(err)
		return
	}
	go n.opts.Fatal(err)
}

// noteSnapshot looks where the newest snapshot ends.
func (s *stores) noteSnapshot() {
	if list, err := s.snapshots.List(); err == nil && len(list) > 0 {
		s.edge.Store(&raft.Log{Index: list[0].Index, Term: list[0].Term, Type: raft.LogNoop})
	}
}

// agreeWithSnapshot removes what the newest snapshot contradicts, or may contradict, from the log: see LogStore.Agree.
func (s *stores) agreeWithSnapshot() error {
	edge := s.edge.Load()
	if edge == nil {
		return nil
	}
	return s.entries.Agree(edge.Index, edge.Term)
}

// snapshotIndex is where the newest snapshot ends, 0 if there is none.
func (s *stores) snapshotIndex() uint64 {
	if edge := s.edge.Load(); edge != nil {
		return edge.Index
	}
	return 0
}

// has tells whether this replica has everything up to index: it was applied, and so is in a checkpoint or in the log.
func (n *Node) has(index uint64) bool {
	n.copying.mu.Lock()
	copying := n.copying.mark != nil && n.copying.mark.Copying
	n.copying.mu.Unlock()
	p := &n.applier.progress
	return !copying && !p.copying.Load() && index <= p.applied.Load()
}

// watchedLog notes the first promise of this directory, and slows a follower down that takes entries faster than it applies.
type watchedLog struct {
	raft.LogStore
	node *Node
	scan startScan
}

// GetLog reads one entry. Of the last one that the newest snapshot covers, index and term are there even when the log
// begins behind it: raft compares a leader's entry with the follower's log alone, and would never find where the two
// part for a follower that has a snapshot and behind it only entries that were never committed.
func (w *watchedLog) GetLog(index uint64, out *raft.Log) error {
	if w.scan.take(index) && w.node.stores.entries.commandHead(index, out) {
		return nil
	}
	err := w.LogStore.GetLog(index, out)
	if edge := w.node.stores.edge.Load(); isLogNotFound(err) && edge != nil && edge.Index == index {
		*out = *edge
		return nil
	}
	return err
}

// StoreLog stores one entry durably.
func (w *watchedLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries durably.
func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	if err := w.node.markAlive(); err != nil {
		w.node.storeFailed(err)
		return err
	}
	w.node.waitBacklog()
	w.node.sendEarly(logs)
	return w.LogStore.StoreLogs(logs)
}

// waitBacklog holds a follower's next entries back while it has committed ones to apply:
// raft's own queue to the FSM is bounded by count alone and could take 1 GiB. Those entries are with the FSM, so
// waiting for them waits for nothing that comes later.
func (n *Node) waitBacklog() {
	r := n.raft.Load()
	if r == nil || r.State() == raft.Leader {
		return
	}
	handed := r.AppliedIndex()
	if handed <= n.limits.BacklogEntries {
		return
	}
	ctx, cancel := n.runCtx()
	defer cancel()
	p := &n.applier.progress
	if p.applied.Load()+n.limits.BacklogEntries < handed {
		_ = p.wait(ctx, n.closing, func() bool {
			return p.applied.Load()+n.limits.BacklogEntries >= handed || n.applier.dead.Load() != nil
		})
	}
}

// watchedStable keeps raft's term and vote. The term never goes back: raft takes heartbeats on goroutines of their own, which may find the term theirs, be
// overtaken by a vote in a later one, and set it back. The node would then follow a leader of a term in which it has promised to follow none.
type watchedStable struct {
	raft.StableStore
	node *Node
	mu   sync.Mutex // over looking at the term and setting it
}

// Set stores a value durably.
func (w *watchedStable) Set(key, val []byte) error {
	return w.write(func() error { return w.StableStore.Set(key, val) })
}

// SetUint64 stores a value durably.
func (w *watchedStable) SetUint64(key []byte, val uint64) error {
	return w.write(func() error {
		if bytes.Equal(key, keyCurrentTerm) {
			return w.raiseTerm(val)
		}
		return w.StableStore.SetUint64(key, val)
	})
}

// raiseTerm ends the node rather than setting its term back: raft would go on with the lower one in memory.
func (w *watchedStable) raiseTerm(term uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now, err := w.GetUint64(keyCurrentTerm); err == nil && now > term {
		err := errors.New(errors.KindIO, "raft would go back from term %d to term %d, which it may not: this node ends, nothing is lost; start it again", now, term)
		w.node.storeFailed(err)
		return err
	}
	return w.StableStore.SetUint64(keyCurrentTerm, term)
}

// write stores a value. Raft panics where it cannot note a term, so it is told of no failure: it waits here for the end of this node, whose user
// knows the failure by then, and ends with it, without having promised anything. A write that comes after raft has ended is of a
// heartbeat on a connection that closes just then, whose answer nobody hears.
func (w *watchedStable) write(set func() error) error {
	err := w.node.markAlive()
	if err != nil {
		w.node.storeFailed(err)
	} else {
		err = set()
	}
	if err != nil && !w.node.stores.down.Load() {
		<-w.node.closing
		runtime.Goexit()
	}
	return nil
}

// scanStarts lets NewRaft, which comes next, look through the log the cheap way.
func (s *stores) scanStarts() error {
	first := s.snapshotIndex() + 1
	last, err := s.entries.LastIndex()
	if err == nil && first <= last {
		s.watched.scan.begin(first, last)
	}
	return err
}

// lastEntry returns index and term of the log's last entry, zeros if it is empty.
func lastEntry(log raft.LogStore) (index, term uint64, err error) {
	index, err = log.LastIndex()
	if err != nil || index == 0 {
		return 0, 0, err
	}
	var l raft.Log
	if err := log.GetLog(index, &l); err != nil {
		return 0, 0, errors.New(errors.KindOf(err), "cannot read the last log entry (%d): %w", index, err)
	}
	return index, l.Term, nil
}
