package raftstore

import (
	"log/slog"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/wal/seglog"
)

// LogOptions of OpenLog; a zero field means its default.
type LogOptions struct {
	CacheBytes  int64         // newest entries kept in memory at most (32 MiB; negative: none)
	AheadBytes  int64         // entries read ahead of those who read the log's files in order, at most about so much (8 MiB; negative: none)
	IdleRelease time.Duration // what is kept in memory is dropped after this time without use (5 s)
	HoldBytes   int64         // a log greater than this is cut although deletions are held (2 GiB)
	Logger      *slog.Logger
	// Covered tells the index up to which a snapshot holds everything. With it a gap in what raft appends is
	// refused (KindInvalid) unless the snapshot covers it. nil: raft is trusted.
	Covered func() uint64
	// Needed tells from which entry on others need the log: they are not removed at the front while the log is no greater than NeededBytes.
	// It may not ask for any before oldest. Both are called with the log locked. nil: nobody needs any.
	Needed      func(oldest uint64) uint64
	NeededBytes func() int64
	Seg         seglog.Options // of the seglog; its Logger is set
}

// LogStore is the Raft log of a node: raft.LogStore over seglog or raft-boltdb, with the newest entries in
// memory, sizes in bytes, and a veto on deletions.
//
// Entries are cached as raft handed them over: nobody may change Log.Data, neither before StoreLogs nor after GetLog.
//
// # Gaps
//
// After a snapshot was installed, raft appends far behind the old entries. It can be asked (raft.MonotonicLogStore)
// to remove all entries first; then it would also remove entries above the snapshot, which
// this node may have acknowledged. So IsMonotonic is false, and an append that leaves a gap
// resets the log: everything before the gap is covered by the snapshot. That
// also mends the node that crashed between the two. Entries that are covered, but not those of everybody, go at once (Agree).
type LogStore struct {
	back    logBack
	cache   logCache
	ahead   logAhead
	log     *slog.Logger
	covered func() uint64

	needed      func(oldest uint64) uint64
	neededBytes func() int64

	mu        sync.Mutex // appends and deletions, one at a time
	holds     int
	holdBytes int64
	parked    uint64 // a deletion that was put off: entries below it go when nobody needs them any more, or the log is too great
}

// logBack is what keeps the entries. Methods that change it are not called concurrently; first..last are consecutive.
type logBack interface {
	first() uint64 // 0: empty
	last() uint64
	get(index uint64, out *raft.Log) error // raft.ErrLogNotFound
	append(logs []*raft.Log) error         // durable
	deleteFront(before uint64) error
	deleteBack(from uint64) error
	bytesSince(index uint64) int64
	diskBytes() int64
	close() error
}

var (
	_ raft.LogStore          = (*LogStore)(nil)
	_ raft.MonotonicLogStore = (*LogStore)(nil)
)

// OpenLog opens the log of the given kind under dir (seglog: dir/log/, boltdb: dir/log.db), or makes an empty one.
// A directory that holds a log of the other kind is refused (KindInvalid).
func OpenLog(kind LogKind, dir string, o LogOptions) (*LogStore, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = 32 << 20
	}
	if o.AheadBytes == 0 {
		o.AheadBytes = 8 << 20
	}
	if o.IdleRelease == 0 {
		o.IdleRelease = 5 * time.Second
	}
	if o.HoldBytes == 0 {
		o.HoldBytes = 2 << 30
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	segDir, boltFile := filepath.Join(dir, "log"), filepath.Join(dir, "log.db")
	other := map[LogKind]string{LogSeg: boltFile, LogBolt: segDir}[kind]
	if other == "" {
		return nil, errors.New(errors.KindInvalid, "unknown kind of log %q: use %q or %q", kind, LogSeg, LogBolt)
	}
	if exists(other) {
		return nil, errors.New(errors.KindInvalid, "the log under %s is of another kind than %q (%s is there): start with the kind it was made with", dir, kind, other)
	}
	var back logBack
	var err error
	if kind == LogSeg {
		o.Seg.Logger = o.Logger
		back, err = openSegBack(segDir, o.Seg)
	} else {
		back, err = openBoltBack(boltFile)
	}
	if err != nil {
		return nil, err
	}
	s := &LogStore{back: back, log: o.Logger, covered: o.Covered, needed: o.Needed, neededBytes: o.NeededBytes, holdBytes: o.HoldBytes}
	s.cache.init(o.CacheBytes, o.IdleRelease)
	s.ahead.init(o.AheadBytes, o.IdleRelease)
	if b, ok := back.(*segBack); ok {
		s.ahead.read, s.ahead.limit = b.run, s.coldLimit
	}
	return s, nil
}

