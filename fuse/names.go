package fuse

import (
	"sync"
	"time"
)

// ledgerMax bounds the names remembered, over all directories; beyond it names are handed out
// with timeout 0, which need no memory.
const ledgerMax = 1 << 20

// ledger remembers which names of which directories a kernel may hold valid,
// and until when, so that a revoke of a directory can expire exactly those.
//
// Invariant: a name handed out with a timeout is in the ledger before its
// reply is written, or the reply's timeout is 0.
type ledger struct {
	mu    sync.Mutex
	dirs  map[uint64]*dirNames
	count int
	drops uint64 // drops so far, over all directories and inodes

	dropped map[uint64]uint64 // inode -> value of drops at its last DropAttr, while requests older than that are in flight
	active  map[uint64]int    // value of drops at a request's start -> requests
}

type dirNames struct {
	until map[string]time.Time // when the kernel's copy runs out by itself
}

func newLedger() *ledger {
	return &ledger{dirs: map[uint64]*dirNames{}, dropped: map[uint64]uint64{}, active: map[uint64]int{}}
}

// begin marks the start of a request; the mark is for offer, fresh and end.
func (l *ledger) begin() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active[l.drops]++
	return l.drops
}

// end forgets the request.
func (l *ledger) end(mark uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active[mark]--; l.active[mark] <= 0 {
		delete(l.active, mark)
		l.prune()
	}
}

// prune forgets drops that are older than every request in flight.
func (l *ledger) prune() {
	if len(l.dropped) == 0 {
		return
	}
	oldest := l.drops
	for mark := range l.active {
		oldest = min(oldest, mark)
	}
	for ino, at := range l.dropped {
		if at <= oldest {
			delete(l.dropped, ino)
		}
	}
}

// offer records that name of dir is about to be handed out for ttl, in the
// reply of the request that began at mark, and returns ttl, or 0 if it must not be
// cached: the directory was dropped since, or the ledger is full.
func (l *ledger) offer(mark, dir uint64, name string, ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[dir] > mark {
		return 0
	}
	d := l.dirs[dir]
	if d == nil {
		d = &dirNames{until: map[string]time.Time{}}
		l.dirs[dir] = d
	}
	if _, known := d.until[name]; !known {
		if l.count >= ledgerMax {
			return 0
		}
		l.count++
	}
	d.until[name] = time.Now().Add(ttl)
	return ttl
}

// fresh returns ttl if the attributes of ino were not dropped since mark, else 0.
func (l *ledger) fresh(mark, ino uint64, ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[ino] > mark {
		return 0
	}
	return ttl
}

// drop marks the attributes of ino as dropped for all requests in flight.
func (l *ledger) drop(ino uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(ino)
}

func (l *ledger) dropLocked(ino uint64) {
	l.drops++
	if len(l.active) > 0 {
		l.dropped[ino] = l.drops
	}
}

// take removes and returns the names of dir that a kernel may still hold, and the
// latest time at which one of them runs out by itself. From now on nothing of requests in flight is handed out with a timeout.
func (l *ledger) take(dir uint64) (names []string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(dir)
	d := l.dirs[dir]
	if d == nil {
		return nil, time.Time{}
	}
	now := time.Now()
	for name, t := range d.until {
		if t.After(now) {
			names = append(names, name)
		}
		if t.After(until) {
			until = t
		}
	}
	l.count -= len(d.until)
	delete(l.dirs, dir)
	return names, until
}

// sweep removes what has run out.
func (l *ledger) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir, d := range l.dirs {
		for name, t := range d.until {
			if !t.After(now) {
				delete(d.until, name)
				l.count--
			}
		}
		if len(d.until) == 0 {
			delete(l.dirs, dir)
		}
	}
}
