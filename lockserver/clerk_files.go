package lockserver

import (
	"context"
	"slices"
	"time"

	"dfs/internal/errors"
)

// clerkFiles are the session's file locks: what it holds, to be claimed again,
// and the requests that are not answered yet. Guarded by SessionClerk.mu.
type clerkFiles struct {
	ref   uint64
	calls map[uint64]*fileCall
	held  map[LockID][]fileHold // fileOwner.s is nil
}

type fileCall struct {
	req       FileRequest
	abandoned bool // nobody waits any more: what it gets is let go
	reply     FileReply
	err       error
	done      chan struct{}
}

func (f *clerkFiles) init() {
	f.calls, f.held = map[uint64]*fileCall{}, map[LockID][]fileHold{}
}

func (f *clerkFiles) set(id LockID, l FileLock) {
	held := setRange(f.held[id], fileOwner{owner: l.Owner}, l.normal())
	if len(held) == 0 {
		delete(f.held, id)
	} else {
		f.held[id] = held
	}
}

func (f *clerkFiles) fail(cause error) {
	for _, call := range f.calls {
		call.err = cause
		close(call.done)
	}
	f.init()
}

// resend asks again, in order, what was not answered on an older stream.
func (f *clerkFiles) resend(out *ClientMsg) {
	refs := make([]uint64, 0, len(f.calls))
	for ref, call := range f.calls {
		if call.abandoned {
			delete(f.calls, ref)
			continue
		}
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	for _, ref := range refs {
		out.Files = append(out.Files, f.calls[ref].req)
	}
}

// replied takes an answer. What was got for nobody any more is let go at once.
func (f *clerkFiles) replied(r FileReply, out *ClientMsg) {
	call := f.calls[r.Ref]
	if call == nil {
		return
	}
	delete(f.calls, r.Ref)
	if r.OK && call.req.Op == FileSet {
		if call.abandoned && call.req.Lock.Type != FileUnlock {
			f.ref++
			undo := FileRequest{Ref: f.ref, Op: FileSet, ID: call.req.ID, Lock: call.req.Lock}
			undo.Lock.Type = FileUnlock
			f.set(undo.ID, undo.Lock)
			out.Files = append(out.Files, undo)
		} else {
			f.set(call.req.ID, call.req.Lock)
		}
	}
	call.reply = r
	close(call.done)
}

// FileLock sets or lets go a file lock.
func (c *SessionClerk) FileLock(ctx context.Context, id LockID, l FileLock, wait bool) error {
	l = l.normal()
	if l.Start > l.End || l.Type > FileUnlock {
		return errors.New(errors.KindInvalid, "file lock of bytes %d to %d, type %d, of inode %d is malformed", l.Start, l.End, l.Type, id)
	}
	if l.Flock && wait && l.Type != FileUnlock && c.convertsFlock(id, l) {
		// As on Linux, converting lets the old lock go first: else two converters wait for each other.
		unlock := l
		unlock.Type = FileUnlock
		if err := c.FileLock(ctx, id, unlock, false); err != nil {
			return err
		}
	}
	_, err := c.fileCall(ctx, FileRequest{Op: FileSet, ID: id, Lock: l, Wait: wait})
	return err
}

func (c *SessionClerk) convertsFlock(id LockID, l FileLock) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.files.held[id] {
		if h.Flock && h.owner == l.Owner && h.Type != l.Type {
			return true
		}
	}
	return false
}

// TestFileLock tells what is in the way of l.
func (c *SessionClerk) TestFileLock(ctx context.Context, id LockID, l FileLock) (FileLock, error) {
	if l = l.normal(); l.Start > l.End || l.Type > FileWrite {
		return FileLock{}, errors.New(errors.KindInvalid, "test of a file lock of bytes %d to %d, type %d, of inode %d is malformed", l.Start, l.End, l.Type, id)
	}
	r, err := c.fileCall(ctx, FileRequest{Op: FileTest, ID: id, Lock: l})
	return r.Lock, err
}

// ReleaseFileLocks lets go what owner has on the inode. It waits a short time
// for the answer, so that whoever is told of the close finds the locks free.
func (c *SessionClerk) ReleaseFileLocks(id LockID, owner uint64, flock bool) {
	l := FileLock{Owner: owner, Start: 0, End: 1<<64 - 1, Type: FileUnlock, Flock: flock}
	c.mu.Lock()
	some := slices.ContainsFunc(c.files.held[id], func(h fileHold) bool { return h.owner == owner && h.Flock == flock })
	for _, call := range c.files.calls {
		some = some || call.req.ID == id && call.req.Lock.Owner == owner && call.req.Lock.Flock == flock
	}
	c.mu.Unlock()
	if !some {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	_, err := c.fileCall(ctx, FileRequest{Op: FileReleaseOwner, ID: id, Lock: l})
	if err != nil {
		c.o.Logger.Info("file locks are let go with the next attach", "inode", id, "error", err)
	}
}

// fileCall sends a request and waits for its answer. What is let go is let go
// here at once, so that it is never claimed again.
func (c *SessionClerk) fileCall(ctx context.Context, r FileRequest) (FileReply, error) {
	c.mu.Lock()
	if err := c.refusedLocked(); err != nil {
		c.mu.Unlock()
		return FileReply{}, err
	}
	c.files.ref++
	r.Ref = c.files.ref
	call := &fileCall{req: r, done: make(chan struct{})}
	c.files.calls[r.Ref] = call
	if r.Lock.Type == FileUnlock && r.Op != FileTest {
		c.files.set(r.ID, r.Lock)
	}
	c.sendFileLocked(r)
	c.mu.Unlock()
	select {
	case <-call.done:
		return call.answer()
	case <-ctx.Done():
	}
	return c.giveUpFile(ctx, call)
}

func (c *SessionClerk) sendFileLocked(r FileRequest) {
	if c.conn != nil && c.conn.attached {
		c.out.Files = append(c.out.Files, r)
		wake(c.wake)
	}
}

// giveUpFile cancels a call. If the answer comes before the cancel took
// effect, it counts.
func (c *SessionClerk) giveUpFile(ctx context.Context, call *fileCall) (FileReply, error) {
	c.mu.Lock()
	c.sendFileLocked(FileRequest{Ref: call.req.Ref, Op: FileCancel, ID: call.req.ID})
	connected := c.conn != nil && c.conn.attached
	c.mu.Unlock()
	if connected && call.req.Wait {
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-call.done:
		case <-t.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-call.done:
		if r, err := call.answer(); !errors.Is(err, errors.KindInterrupted) {
			return r, err
		}
	default:
		call.abandoned = true
	}
	return FileReply{}, errors.New(errors.KindOf(ctx.Err()), "waiting for a file lock of inode %d: %w", call.req.ID, ctx.Err())
}

func (call *fileCall) answer() (FileReply, error) {
	switch r := call.reply; {
	case call.err != nil:
		return r, call.err
	case !r.OK:
		return r, errors.New(r.Kind, "file lock of inode %d: refused by the lock service", call.req.ID)
	default:
		return r, nil
	}
}
