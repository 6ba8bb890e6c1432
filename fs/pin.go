package fs

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// LOCK ORDER. The session of a thin client, while a request of its is done, before all others (its cluster lock; its ilock is taken last of all,
// by a commit: see once.go). For every inode an operation takes first the cluster lock (a pin of the clerk), then the
// node's ilock; inodes in ascending order of number; lockserver.LockRename before every inode. While it waits for
// a lock it holds only those below. Under these come, each alone and never held while waiting for the
// cluster: revocation.mu, session.commitMu, cache.mu, presence.mu, handle mutexes, nodeTable.mu.
//
// Exclusive use of an inode takes the pin Exclusive and the ilock exclusive; shared
// use takes the ilock shared and the pin Shared or (reads through a writable handle) Exclusive.

// revocation is a node's side of a revoke under way (see revoke.go).
type revocation struct {
	mu       sync.Mutex
	serving  bool            // operations that the old mode allows are still admitted, without a pin
	only     []span          // not nil: only those that touch these bytes
	admitted int             // of them, not finished
	drained  chan struct{}   // closed when admitted falls to 0 after serving ended
	waiters  map[*waiter]int // operations waiting in Clerk.Acquire
	served   []span          // byte ranges whose pages were filled or changed by operations under the revoke
	parked   chan struct{}   // closed when an operation that holds pages begins to wait; nil: nobody looks
	writes   []*pendingWrite // see pages.go, as the next
	fills    []fill
	settled  time.Time     // when something for which the kernel has the inode locked was last done
	handed   [2]time.Time  // the last times that the lock was taken away while the file was in use here, newest first
	filled   atomic.Int64  // when pages were filled last, unix nanoseconds
	held     atomic.Uint32 // greatest mode pinned since the last revoke
	noting   atomic.Bool   // a revoke is near or under way: note the ranges, answer uncacheable
	prepared atomic.Uint32 // 0: PrepareRevoke was not called for it; else 1 + the mode that it was told
}

type waiter struct {
	use
	cancel context.CancelFunc
	again  bool // cancelled in order to be admitted
	never  bool // waits for something else than the lock
}

// span is a byte range [from, to).
type span struct{ from, to uint64 }

// use says how an operation uses an inode.
type use struct {
	ino       uint64
	exclusive bool            // of the ilock
	mode      lockserver.Mode // of the pin; 0: Exclusive or Shared as exclusive says
	io        span            // bytes whose pages a Read or Write touches
	kind      ioUse
}

// ioUse says what the kernel has of the pages of use.io while the operation waits.
type ioUse uint8

const (
	ioNone      ioUse = iota
	ioFill            // all are locked and not up to date
	ioWrite           // one may be locked, and is then not up to date
	ioPast            // none: they were dropped before
	ioWriteBack       // all are up to date, and were dirty
	// ioTruncate: the kernel sends no write-back until it is answered, so no drop of a dirty page ends before. It has no bytes.
	ioTruncate
)

func shared(ino uint64) use    { return use{ino: ino} }
func exclusive(ino uint64) use { return use{ino: ino, exclusive: true} }

// leaves are the bytes whose pages the kernel has afterwards because of the operation.
func (u use) leaves() span {
	if u.kind == ioFill || u.kind == ioWrite {
		return u.io
	}
	return span{}
}

// holds reports whether the kernel may have pages of u.io locked.
func (u use) holds() bool {
	return u.io.to > u.io.from && (u.kind == ioFill || u.kind == ioWrite || u.kind == ioWriteBack)
}

func (u use) pinMode() lockserver.Mode {
	switch {
	case u.mode != lockserver.None:
		return u.mode
	case u.exclusive:
		return lockserver.Exclusive
	}
	return lockserver.Shared
}

// pin is a lock that an operation holds.
type pin struct {
	n         *node
	exclusive bool
	admitted  bool
	io        span
}

