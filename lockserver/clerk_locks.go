package lockserver

import (
	"container/list"
	"context"
	"slices"
	"sort"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// revokeState is how far a revoke of a lock has come here.
type revokeState uint8

const (
	revokeNone revokeState = iota
	revokeLingering
	revokePreparing
	revokeDraining
	revokeRunning
)

// clerkLock is one lock that is held, waited for, or was told open.
type clerkLock struct {
	id      LockID
	mode    Mode
	revoke  revokeState
	to      Mode // of the revoke
	asked   Mode // asked of the server on this stream and not granted yet
	claimed Mode // in the claims that are not accepted yet
	elsewhere,
	toldOpen, // released, still open here
	untold, // of a range, given up while the claims, which do not name it, are not accepted
	again, // while the revoke ran, more was asked back
	used bool // pinned since it was looked at for eviction
	pins     int
	pinned   uint64    // how often, ever
	granted  time.Time // when the grant held came; zero: by a range, or by claims
	number   uint64    // of the grant; 0 implicit
	minIndex uint64
	relIndex uint64 // of a release that waits for the claims to be accepted
	waiters  []*lockWaiter
	drained  chan struct{} // closed at the last unpin; nil unless a revoke waits for it
	age      *list.Element
}

// lockWaiter is one Acquire that waits for one lock; it is pinned for it by
// whoever wakes it.
type lockWaiter struct {
	mode Mode
	err  error
	done chan struct{}
}

func (w *lockWaiter) finish(err error) {
	w.err = err
	close(w.done)
}

// heldRange is an inode range whose locks are held by being its owner's,
// but for those given up since.
type heldRange struct {
	blockstore.InodeRange
	given bitmap
}

func (c *SessionClerk) rangeOf(id LockID) *heldRange {
	rs := c.table.ranges
	i := sort.Search(len(rs), func(i int) bool { return rs[i].First > uint64(id) }) - 1
	if i < 0 || uint64(id)-rs[i].First >= rs[i].Count {
		return nil
	}
	return rs[i]
}

func (c *SessionClerk) implicit(id LockID) bool {
	r := c.rangeOf(id)
	return r != nil && !r.given.has(uint64(id)-r.First)
}

// entryLocked finds or makes the entry of id.
func (c *SessionClerk) entryLocked(id LockID) *clerkLock {
	l := c.table.locks[id]
	if l == nil {
		l = &clerkLock{id: id}
		if c.implicit(id) {
			l.mode = Exclusive
		}
		c.table.locks[id] = l
	}
	return l
}

// tidyLocked drops an entry that tells nothing.
func (c *SessionClerk) tidyLocked(l *clerkLock) {
	if l.pins > 0 || l.revoke != revokeNone || l.asked != None || l.claimed != None || l.toldOpen || l.untold || len(l.waiters) > 0 {
		return
	}
	if l.mode == None || l.mode == Exclusive && l.number == 0 && c.implicit(l.id) {
		delete(c.table.locks, l.id)
	}
}

// pinnable reports whether a pin of mode may be given out now.
func (l *clerkLock) pinnable(mode Mode) bool {
	if l.mode < mode {
		return false
	}
	switch l.revoke {
	case revokeDraining:
		return false
	case revokeRunning:
		return mode <= l.to
	}
	return true
}

func (l *clerkLock) pin() {
	l.pins++
	l.pinned++
	l.used = true
}

// TryAcquire pins a lock that is held already.
func (c *SessionClerk) TryAcquire(req Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.table.locks[req.ID]
	if l == nil {
		if !c.implicit(req.ID) {
			return false
		}
		l = c.entryLocked(req.ID)
	}
	if c.ended != nil || c.closing || l.revoke > revokeLingering || l.mode < req.Mode {
		return false
	}
	l.pin()
	return true
}

// Acquire pins all of reqs.
func (c *SessionClerk) Acquire(ctx context.Context, reqs ...Request) error {
	var few [8]Request
	list := inOrder(append(few[:0], reqs...))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refusedLocked(); err != nil {
		return err
	}
	if c.pinAllLocked(list) {
		return nil
	}
	c.prefetchLocked(list)
	for i, r := range list {
		if err := c.pinLocked(ctx, r); err != nil {
			for _, done := range list[:i] {
				c.unpinLocked(done.ID)
			}
			return err
		}
	}
	return nil
}

func (c *SessionClerk) refusedLocked() error {
	if c.ended != nil {
		return c.ended
	}
	if c.closing {
		return errors.New(errors.KindSessionEnded, "lock session %d is being closed", c.ses.Writer)
	}
	return nil
}

// inOrder sorts by the agreed order and joins doubles to their greater mode.
func inOrder(list []Request) []Request {
	if len(list) < 2 {
		return list
	}
	slices.SortFunc(list, func(a, b Request) int {
		switch {
		case a.ID.Before(b.ID):
			return -1
		case a.ID == b.ID:
			return int(b.Mode) - int(a.Mode)
		}
		return 1
	})
	return slices.CompactFunc(list, func(a, b Request) bool { return a.ID == b.ID })
}

// pinAllLocked pins all of list if none of it needs a message or waiting.
func (c *SessionClerk) pinAllLocked(list []Request) bool {
	for i, r := range list {
		l := c.table.locks[r.ID]
		if l == nil && c.implicit(r.ID) {
			l = c.entryLocked(r.ID)
		}
		if l == nil || !l.pinnable(r.Mode) {
			for _, done := range list[:i] {
				c.unpinLocked(done.ID)
			}
			return false
		}
		l.pin()
	}
	return true
}

// prefetchLocked asks for everything that is missing in one message. What
// comes is pinned in order only; until then it may be revoked again, so
// asking ahead can make no circle.
func (c *SessionClerk) prefetchLocked(list []Request) {
	for _, r := range list {
		if l := c.entryLocked(r.ID); l.mode < r.Mode && l.revoke == revokeNone {
			c.askLocked(l, r.Mode)
		}
		c.tidyLocked(c.table.locks[r.ID])
	}
}

// askLocked asks the server for l unless that has been done.
func (c *SessionClerk) askLocked(l *clerkLock, mode Mode) {
	if c.conn == nil || !c.conn.attached || l.asked >= mode || l.mode >= mode {
		return
	}
	l.asked = mode
	c.out.Acquires = append(c.out.Acquires, Request{l.id, mode})
	wake(c.wake)
}

// pinLocked pins one lock, waiting for it where it must; mu is let go meanwhile.
func (c *SessionClerk) pinLocked(ctx context.Context, r Request) error {
	l := c.entryLocked(r.ID)
	if l.pinnable(r.Mode) {
		l.pin()
		return nil
	}
	w := &lockWaiter{mode: r.Mode, done: make(chan struct{})}
	l.waiters = append(l.waiters, w)
	if l.revoke == revokeNone {
		c.askLocked(l, r.Mode)
	}
	var err error
	for waiting := true; waiting; {
		c.mu.Unlock()
		t := time.NewTimer(c.o.DeadlockAfter)
		select {
		case <-w.done:
			waiting, err = false, w.err
		case <-ctx.Done():
			waiting = false
			err = errors.New(errors.KindOf(ctx.Err()), "waiting for lock %d: %w", r.ID, ctx.Err())
		case <-t.C:
		}
		t.Stop()
		c.mu.Lock()
		if waiting && r.Mode == Exclusive && l.mode == Shared && l.pins > 0 && l.revoke == revokeDraining {
			waiting, err = false, errors.New(errors.KindDeadlock, "lock %d is pinned shared here, asked for exclusive, and revoked: let the pin go and acquire again", r.ID)
		}
	}
	return c.leaveLocked(l, w, err)
}

// leaveLocked takes w out of the queue unless it was served meanwhile.
func (c *SessionClerk) leaveLocked(l *clerkLock, w *lockWaiter, err error) error {
	select {
	case <-w.done:
		if w.err == nil && err != nil {
			c.unpinLocked(l.id) // it came together with the pin
		}
		if err == nil {
			err = w.err
		}
		return err
	default:
	}
	if i := slices.Index(l.waiters, w); i >= 0 {
		l.waiters = slices.Delete(l.waiters, i, i+1)
	}
	c.tidyLocked(l)
	return err
}

// serveLocked pins whoever waits for l and can be pinned now, in order, and
// asks the server for the rest.
func (c *SessionClerk) serveLocked(l *clerkLock) {
	most := None
	kept := l.waiters[:0]
	for _, w := range l.waiters {
		if l.pinnable(w.mode) {
			l.pin()
			w.finish(nil)
			continue
		}
		kept = append(kept, w)
		most = max(most, w.mode)
	}
	clear(l.waiters[len(kept):])
	l.waiters = kept
	if most > l.mode && l.revoke == revokeNone {
		c.askLocked(l, most)
	}
}

// Unpin undoes one pin of each.
func (c *SessionClerk) Unpin(ids ...LockID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.unpinLocked(id)
	}
}