// coldLimit is the first entry that need not be read from the files: the cache has it, or there is none.
func (s *LogStore) coldLimit() uint64 {
	if first := s.cache.first(); first != 0 {
		return first
	}
	return s.back.last() + 1
}

// IsMonotonic is false; see the type.
func (s *LogStore) IsMonotonic() bool { return false }

// FirstIndex is the index of the oldest entry, 0 if there is none.
func (s *LogStore) FirstIndex() (uint64, error) { return s.back.first(), nil }

// LastIndex is the index of the newest entry, 0 if there is none.
func (s *LogStore) LastIndex() (uint64, error) { return s.back.last(), nil }

// GetLog reads one entry; raft.ErrLogNotFound if it is not there.
func (s *LogStore) GetLog(index uint64, out *raft.Log) error {
	if s.cache.get(index, out) {
		return nil
	}
	ok, epoch, err := s.ahead.get(index, out)
	if ok {
		return err
	}
	if err := s.back.get(index, out); err != nil {
		return err
	}
	s.ahead.note(out, epoch)
	return nil
}

// StoreLog is StoreLogs of one.
func (s *LogStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends logs, durably. An append that leaves a gap drops all older entries first.
func (s *LogStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.back.last(); last != 0 && logs[0].Index > last+1 {
		if err := s.skipGap(last, logs[0].Index); err != nil {
			return err
		}
	}
	if err := s.back.append(logs); err != nil {
		return err
	}
	s.cache.add(logs)
	if s.parked != 0 && s.overdue() {
		return s.deleteParked()
	}
	return nil
}

// overdue tells whether the log has become too great for what was put off to be put off any longer. A cut has to be worth its write.
func (s *LogStore) overdue() bool {
	if s.holds > 0 {
		return s.tooGreat()
	}
	limit := s.neededBytes() // something was put off, so it is there
	return s.back.bytesSince(0) > limit+limit/16
}

// tooGreat tells whether the log has outgrown what is kept for a replica that copies: that one then misses entries at the end of its
// copy, is sent a newer snapshot and copies what changed since.
func (s *LogStore) tooGreat() bool {
	size := s.back.bytesSince(0)
	if size <= s.holdBytes {
		return false
	}
	s.log.Warn("the log that is kept for a replica that copies has become too long and is cut; the copy will have to go over what changed meanwhile", "bytes", size, "limit", s.holdBytes)
	return true
}

// Agree removes the entries up to index, which a snapshot covers, unless the log has the snapshot's last entry, of that term: then all before it are the
// same as everybody's. Else they may be of a leader that never got a majority for them. Raft keeps them behind a snapshot that it was sent; this node
// would hand them on, as a leader, to a follower that is behind, in the place of committed ones.
func (s *LogStore) Agree(index, term uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := s.back.first(), s.back.last()
	if first == 0 || first > index {
		return nil
	}
	if last >= index {
		var l raft.Log
		if err := s.back.get(index, &l); err != nil || l.Term == term {
			return err
		}
	}
	s.log.Info("log entries that may not be what the snapshot covers are removed", "first", first, "last", last, "snapshot", index)
	if last <= index {
		return s.reset()
	}
	s.parked = 0
	return s.cutFront(index + 1)
}

// reset removes all entries.
func (s *LogStore) reset() error {
	s.cache.drop()
	s.parked = 0
	defer s.ahead.dropAll()
	return s.back.deleteBack(s.back.first())
}

func (s *LogStore) skipGap(last, next uint64) error {
	if s.covered != nil && s.covered() < next-1 {
		return errors.New(errors.KindInvalid, "raft appends entry %d to a log that ends at %d, but the snapshot only reaches %d: this node must fetch its state anew", next, last, s.covered())
	}
	s.log.Info("the log begins anew behind a snapshot", "oldLast", last, "next", next)
	return s.reset()
}

// DeleteRange removes the entries min..max, which must reach an end of the log.
// A removal at the front while holds are out is put off until the last is released.
func (s *LogStore) DeleteRange(min, max uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := s.back.first(), s.back.last()
	switch {
	case first == 0 || min > max || max < first || min > last:
		return nil
	case max >= last:
		from := maxOf(min, first)
		s.cache.dropFrom(from)
		defer s.ahead.dropAll()
		return s.back.deleteBack(from)
	case min <= first:
		if s.holds > 0 && !s.tooGreat() {
			s.parked = maxOf(s.parked, max+1)
			return nil
		}
		return s.deleteFront(maxOf(s.parked, max+1))
	}
	return errors.New(errors.KindInvalid, "delete log entries %d to %d out of the middle of %d to %d: a log has no holes", min, max, first, last)
}

// deleteFront removes the entries below before; those that others need are put off.
func (s *LogStore) deleteFront(before uint64) error {
	s.parked = 0
	if last := s.back.last(); before > last { // the rest was truncated meanwhile: raft removes it when it asks again
		before = last
	}
	if from := s.neededFrom(before); from < before {
		s.parked, before = before, from
	}
	if before <= s.back.first() {
		return nil
	}
	return s.cutFront(before)
}

// cutFront removes the entries below before.
func (s *LogStore) cutFront(before uint64) error {
	s.cache.dropBefore(before)
	defer s.ahead.dropBefore(before)
	return s.back.deleteFront(before)
}

// neededFrom tells the first entry below before that others need and that the log has room for, before if there is none.
func (s *LogStore) neededFrom(before uint64) uint64 {
	if s.needed == nil {
		return before
	}
	oldest := s.back.last() + 1 - s.TrailingFor(s.neededBytes())
	if oldest >= before {
		return before
	}
	return min(before, s.needed(oldest))
}

// Trim removes what was put off because others needed it and is needed no more. It tells the bytes of what is left of that; done is false, and
// nothing was looked at, while entries are being written: it does not wait for the disk.
func (s *LogStore) Trim() (spare int64, done bool) {
	if !s.mu.TryLock() {
		return 0, false
	}
	defer s.mu.Unlock()
	if s.holds == 0 && s.parked != 0 {
		if err := s.deleteParked(); err != nil {
			s.log.Error("removing log entries failed", "err", err) // a dead log fails the next append, too
		}
	}
	return s.spare(), true
}

// spare is the size in bytes of the entries that are kept only until nobody needs them, or the space is. Called with mu held.
func (s *LogStore) spare() int64 {
	if s.holds > 0 || s.parked == 0 {
		return 0
	}
	return s.back.bytesSince(0) - s.back.bytesSince(s.parked)
}

// HoldDeletes keeps entries from being removed at the front (a replica that is being copied
// to will need them) until release is called, or the log is greater than LogOptions.HoldBytes; release may be called more than once. A removal of
// all entries is not held: it may be that of a conflicting tail, which raft must see done.
func (s *LogStore) HoldDeletes() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds++
	var once sync.Once
	return func() { once.Do(s.release) }
}