// pins are the locks that an operation holds.
type pins struct {
	ss   *session
	list []pin
	arr  [4]pin
}

// lock takes the locks of an operation: the one helper that orders them and removes
// doubles (the stronger wins). Zero inode numbers are left out. On error nothing is held.
func (ss *session) lock(ctx context.Context, p *pins, uses ...use) error {
	var arr [8]use
	sorted := arr[:0]
next:
	for _, u := range uses {
		if u.ino == 0 {
			continue
		}
		for i := range sorted {
			if sorted[i].ino == u.ino {
				sorted[i].exclusive = sorted[i].exclusive || u.exclusive
				sorted[i].mode, sorted[i].kind = max(sorted[i].pinMode(), u.pinMode()), max(sorted[i].kind, u.kind)
				continue next
			}
		}
		sorted = append(sorted, u)
	}
	for i := 1; i < len(sorted); i++ {
		for j := i; j > 0 && sorted[j].ino < sorted[j-1].ino; j-- {
			sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
		}
	}
	p.ss = ss
	if p.list == nil {
		p.list = p.arr[:0]
	}
	if len(sorted) > 1 {
		if err := ss.warm(ctx, sorted); err != nil {
			return err
		}
	}
	for _, u := range sorted {
		if err := ss.lockOne(ctx, p, u); err != nil {
			p.unlock()
			return err
		}
	}
	return nil
}

