package lockserver

import (
	"context"
	"time"
)

// grantLocked takes a grant. One that is not newer than the last seen is a
// late duplicate; the lock it names may be another's by now.
func (c *SessionClerk) grantLocked(g Grant) {
	if g.Number <= c.newest {
		return
	}
	c.newest = g.Number
	l := c.entryLocked(g.ID)
	if l.number == 0 {
		c.giveLocked(g.ID)
	}
	l.mode, l.number, l.minIndex = g.Mode, g.Number, max(l.minIndex, g.MinIndex)
	l.elsewhere, l.toldOpen, l.granted = g.Open, false, time.Now()
	if l.asked <= g.Mode {
		l.asked = None
	}
	if l.age == nil {
		l.age = c.table.held.PushBack(l)
	}
	c.serveLocked(l)
	c.evictLocked()
}

// giveLocked notes that id is not held by its range any more.
func (c *SessionClerk) giveLocked(id LockID) {
	if r := c.rangeOf(id); r != nil {
		r.given.set(uint64(id)-r.First, r.Count)
	}
}

// revokeLocked takes a revoke. One that does not name the grant that is held is
// late: what it wanted has been done.
func (c *SessionClerk) revokeLocked(r Revoke) {
	l := c.table.locks[r.ID]
	if l == nil {
		switch {
		case r.Number != 0:
			return
		case c.implicit(r.ID):
			l = c.entryLocked(r.ID)
		case c.rangeOf(r.ID) == nil:
			// Of a range that is taken but not told to us yet: nothing in it is in use.
			if _, given := c.table.early[r.ID]; given || len(c.table.early) >= 1<<16 {
				return
			}
			l = c.entryLocked(r.ID)
			l.mode = Exclusive
		default:
			return
		}
	}
	if l.number != r.Number || l.mode <= r.To {
		return
	}
	c.startRevokeLocked(l, r.To)
}

func (c *SessionClerk) startRevokeLocked(l *clerkLock, to Mode) {
	if l.revoke != revokeNone {
		if l.revoke != revokeRunning {
			l.to = min(l.to, to)
		} else if to < l.to {
			l.again = true
		}
		return
	}
	l.revoke, l.to, l.again = revokeLingering, to, false
	h := c.holder
	c.wg.Go(func() { c.giveUp(l, h) })
}

// GiveBack lets a lock go unasked.
func (c *SessionClerk) GiveBack(ctx context.Context, id LockID) error {
	c.mu.Lock()
	l := c.table.locks[id]
	if c.ended != nil || c.closing || l == nil || l.mode == None {
		defer c.mu.Unlock()
		return c.refusedLocked()
	}
	number := l.number
	c.startRevokeLocked(l, None)
	c.mu.Unlock()
	return c.waitFor(ctx, func() bool { return l.mode == None || l.number != number })
}

// giveUp runs one revoke: linger, prepare, drain the pins, have the holder commit and
// drop, release.
func (c *SessionClerk) giveUp(l *clerkLock, h Holder) {
	var at [5]time.Time // the ends of the steps
	at[0] = time.Now()
	c.mu.Lock()
	if l.revoke == revokeLingering {
		c.linger(l)
		l.revoke = revokePreparing
	}
	to := l.to
	c.mu.Unlock()
	at[1] = time.Now()
	if p, ok := h.(RevokePreparer); ok {
		p.PrepareRevoke(l.id, to)
	}
	for again := true; again; {
		at[2] = time.Now()
		if to, again = c.drain(l); !again {
			return
		}
		at[3] = time.Now()
		index, open, err := uint64(0), false, error(nil)
		for h != nil {
			if index, open, err = h.Revoke(l.id, to); err == nil {
				break
			}
			c.o.Logger.Error("a lock could not be given up", "lock", l.id, "error", err)
			if !sleep(c.ctx, 100*time.Millisecond) {
				return
			}
		}
		at[4] = time.Now()
		again = c.released(l, to, index, open)
		c.o.Logger.Debug("a lock is given up", "lock", l.id, "to", to, "lingered", at[1].Sub(at[0]), "prepared", at[2].Sub(at[1]),
			"drained", at[3].Sub(at[2]), "revoked", at[4].Sub(at[3]))
	}
}

// drain waits until no pin is left and lets no new ones in; it returns the
// mode that may remain, and false if the session ends meanwhile.
func (c *SessionClerk) drain(l *clerkLock) (Mode, bool) {
	c.mu.Lock()
	l.revoke = revokeDraining
	for l.pins > 0 {
		if l.drained == nil {
			l.drained = make(chan struct{})
		}
		drained := l.drained
		c.mu.Unlock()
		select {
		case <-drained:
		case <-c.done:
			return None, false
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	l.revoke = revokeRunning
	if l.to > None {
		c.serveLocked(l)
	}
	return l.to, true
}

// released notes what the holder gave up and tells it: now if the session is attached,
// with the claims otherwise. It reports whether more is to be given up.
func (c *SessionClerk) released(l *clerkLock, to Mode, index uint64, open bool) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.floor = max(c.table.floor, index)
	if l.number == 0 {
		if c.rangeOf(l.id) == nil {
			c.table.early[l.id] = struct{}{}
		}
		c.giveLocked(l.id)
	}
	l.mode, l.toldOpen, l.relIndex = to, open && to == None, max(l.relIndex, index)
	if c.conn != nil && c.conn.attached {
		c.tellReleaseLocked(l)
	} else {
		l.untold = l.untold || l.number == 0
	}
	switch {
	case to == None && l.age != nil:
		c.table.held.Remove(l.age)
		l.age = nil
	case to != None && l.age == nil:
		l.age = c.table.held.PushBack(l) // was held by its range
	}
	if l.again && to > None {
		l.again, l.to = false, None
		return true
	}
	l.revoke = revokeNone
	c.serveLocked(l)
	c.tidyLocked(l)
	return false
}

func (c *SessionClerk) tellReleaseLocked(l *clerkLock) {
	c.out.Releases = append(c.out.Releases, Release{ID: l.id, Epoch: c.epoch, Number: l.number, To: l.mode, Index: l.relIndex, Open: l.toldOpen})
	l.relIndex, l.untold = 0, false
	wake(c.wake)
}

// evictLocked gives locks back that were not used for long, while there are
// too many.
func (c *SessionClerk) evictLocked() {
	const atOnce, looks = 64, 16
	t := &c.table
	for n := 0; t.held.Len()-t.evicts > c.o.LocksMax && t.evicts < atOnce && n < looks; n++ {
		e := t.held.Front()
		l := e.Value.(*clerkLock)
		t.held.MoveToBack(e)
		if l.used || l.pins > 0 || l.revoke != revokeNone || len(l.waiters) > 0 {
			l.used = false
			continue
		}
		t.evicts++
		l.revoke, l.to, l.again = revokePreparing, None, false
		h := c.holder
		c.wg.Go(func() {
			c.giveUp(l, h)
			c.mu.Lock()
			defer c.mu.Unlock()
			t.evicts--
			if c.ended == nil {
				c.evictLocked()
			}
		})
	}
}
