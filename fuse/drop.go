package fuse

import (
	"sync/atomic"
	"time"

	"dfs/fs"
)

// What the kernel has cached is dropped here. A reply that is computed before a notification may reach
// the kernel after it, so each kind of answer needs its guard:
//
//   - Pages: the kernel's invalidation waits for the READs in flight on them.
//   - Attributes of an inode that the kernel knows: each reply carries the kernel's version of the time of its request, and one older than the
//     last invalidation is ignored; but for SETATTR and LINK, which are answered with timeout 0.
//   - Attributes of an inode that it does not know yet: the invalidation says so, and is tried again while an answer is on its way (DropAttr).
//   - Names: the kernel's expiry waits for every LOOKUP, CREATE, READDIR in flight in the directory; but not for a LOOKUP that revalidates a
//     name. So the last LOOKUP must be answered settle ago, and the names are expired twice more afterwards (DropNames).

const (
	// settle is how long an answer may be on its way to the task that waits for it.
	settle = 5 * time.Millisecond
	// settleUnknown bounds the same for the first answer about an inode, in looks a millisecond apart. It is seldom so long: an answer
	// that does not arrive was lost with its caller.
	settleUnknown = 1000
	// settleUncounted is the same for one of more inodes than are counted (lookupsMax).
	settleUncounted = 50
	// lostAfter is the age of an answer that has arrived, or never will.
	lostAfter = 5 * time.Second
	// stallAfter is the time beyond which a revoke of a directory counts as stalled.
	stallAfter = 50 * time.Millisecond
)

// expireAgain is when names are expired again that may have been revalidated meanwhile.
var expireAgain = [2]time.Duration{20 * time.Millisecond, 200 * time.Millisecond}

// DropData implements fs.Invalidator.
func (c *conn) DropData(ino fs.Ino, off, length uint64) {
	c.names.drop(uint64(ino))
	c.notify.invalInode(uint64(ino), int64(off), int64(length))
}

// DropAttr implements fs.Invalidator.
func (c *conn) DropAttr(ino fs.Ino) {
	c.names.drop(uint64(ino))
	for looks := 0; !c.notify.invalInode(uint64(ino), -1, 0); looks++ {
		// Unknown: forgotten, or named by an answer on its way.
		if looks >= c.lookups.looks(uint64(ino)) || looks == 0 && time.Since(c.names.handedAt(uint64(ino))) > lostAfter {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Knows implements fs.Knower.
func (c *conn) Knows(ino fs.Ino) bool { return c.notify.invalInode(uint64(ino), -1, 0) }

// DropNames implements fs.Invalidator: the names are expired on a goroutine
// of their own, because the kernel makes that wait for every LOOKUP and CREATE in flight in
// the directory, and those may wait for this very revoke; then the timeouts handed out are waited out instead.
func (c *conn) DropNames(dir fs.Ino) {
	t := c.names.take(uint64(dir))
	if len(t.names) == 0 {
		return
	}
	began := time.Now()
	if wait := settle - began.Sub(t.looked); wait > 0 {
		time.Sleep(wait)
	}
	done := make(chan struct{})
	var runOut atomic.Bool
	go func() {
		defer close(done)
		c.expire(uint64(dir), t.names, runOut.Load)
	}()
	rest := time.NewTimer(time.Until(t.until))
	defer rest.Stop()
	select {
	case <-done:
	case <-rest.C:
		runOut.Store(true)
	}
	if time.Since(began) > stallAfter {
		c.names.stalled(uint64(dir))
	} else if began.Sub(t.looked) < expireAgain[1] {
		for _, d := range expireAgain {
			time.AfterFunc(d, func() {
				c.expire(uint64(dir), t.names, func() bool { return time.Since(began) > d+nameTimeoutMax+arrivalSlack })
			})
		}
	}
}