func (c *SessionClerk) unpinLocked(id LockID) {
	l := c.table.locks[id]
	if l == nil || l.pins == 0 {
		if c.ended == nil {
			panic("lockserver: unpin of a lock that is not pinned")
		}
		return
	}
	if l.pins--; l.pins > 0 {
		return
	}
	if l.drained != nil {
		close(l.drained)
		l.drained = nil
	}
	if l.number == 0 {
		c.tidyLocked(l)
	}
}

// Held tells the mode in which id is held now.
func (c *SessionClerk) Held(id LockID) Mode {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return None
	}
	if l := c.table.locks[id]; l != nil {
		return l.mode
	}
	if c.implicit(id) {
		return Exclusive
	}
	return None
}

// MinIndex is the index that came with the lock.
func (c *SessionClerk) MinIndex(id LockID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.table.locks[id]; l != nil {
		return l.minIndex
	}
	return 0
}

// OpenElsewhere tells what came with the last grant.
func (c *SessionClerk) OpenElsewhere(id LockID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.table.locks[id]
	return l != nil && l.elsewhere
}

// OwnInodes adds a range.
func (c *SessionClerk) OwnInodes(r blockstore.InodeRange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := &heldRange{InodeRange: r}
	c.table.ranges = append(c.table.ranges, own)
	slices.SortFunc(c.table.ranges, func(a, b *heldRange) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	for id := range c.table.early {
		if c.rangeOf(id) == own {
			own.given.set(uint64(id)-r.First, r.Count)
			delete(c.table.early, id)
		}
	}
	for id, l := range c.table.locks {
		if l.mode == None && c.rangeOf(id) == own && c.implicit(id) {
			l.mode = Exclusive
			c.serveLocked(l)
		}
	}
}
