package fs

import (
	"context"
	"slices"

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
	if !l.Flock && (l.Type == LockRead && !h.mayRead() || l.Type == LockWrite && !h.mayWrite()) {
		return errors.Of(errors.KindBadHandle)
	}
	return s.do(ctx, func(ss *session) error {
		bctx, cancel := ctx, context.CancelFunc(func() {})
		if !wait {
			bctx, cancel = ss.bound(ctx)
		}
		defer cancel()
		err := ss.be.Clerk.FileLock(bctx, lockserver.LockID(h.ino), clusterLock(l), wait)
		if err != nil {
			return ss.waited(ctx, err, "setting a file lock")
		}
		owner := lockOwner{l.Owner, l.Flock}
		switch all := l.Flock || l.Start == 0 && l.End >= 1<<63-1; {
		case l.Type != LockUnlock:
			h.addOwner(owner)
			if ss.lost.Load() { // it may have been too late to be told of the end
				h.dropOwner(owner)
				return errors.Of(errors.KindSessionEnded)
			}
		case all:
			h.dropOwner(owner)
		}
		return nil
	})
}

// addOwner notes that o may hold a lock set through h.
func (h *handle) addOwner(o lockOwner) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.owners, o) {
		h.owners = append(h.owners, o)
	}
}

func (h *handle) dropOwner(o lockOwner) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.owners = slices.DeleteFunc(h.owners, func(other lockOwner) bool { return other == o })
}

func (s *Server) lockHandle(id Handle, l FileLock) (*handle, error) {
	h, err := s.handles.get(id)
	if err != nil {
		return nil, err
	}
	if l.Type > LockUnlock || l.Start > l.End {
		return nil, errors.Of(errors.KindInvalid)
	}
	return h, h.fail()
}

// dropPosix lets go the POSIX locks of owner at a close(2), through whichever descriptor of the file they were set.
func (s *Server) dropPosix(h *handle, owner uint64) {
	h.dropOwner(lockOwner{owner, false})
	if ss := s.cur.Load(); ss != nil {
		ss.be.Clerk.ReleaseFileLocks(lockserver.LockID(h.ino), owner, false)
	}
}

// dropLocks lets go, at the last close of a descriptor, what belongs to the descriptor: its flock, and open file
// description locks, of which the kernel does not tell. (The POSIX locks of a process went with the process's own close.)
func (s *Server) dropLocks(h *handle) {
	h.mu.Lock()
	owners := h.owners
	h.owners = nil
	h.mu.Unlock()
	ss := s.cur.Load()
	if ss == nil {
		return
	}
	for _, o := range owners {
		ss.be.Clerk.ReleaseFileLocks(lockserver.LockID(h.ino), o.owner, o.flock)
	}
}
