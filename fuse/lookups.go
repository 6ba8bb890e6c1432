package fuse

import "sync"

// lookupsMax bounds the inodes that are counted, some 20 bytes each. The kernel spends fifty times that on what it knows.
const lookupsMax = 1 << 22

// lookups counts, for each inode, the answers that named it and that the kernel has not forgotten yet, as the kernel itself does. So of
// an inode that the kernel does not have it tells whether an answer is on its way.
type lookups struct {
	mu   sync.Mutex
	left map[uint64]uint64 // answers not forgotten yet; no entry: none, or not counted
	full bool              // some were not counted
}

func newLookups() *lookups { return &lookups{left: map[uint64]uint64{}} }

// named is called before an answer that names ino is written.
func (l *lookups) named(ino uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, counted := l.left[ino]; counted || len(l.left) < lookupsMax {
		l.left[ino] = n + 1
	} else {
		l.full = true
	}
}

// forgotten takes n answers off.
func (l *lookups) forgotten(ino, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := l.left[ino]; left > n {
		l.left[ino] = left - n
	} else {
		delete(l.left, ino)
	}
}

// any reports whether the kernel has, or will have, heard of ino.
func (l *lookups) any(ino uint64) bool { return l.looks(ino) > 0 }

// looks is how often to look, a millisecond apart, whether the kernel has heard of ino by now: not at all if it will not, and less long
// where that is not known.
func (l *lookups) looks(ino uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.left[ino] > 0:
		return settleUnknown
	case l.full:
		return settleUncounted
	}
	return 0
}
