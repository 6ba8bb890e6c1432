package lockserver

import (
	"context"
	"time"

	"dfs/internal/errors"
)

// OrphanReporter may be implemented by a Holder too: Close asks it, after everything has been
// given up, whether the session's orphan list may hold anything. If not, nobody has to look
// for it after the writer is closed.
type OrphanReporter interface {
	OrphansLeft() bool
}

// Close gives everything back through the holder, lets the lease go, and has
// the writer closed. Inodes held by their range alone are not asked for one by one:
// the file server flushes everything before. If ctx ends first, the
// session is left to run out and be fenced, and the error says so.
func (c *SessionClerk) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closing || c.ended != nil {
		err := c.ended
		c.mu.Unlock()
		c.stop()
		c.wg.Wait()
		return err
	}
	c.closing = true
	refusal := c.refusedLocked()
	var held []*clerkLock
	for _, l := range c.table.locks {
		for _, w := range l.waiters {
			w.finish(refusal)
		}
		l.waiters = nil
		if l.mode != None {
			held = append(held, l)
		}
	}
	h := c.holder
	c.mu.Unlock()
	err := c.giveAllUp(ctx, held)
	if err == nil {
		r, ok := h.(OrphanReporter)
		err = c.sayEnd(ctx, h == nil || ok && !r.OrphansLeft())
	}
	c.abandon()
	return err
}

func (c *SessionClerk) giveAllUp(ctx context.Context, held []*clerkLock) error {
	const atOnce = 64
	for len(held) > 0 {
		n := min(len(held), atOnce)
		c.mu.Lock()
		for _, l := range held[:n] {
			if l.mode != None {
				c.startRevokeLocked(l, None)
			}
		}
		c.mu.Unlock()
		for _, l := range held[:n] {
			if err := c.waitFor(ctx, func() bool { return l.mode == None }); err != nil {
				return c.notClosed(err)
			}
		}
		held = held[n:]
	}
	return nil
}

func (c *SessionClerk) notClosed(err error) error {
	return errors.New(errors.KindOf(err), "lock session %d is not closed, it is left to run out and be fenced: %w", c.Session().Writer, err)
}

// waitFor polls a condition under mu, for what is rare.
func (c *SessionClerk) waitFor(ctx context.Context, cond func() bool) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		c.mu.Lock()
		ok, ended := cond(), c.ended
		c.mu.Unlock()
		switch {
		case ended != nil:
			return ended
		case ok:
			return nil
		}
		if !sleep(ctx, wait) {
			return errors.New(errors.KindOf(ctx.Err()), "waiting for lock session %d: %w", c.Session().Writer, ctx.Err())
		}
	}
}

// sayEnd lets the lease go and asks, on this stream and the next, for the
// writer to be closed, until the server says that it is over.
func (c *SessionClerk) sayEnd(ctx context.Context, clean bool) error {
	c.leaseEnd.Store(0)
	for {
		var told *connection
		err := c.waitFor(ctx, func() bool {
			if c.conn != nil && c.conn.attached {
				told = c.conn
				c.out.End = &End{Clean: clean}
				wake(c.wake)
			}
			return told != nil
		})
		if err == nil {
			err = c.waitFor(ctx, func() bool { return c.conn != told })
		}
		c.mu.Lock()
		over := c.ended != nil
		c.mu.Unlock()
		if over {
			return nil
		}
		if err != nil {
			return c.notClosed(err)
		}
	}
}
