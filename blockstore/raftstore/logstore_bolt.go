package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"dfs/internal/errors"
)

// boltBack keeps the entries in raft-boltdb. Sizes are those of the entries: the database does not tell its
// own, so they are counted by reading all entries once when it is opened.
type boltBack struct {
	db *raftboltdb.BoltStore

	mu   sync.RWMutex
	base uint64 // index of sums[0]; with no sums the log is empty
	sums []int64
	gone int64 // sum before sums[0]
}

var _ logBack = (*boltBack)(nil)

// boltEntryBytes is about what raft-boltdb adds to an entry's data.
const boltEntryBytes = 100

func openBoltBack(file string) (*boltBack, error) {
	db, err := raftboltdb.New(raftboltdb.Options{Path: file,
		BoltOptions: &bbolt.Options{Timeout: 5 * time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}})
	if err != nil {
		return nil, errors.New(errors.KindIO, "open the log %s (is another process using it?): %w", file, err)
	}
	b := &boltBack{db: db}
	if err := b.count(); err != nil {
		_ = db.Close()
		return nil, errors.New(errors.KindIO, "read the log %s: %w", file, err)
	}
	return b, nil
}

func (b *boltBack) count() error {
	first, err := b.db.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := b.db.LastIndex()
	if err != nil {
		return err
	}
	b.base = first
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := b.db.GetLog(i, &l); err != nil {
			return err
		}
		b.note(&l)
	}
	return nil
}

// note adds the size of the next entry.
func (b *boltBack) note(l *raft.Log) {
	sum := b.gone
	if n := len(b.sums); n > 0 {
		sum = b.sums[n-1]
	}
	b.sums = append(b.sums, sum+int64(len(l.Data)+len(l.Extensions)+boltEntryBytes))
}

func (b *boltBack) first() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(b.sums) == 0 {
		return 0
	}
	return b.base
}

func (b *boltBack) last() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(b.sums) == 0 {
		return 0
	}
	return b.base + uint64(len(b.sums)) - 1
}

func (b *boltBack) get(index uint64, out *raft.Log) error { return b.db.GetLog(index, out) }

func (b *boltBack) append(logs []*raft.Log) error {
	want := b.last() + 1
	if want == 1 {
		want = logs[0].Index
	}
	for i, l := range logs {
		if l.Index != want+uint64(i) {
			return errors.New(errors.KindInvalid, "append to the log: index %d where %d is next", l.Index, want+uint64(i))
		}
	}
	if err := b.db.StoreLogs(logs); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sums) == 0 {
		b.base, b.gone = logs[0].Index, 0
	}
	for _, l := range logs {
		b.note(l)
	}
	return nil
}

func (b *boltBack) deleteFront(before uint64) error {
	first, last := b.first(), b.last()
	if first == 0 || before <= first {
		return nil
	}
	before = min(before, last+1)
	if err := b.db.DeleteRange(first, before-1); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := before - first
	b.gone = b.sums[n-1]
	b.sums = append([]int64(nil), b.sums[n:]...)
	b.base = before
	return nil
}

func (b *boltBack) deleteBack(from uint64) error {
	first, last := b.first(), b.last()
	if first == 0 || from > last {
		return nil
	}
	from = max(from, first)
	if err := b.db.DeleteRange(from, last); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sums = b.sums[:from-first]
	return nil
}

func (b *boltBack) diskBytes() int64 { return b.bytesSince(0) }

func (b *boltBack) bytesSince(index uint64) int64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	n := len(b.sums)
	switch {
	case n == 0 || index >= b.base+uint64(n):
		return 0
	case index <= b.base:
		return b.sums[n-1] - b.gone
	}
	return b.sums[n-1] - b.sums[index-b.base-1]
}

func (b *boltBack) close() error { return b.db.Close() }
