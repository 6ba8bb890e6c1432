package lockserver

import "time"

// A lock that is wanted elsewhere is worth keeping a little while its holder is in the midst of using it: what giving it up costs
// (a commit, the caches, two round trips) is then shared by many operations, as by tasks that append to one file or
// make files in one directory. Operations of one task come with pauses between them, so a lock without pins may still be
// in use; and one that is passed to and fro, an operation each time, is not.
//
// So a revoke first waits while pins keep coming, at most until the grant is ClerkOptions.MinHold old, and looks
// each lingerStep. A lock on which none came is given up at once the next times: 1, then 3, 7, … up to 15 revokes.

const (
	lingerStep = time.Millisecond
	// lingerSharedPart is how much shorter a shared lock is kept: who waits for it wants to change something.
	lingerSharedPart = 5
	// habitsMax bounds the locks whose habits are known.
	habitsMax = 4096
	// habitFailsMax bounds the revokes without a wait to 1<<habitFailsMax - 1.
	habitFailsMax = 4
)

// habit is what waiting brought at the last revokes of a lock.
type habit struct{ fails, skip uint8 }

// linger keeps the lock while it is in use, for a bounded time. mu is held, and let go while waiting.
func (c *SessionClerk) linger(l *clerkLock) {
	limit := c.o.MinHold
	if l.mode != Exclusive {
		limit /= lingerSharedPart
	}
	if l.granted.IsZero() || time.Since(l.granted) >= limit || !c.expectsUse(l.id) {
		return
	}
	used := false
	for left := limit - time.Since(l.granted); left > 0 && !l.wantsMore() && !c.closing; left = limit - time.Since(l.granted) {
		seen := l.pinned
		c.mu.Unlock()
		ok := sleep(c.ctx, min(left, lingerStep))
		c.mu.Lock()
		if !ok || l.pinned == seen && l.pins == 0 {
			break
		}
		used = used || l.pinned != seen
	}
	c.learn(l.id, used)
}

// wantsMore reports that somebody here waits for a mode that is not held: only giving the lock up brings that.
func (l *clerkLock) wantsMore() bool {
	for _, w := range l.waiters {
		if w.mode > l.mode {
			return true
		}
	}
	return false
}

// expectsUse tells by the last revokes whether waiting is worth it.
func (c *SessionClerk) expectsUse(id LockID) bool {
	h, known := c.table.habits[id]
	if !known || h.skip == 0 {
		return true
	}
	h.skip--
	c.table.habits[id] = h
	return false
}

// learn notes whether the lock was used during a wait.
func (c *SessionClerk) learn(id LockID, used bool) {
	if used {
		delete(c.table.habits, id)
		return
	}
	h := c.table.habits[id]
	if len(c.table.habits) >= habitsMax {
		clear(c.table.habits)
	}
	h.fails = min(h.fails+1, habitFailsMax)
	h.skip = 1<<h.fails - 1
	c.table.habits[id] = h
}
