package fs

import (
	"context"
	"sync"
)

// ilock is the local readers-writer lock of one inode: cluster locks are held
// by the session, so operations of one server exclude each other here. FIFO, so
// that a writer is not starved; waiting ends with the context.
// An operation never takes the same ilock twice.
type ilock struct {
	mu      sync.Mutex
	readers int
	writer  bool
	queue   []*iwaiter
}

type iwaiter struct {
	exclusive bool
	granted   chan struct{}
}

// lock takes the lock; it returns ctx's error if that ends first.
func (l *ilock) lock(ctx context.Context, exclusive bool) error {
	l.mu.Lock()
	if len(l.queue) == 0 && l.free(exclusive) {
		l.take(exclusive)
		l.mu.Unlock()
		return nil
	}
	w := &iwaiter{exclusive, make(chan struct{})}
	l.queue = append(l.queue, w)
	l.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.queue {
		if q == w {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			l.grant()
			return ctx.Err()
		}
	}
	return nil // granted meanwhile
}

// tryLock takes the lock if that needs no waiting.
func (l *ilock) tryLock(exclusive bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 || !l.free(exclusive) {
		return false
	}
	l.take(exclusive)
	return true
}

// unlock undoes one lock of the same mode.
func (l *ilock) unlock(exclusive bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if exclusive {
		if !l.writer {
			panic("fs: unlock of an inode that is not locked exclusive")
		}
		l.writer = false
	} else {
		if l.readers <= 0 {
			panic("fs: unlock of an inode that is not locked shared")
		}
		l.readers--
	}
	l.grant()
}

func (l *ilock) free(exclusive bool) bool {
	return !l.writer && (!exclusive || l.readers == 0)
}

func (l *ilock) take(exclusive bool) {
	if exclusive {
		l.writer = true
	} else {
		l.readers++
	}
}

// grant hands the lock to the waiters at the head of the queue that fit.
func (l *ilock) grant() {
	for len(l.queue) > 0 && l.free(l.queue[0].exclusive) {
		l.take(l.queue[0].exclusive)
		close(l.queue[0].granted)
		l.queue = l.queue[1:]
	}
}
