package fstest

import (
	"context"
	"slices"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
)

type fileLock struct {
	id lockserver.LockID
	c  *Clerk
	l  lockserver.FileLock
}

// FileLock sets whole-file locks only as far as tests need: ranges that overlap conflict.
func (c *Clerk) FileLock(ctx context.Context, id lockserver.LockID, l lockserver.FileLock, wait bool) error {
	for {
		c.t.mu.Lock()
		if c.ended { // what it got now would be nobody's to let go
			c.t.mu.Unlock()
			return errors.Of(errors.KindSessionEnded)
		}
		if l.Type == lockserver.FileUnlock {
			c.t.files = slices.DeleteFunc(c.t.files, func(f fileLock) bool {
				return f.c == c && f.id == id && f.l.Owner == l.Owner && f.l.Flock == l.Flock
			})
			c.t.mu.Unlock()
			return nil
		}
		if c.t.inTheWay(c, id, l) == nil {
			c.t.files = append(c.t.files, fileLock{id, c, l})
			c.t.mu.Unlock()
			return nil
		}
		c.t.mu.Unlock()
		if !wait {
			return errors.Of(errors.KindAgain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (t *Locks) inTheWay(c *Clerk, id lockserver.LockID, l lockserver.FileLock) *lockserver.FileLock {
	for _, f := range t.files {
		if f.id == id && f.l.Flock == l.Flock && (f.c != c || f.l.Owner != l.Owner) &&
			(l.Flock || f.l.Start <= l.End && l.Start <= f.l.End) &&
			(f.l.Type == lockserver.FileWrite || l.Type == lockserver.FileWrite) {
			return &f.l
		}
	}
	return nil
}

// TestFileLock returns a lock in the way.
func (c *Clerk) TestFileLock(ctx context.Context, id lockserver.LockID, l lockserver.FileLock) (lockserver.FileLock, error) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if f := c.t.inTheWay(c, id, l); f != nil {
		return *f, nil
	}
	l.Type = lockserver.FileUnlock
	return l, nil
}

// ReleaseFileLocks lets go all locks of an owner.
func (c *Clerk) ReleaseFileLocks(id lockserver.LockID, owner uint64, flock bool) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.t.files = slices.DeleteFunc(c.t.files, func(f fileLock) bool {
		return f.c == c && f.id == id && f.l.Owner == owner && f.l.Flock == flock
	})
}