// warm fetches locks that are not held in one message. They are pinned one by one
// afterwards, because a pin is taken only after the ilock of the inode before it.
func (ss *session) warm(ctx context.Context, uses []use) error {
	var reqs []lockserver.Request
	for _, u := range uses {
		if ss.be.Clerk.Held(lockserver.LockID(u.ino)) < u.pinMode() {
			reqs = append(reqs, lockserver.Request{ID: lockserver.LockID(u.ino), Mode: u.pinMode()})
		}
	}
	if len(reqs) < 2 {
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	if err := ss.be.Clerk.Acquire(bctx, reqs...); err != nil {
		return ss.waited(ctx, err, "waiting for locks")
	}
	ids := make([]lockserver.LockID, len(reqs))
	for i, r := range reqs {
		ids[i] = r.ID
	}
	ss.be.Clerk.Unpin(ids...)
	return nil
}

func (ss *session) lockOne(ctx context.Context, p *pins, u use) error {
	n := ss.node(u.ino)
	admitted, err := ss.pinOne(ctx, n, u)
	if err != nil {
		ss.put(n)
		return err
	}
	if err := ss.lockLocal(ctx, n, u.exclusive); err != nil {
		ss.unpin(pin{n: n, admitted: admitted})
		ss.put(n)
		return err
	}
	p.list = append(p.list, pin{n, u.exclusive, admitted, u.leaves()})
	return nil
}

func (ss *session) lockLocal(ctx context.Context, n *node, exclusive bool) error {
	if n.lk.tryLock(exclusive) {
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	return ss.waited(ctx, n.lk.lock(bctx, exclusive), "waiting for another operation on the file")
}

// pinOne pins the cluster lock, or is admitted under a revoke that still serves. Who changed the inode when its lock was here last, and
// begins with a look at it now, is likely to change it again, as one who makes names in a directory that others use: the lock
// is asked for in the mode that spares a second hand-over.
func (ss *session) pinOne(ctx context.Context, n *node, u use) (admitted bool, err error) {
	mode, clerk := u.pinMode(), ss.be.Clerk
	req := lockserver.Request{ID: n.id(), Mode: mode}
	if clerk.TryAcquire(req) {
		n.rv.note(mode)
		return false, nil
	}
	if n.intent.Load() && clerk.Held(n.id()) == lockserver.None {
		mode = lockserver.Exclusive
		req.Mode = mode // a revoke admits it still in the mode that it needs
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	for {
		wctx, wcancel := context.WithCancel(bctx)
		w := &waiter{use: u, cancel: wcancel}
		if n.rv.admitOrWait(w) {
			wcancel()
			return true, nil
		}
		err := clerk.Acquire(wctx, req)
		again := n.rv.stopWaiting(w)
		wcancel()
		if err == nil {
			n.rv.note(mode)
			return false, nil
		}
		if !again || bctx.Err() != nil || errors.Is(err, errors.KindSessionEnded) {
			return false, ss.waited(ctx, err, "waiting for a lock")
		}
	}
}

// note raises the mode that is known to be held. The first pin of a grant may come here only after a revoke of it has begun to serve,
// and others, which were not let in while less was known to be held, wait by then: they are told.
func (rv *revocation) note(mode lockserver.Mode) {
	for {
		old := rv.held.Load()
		if uint32(mode) <= old {
			return
		}
		if rv.held.CompareAndSwap(old, uint32(mode)) {
			break
		}
	}
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.tellLocked()
}

// admits reports whether an operation of this mode is served under the revoke under way.
func (rv *revocation) admits(w *waiter) bool {
	if w.never || !rv.serving || uint32(w.pinMode()) > rv.held.Load() {
		return false
	}
	switch {
	case rv.only == nil || w.kind == ioTruncate:
		return true
	case w.kind == ioFill:
		return false // it is not in the way: see dropPages
	}
	p := w.io.pages()
	for _, s := range rv.only {
		if s = s.pages(); s.from < p.to && p.from < s.to {
			return true
		}
	}
	return false
}

// pages is the range widened to whole pages.
func (s span) pages() span {
	return span{s.from / blockSize * blockSize, (s.to + blockSize - 1) / blockSize * blockSize}
}

func (rv *revocation) admitOrWait(w *waiter) (admitted bool) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	if rv.admits(w) {
		rv.admitted++
		return true
	}
	rv.waitLocked(w)
	return false
}

func (rv *revocation) waitLocked(w *waiter) {
	if rv.waiters == nil {
		rv.waiters = map[*waiter]int{}
	}
	rv.waiters[w] = 1
	if rv.parked != nil && w.holds() {
		close(rv.parked)
		rv.parked = nil
	}
}

func (rv *revocation) stopWaiting(w *waiter) (again bool) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	delete(rv.waiters, w)
	return w.again
}

// unpin undoes pinOne.
func (ss *session) unpin(p pin) {
	rv := &p.n.rv
	if !p.admitted {
		if p.io.to > p.io.from && rv.noting.Load() {
			rv.mu.Lock()
			rv.served = append(rv.served, p.io)
			rv.mu.Unlock()
		}
		ss.be.Clerk.Unpin(p.n.id())
		return
	}
	rv.mu.Lock()
	defer rv.mu.Unlock()
	if p.io.to > p.io.from {
		rv.served = append(rv.served, p.io)
	}
	if rv.admitted--; rv.admitted == 0 && !rv.serving && rv.drained != nil {
		close(rv.drained)
		rv.drained = nil
	}
}

// unlock lets everything go, in reverse order.
func (p *pins) unlock() {
	for i := len(p.list) - 1; i >= 0; i-- {
		l := p.list[i]
		l.n.lk.unlock(l.exclusive)
		p.ss.unpin(l)
		p.ss.put(l.n)
		p.list[i] = pin{}
	}
	p.list = p.list[:0]
}

// of returns the node of ino among the locks held.
func (p *pins) of(ino uint64) *node {
	for i := range p.list {
		if p.list[i].n.ino == ino {
			return p.list[i].n
		}
	}
	panic("fs: inode is not locked by this operation")
}

// cacheable reports whether what is answered about ino may be kept by the kernel: its lock is pinned, not merely admitted.
func (p *pins) cacheable(ino uint64) bool {
	for i := range p.list {
		if p.list[i].n.ino == ino {
			return !p.list[i].admitted && !p.list[i].n.rv.noting.Load()
		}
	}
	return false
}
