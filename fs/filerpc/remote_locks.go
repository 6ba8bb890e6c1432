package filerpc

import (
	"context"
	"time"

	"dfs/fs"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// Remote's calls about file locks. A lock lives on the node that it was set on.

// unlockWait bounds the undoing of a wait for a lock that was broken off.
const unlockWait = 5 * time.Second

// wholeFileEnd is where a lock of the whole file ends.
const wholeFileEnd = 1<<63 - 1

// TestLock implements fs.FileSystem.
func (r *Remote) TestLock(ctx context.Context, h fs.Handle, l fs.FileLock) (found fs.FileLock, err error) {
	err = r.through(ctx, h, "getlk", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		out, err := a.Files.TestLock(ctx, &filepb.LockRequest{Handle: h, Lock: lockToWire(l)})
		found = lockFromWire(out.GetLock())
		return err
	})
	return found, err
}

// SetLock implements fs.FileSystem.
func (r *Remote) SetLock(ctx context.Context, h fs.Handle, l fs.FileLock, wait bool) error {
	o, err := r.open(h)
	if err != nil {
		return err
	}
	// Setting a lock twice is setting it once, and one that was held on a node that is gone fails the call.
	err = o.Call(ctx, "setlk", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.SetLock(ctx, &filepb.LockRequest{Handle: h, Lock: lockToWire(l), Wait: wait})
		if err == nil {
			note(o, a, l)
		}
		return err
	})
	if err != nil && wait && ctx.Err() != nil {
		r.unlock(o, l)
	}
	return err
}

// note remembers who holds locks: until it lets the whole file go.
func note(o *fileconn.Open, a *fileconn.Attachment, l fs.FileLock) {
	if l.Type != fs.LockUnlock {
		o.NoteLock(a, l.Owner, l.Flock, true)
	} else if l.Flock || l.Start == 0 && l.End >= wholeFileEnd {
		o.NoteLock(a, l.Owner, l.Flock, false)
	}
}

// unlock lets go a lock whose wait was broken off: whether it was granted before the node heard of that is unknown.
func (r *Remote) unlock(o *fileconn.Open, l fs.FileLock) {
	ctx, cancel := context.WithTimeout(context.Background(), unlockWait)
	defer cancel()
	l.Type = fs.LockUnlock
	_ = o.Call(ctx, "setlk", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error { // or it goes with the handle
		_, err := a.Files.SetLock(ctx, &filepb.LockRequest{Handle: h, Lock: lockToWire(l)})
		return err
	})
}
