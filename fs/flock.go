package fs

import (
	"context"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// File locks live in the lock service, so they hold in the whole cluster. What is here only
// remembers which descriptors have set one: they are void when the session ends.

func clusterLock(l FileLock) lockserver.FileLock {
	return lockserver.FileLock{Owner: l.Owner, Start: l.Start, End: l.End, Type: lockserver.FileLockType(l.Type), PID: l.PID, Flock: l.Flock}
}

// TestLock returns the first lock in the way of l.
func (s *Server) TestLock(ctx context.Context, id Handle, l FileLock) (out FileLock, err error) {
	h, err := s.lockHandle(id, l)
	if err != nil {
		return out, err
	}
	err = s.do(ctx, func(ss *session) error {
		bctx, cancel := ss.bound(ctx)
		defer cancel()
		r, err := ss.be.Clerk.TestFileLock(bctx, lockserver.LockID(h.ino), clusterLock(l))
		out = FileLock{Owner: r.Owner, Start: r.Start, End: r.End, Type: LockType(r.Type), PID: r.PID, Flock: r.Flock}
		return ss.waited(ctx, err, "asking for a file lock")
	})
	return out, err
}

// SetLock sets or lets go a lock.
func (s *Server) SetLock(ctx context.Context, id Handle, l FileLock, wait bool) error {
	h, err := s.lockHandle(id, l)
	if err != nil {
		return err
	}
	return s.do(ctx, func(ss *session) error {
		bctx, cancel := ctx, context.CancelFunc(func() {})
		if !wait {
			bctx, cancel = ss.bound(ctx)
		}
		defer cancel()
		if l.Type != LockUnlock {
			h.mu.Lock()
			h.locked = true
			h.flockOwner, h.flocked = l.Owner, h.flocked || l.Flock
			h.mu.Unlock()
		}
		return ss.waited(ctx, ss.be.Clerk.FileLock(bctx, lockserver.LockID(h.ino), clusterLock(l), wait), "setting a file lock")
	})
}

func (s *Server) lockHandle(id Handle, l FileLock) (*handle, error) {
	h, err := s.handles.get(id)
	if err != nil {
		return nil, err
	}
	if l.Type > LockUnlock || l.Start > l.End {
		return nil, errors.Of(errors.KindInvalid)
	}
	if !l.Flock && (l.Type == LockRead && !h.mayRead() || l.Type == LockWrite && !h.mayWrite()) {
		return nil, errors.Of(errors.KindBadHandle)
	}
	return h, h.fail()
}

// dropPosix lets go the POSIX locks of owner at a close(2), if any descriptor of the file has set one.
func (s *Server) dropPosix(h *handle, owner uint64) {
	h.mu.Lock()
	locked := h.locked
	h.mu.Unlock()
	if ss := s.cur.Load(); ss != nil && locked {
		ss.be.Clerk.ReleaseFileLocks(lockserver.LockID(h.ino), owner, false)
	}
}

// dropFlock lets go the flock of a descriptor at its last close.
func (s *Server) dropFlock(h *handle) {
	h.mu.Lock()
	flocked, owner := h.flocked, h.flockOwner
	h.mu.Unlock()
	if ss := s.cur.Load(); ss != nil && flocked {
		ss.be.Clerk.ReleaseFileLocks(lockserver.LockID(h.ino), owner, true)
	}
}