func (s *LogStore) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds--
	if s.holds > 0 || s.parked == 0 {
		return
	}
	if err := s.deleteParked(); err != nil {
		s.log.Error("removing log entries failed", "err", err) // a dead log fails the next append, too
	}
}

// deleteParked makes the deletion that was put off.
func (s *LogStore) deleteParked() error {
	if s.back.first() == 0 {
		s.parked = 0
		return nil
	}
	return s.deleteFront(s.parked)
}

// Bytes is the size of the log in bytes, as it stands on disk.
func (s *LogStore) Bytes() int64 { return s.back.bytesSince(0) }

// DiskBytes is what the log's files take, those kept for later use too.
func (s *LogStore) DiskBytes() int64 { return s.back.diskBytes() }

// BytesSince is the size in bytes of the entries from index on, as they stand on disk.
func (s *LogStore) BytesSince(index uint64) int64 { return s.back.bytesSince(index) }

// TrailingFor tells how many of the newest entries fit into bytes: what to set as raft's TrailingLogs.
func (s *LogStore) TrailingFor(bytes int64) uint64 {
	first, last := s.back.first(), s.back.last()
	if first == 0 {
		return 0
	}
	n := last - first + 1
	return n - uint64(sort.Search(int(n), func(i int) bool { return s.back.bytesSince(first+uint64(i)) <= bytes }))
}

// SegStats tells the figures of a seglog; ok is false for other kinds.
func (s *LogStore) SegStats() (st seglog.Stats, ok bool) {
	b, ok := s.back.(*segBack)
	if ok {
		st = b.log.Stats()
	}
	return st, ok
}

// CacheBytes tells the bytes of entries in memory.
func (s *LogStore) CacheBytes() int64 { return s.cache.size() + s.ahead.size() }

// Close closes the log. Calls after it fail.
func (s *LogStore) Close() error {
	s.cache.close()
	s.ahead.close()
	return s.back.close()
}

func maxOf(a, b uint64) uint64 { // the builtin is shadowed by parameter names of raft's interface
	if a > b {
		return a
	}
	return b
}
