package fs

import (
	"context"
	"sync"
	"syscall"
	"time"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// handle is an open file or directory.
type handle struct {
	id    Handle
	ino   uint64
	flags uint32 // O_* of the open
	dir   bool
	// direct: the kernel reads and writes past its pages (through a mapping with them all the same).
	direct bool
	// check: opened by a caller that wants checks, so no kernel asks again for the attributes of a listing.
	check bool
	// killPriv: opened by one who may not keep set-id bits over a change of content. (A kernel tells with each write;
	// with an allocation or a copy it leaves them to the server.)
	killPriv bool

	mu   sync.Mutex
	ss   *session // whose node is n
	n    *node    // referenced while ss is the session
	lost error    // reported once: dirty data of the file was lost
	at   *entryAt // of the node of a session that ended
	ra   readAhead
	// owners are those that set a lock through it and may hold it still: flocks and open file description locks
	// go with the handle.
	owners []lockOwner
	broken bool // such a lock was lost with its session, so everything fails
}

// lockOwner is an owner of POSIX locks or of a flock.
type lockOwner struct {
	owner uint64
	flock bool
}

func (h *handle) mayRead() bool  { return h.flags&syscall.O_ACCMODE != syscall.O_WRONLY }
func (h *handle) mayWrite() bool { return h.flags&syscall.O_ACCMODE != syscall.O_RDONLY }
func (h *handle) sync() bool     { return h.flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0 }

// fail is the error of a descriptor whose file lock was lost.
func (h *handle) fail() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken {
		return errors.New(errors.KindIO, "the file lock held through this descriptor was lost with the session: close it")
	}
	return nil
}

// takeLost returns the report of lost data, once.
func (h *handle) takeLost() error {
	if err := h.fail(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.lost
	h.lost = nil
	return err
}

// hold keeps the node of a session alive for the handle.
func (h *handle) hold(ss *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ss == ss {
		return
	}
	h.ss, h.n = ss, ss.node(h.ino)
	if h.at != nil {
		h.n.at.CompareAndSwap(nil, h.at)
	}
}

// handleTable holds the open handles and counts them by inode.
type handleTable struct {
	mu    sync.RWMutex
	last  Handle
	table map[Handle]*handle
	open  map[uint64]*opens
}

// opens counts the handles of one inode.
type opens struct {
	all, writable int
	dirty         int // through which pages may be changed: by a mapping, or by writes through the page cache
}

func (o *opens) count(h *handle, by int) {
	o.all += by
	if !h.mayWrite() {
		return
	}
	o.writable += by
	if !h.direct || h.mayRead() {
		o.dirty += by
	}
}

func (t *handleTable) init() {
	t.table, t.open = map[Handle]*handle{}, map[uint64]*opens{}
}

// add makes a handle. The caller holds the inode's lock, so nobody decides meanwhile that it is not open.
func (t *handleTable) add(ss *session, ino uint64, flags uint32, dir, direct bool) *handle {
	h := &handle{ino: ino, flags: flags, dir: dir, direct: direct}
	h.hold(ss)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	h.id = t.last
	t.table[h.id] = h
	o := t.open[ino]
	if o == nil {
		o = &opens{}
		t.open[ino] = o
	}
	o.count(h, 1)
	return h
}

// get finds a handle. KindBadHandle.
func (t *handleTable) get(id Handle) (*handle, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	h := t.table[id]
	if h == nil {
		return nil, errors.Of(errors.KindBadHandle)
	}
	return h, nil
}

// remove takes a handle out and tells whether it was its inode's last one.
func (t *handleTable) remove(id Handle) (h *handle, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h = t.table[id]
	if h == nil {
		return nil, false
	}
	delete(t.table, id)
	o := t.open[h.ino]
	if o.count(h, -1); o.all == 0 {
		delete(t.open, h.ino)
	}
	return h, o.all == 0
}

func (t *handleTable) isOpen(ino uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[ino] != nil
}

// mayDirty reports whether the kernel may change pages of the file without a word: they are filled under Exclusive then.
func (t *handleTable) mayDirty(ino uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	o := t.open[ino]
	return o != nil && o.dirty > 0
}

// writable reports whether the file is open for writing.
func (t *handleTable) writable(ino uint64) bool {
	_, writable := t.count(ino)
	return writable > 0
}

// count is how many handles the file has, and through how many of them it may be written.
func (t *handleTable) count(ino uint64) (all, writable int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if o := t.open[ino]; o != nil {
		return o.all, o.writable
	}
	return 0, 0
}

// each calls f for every handle.
func (t *handleTable) each(f func(*handle)) {
	t.mu.RLock()
	all := make([]*handle, 0, len(t.table))
	for _, h := range t.table {
		all = append(all, h)
	}
	t.mu.RUnlock()
	for _, h := range all {
		f(h)
	}
}

// Open opens a file; O_TRUNC truncates it.
func (s *Server) Open(ctx context.Context, c *Caller, ino Ino, flags uint32) (id Handle, info OpenInfo, err error) {
	err = s.do(ctx, func(ss *session) error {
		u := shared(uint64(ino))
		if flags&syscall.O_TRUNC != 0 {
			if err := ss.admit(ctx, admitSmall); err != nil {
				return err
			}
			u = exclusive(uint64(ino))
		}
		var p pins
		if err := ss.lock(ctx, &p, u); err != nil {
			return err
		}
		defer p.unlock()
		n := p.of(uint64(ino))
		in, err := ss.load(ctx, n)
		if err != nil {
			return err
		}
		if err := ss.mayOpen(ctx, c, n, in, flags); err != nil {
			return err
		}
		if flags&syscall.O_TRUNC != 0 && in.IsRegular() {
			err := ss.truncate(ctx, n, 0, completion{state: layout.ClientDone, ino: n.ino}, func(_ *tx, in *layout.Inode) error {
				if c != nil && c.KillPriv {
					in.Mode = layout.KillPriv(in.Mode)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if err := ss.answer(ctx, flags&syscall.O_TRUNC != 0); err != nil {
			return err
		}
		info = OpenInfo{DirectIO: appends(flags) || n.rv.shared(time.Now()) && s.mapsDirect()}
		h := s.handles.add(ss, n.ino, flags, false, info.DirectIO)
		// Pages filled under Shared may not stay where they can turn dirty.
		dirty := s.handles.mayDirty(n.ino) && n.rv.held.Load() != uint32(lockserver.Exclusive)
		info.KeepCache = n.kernelPages.Load() && p.cacheable(n.ino) && !dirty
		h.check, h.killPriv = c != nil && c.Check, c != nil && c.UID != 0
		id = h.id
		return nil
	})
	return id, info, err
}

// openExec is the flag with which Linux opens what it executes (FMODE_EXEC).
const openExec = 0x20

func (ss *session) mayOpen(ctx context.Context, c *Caller, n *node, in *layout.Inode, flags uint32) error {
	acc := flags & syscall.O_ACCMODE
	switch {
	case in.IsDir() && (acc != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0):
		return errors.Of(errors.KindIsDir)
	case in.IsSymlink():
		return errors.Of(errors.KindLoop)
	case flags&syscall.O_DIRECTORY != 0 && !in.IsDir():
		return errors.Of(errors.KindNotDir)
	}
	mask := [4]uint32{layout.MayRead, layout.MayWrite, layout.MayRead | layout.MayWrite, layout.MayRead | layout.MayWrite}[acc]
	if flags&syscall.O_TRUNC != 0 {
		mask |= layout.MayWrite
	}
	if flags&openExec != 0 && mask == layout.MayRead {
		mask = layout.MayExec
	}
	return ss.check(ctx, c, n, in, mask)
}

// Release closes a handle; the last one of an unlinked file frees it.
func (s *Server) Release(ctx context.Context, id Handle) error {
	h, last := s.handles.remove(id)
	if h == nil {
		return errors.Of(errors.KindBadHandle)
	}
	s.dropLocks(h)
	h.mu.Lock()
	ss, n, lost := h.ss, h.n, h.lost
	h.ss, h.n, h.lost = nil, nil, nil
	h.mu.Unlock()
	if n != nil {
		if last && s.cur.Load() == ss {
			ss.closed(n, h.dir)
		}
		ss.put(n)
	}
	return lost
}

// closed looks whether the file that was closed last here has no name any more. Where the inode
// is at hand its lock has been held, so its link count is right; else another server has had the lock since and
// may have unlinked it, being told that it was open here: so it is looked at in the background.
func (ss *session) closed(n *node, dir bool) {
	in := n.in.Load()
	if in == freedInode || in != nil && in.Nlink > 0 || in == nil && dir {
		return // a directory that another server removed is left to that one's sweep
	}
	if in != nil {
		ss.reapLater(n.ino)
		return
	}
	ino := n.ino
	ss.spawn(func(ctx context.Context) {
		linked := false
		err := ss.do1(ctx, shared(ino), func(n *node) error {
			in, err := ss.load(ctx, n)
			linked = err == nil && in.Nlink > 0
			return err
		})
		if err == nil && !linked {
			ss.reapLater(ino)
		}
	})
}

// handlesClosed ends all handles, and what the kernel may still know, at Close.
func (ss *session) handlesClosed(_ context.Context) {
	ss.s.handles.each(func(h *handle) { _ = ss.s.Release(context.Background(), h.id) })
	for _, ino := range ss.s.known.all() {
		ss.s.Forgotten(Ino(ino))
	}
}

// Flush is called at each close(2).
func (s *Server) Flush(ctx context.Context, id Handle, owner uint64) error {
	h, err := s.handles.get(id)
	if err != nil {
		return err
	}
	s.dropPosix(h, owner)
	return h.takeLost()
}

// Fsync makes the file's data and attributes durable (its names too: records are a prefix of what was done).
func (s *Server) Fsync(ctx context.Context, id Handle, dataOnly bool) error {
	h, err := s.handles.get(id)
	if err != nil {
		return err
	}
	return s.fsync(ctx, h)
}

func (s *Server) fsync(ctx context.Context, h *handle) error {
	if err := h.takeLost(); err != nil {
		return err
	}
	return s.do(ctx, func(ss *session) error {
		h.hold(ss)
		if h.ino == layout.RootIno {
			return ss.flush(ctx, 0)
		}
		h.mu.Lock()
		n := h.n
		h.mu.Unlock()
		if n == nil {
			return errors.Of(errors.KindBadHandle)
		}
		if gen := n.lastGen.Load(); gen != 0 {
			return ss.flushNode(ctx, n)
		}
		return nil
	})
}

// OpenDir opens a directory.
func (s *Server) OpenDir(ctx context.Context, c *Caller, ino Ino) (id Handle, err error) {
	err = s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if !in.IsDir() {
				return errors.Of(errors.KindNotDir)
			}
			if err := ss.check(ctx, c, n, in, layout.MayRead); err != nil {
				return err
			}
			if err := ss.answer(ctx, false); err != nil {
				return err
			}
			h := s.handles.add(ss, n.ino, syscall.O_RDONLY, true, false)
			h.check = c != nil && c.Check
			id = h.id
			return nil
		})
	})
	return id, err
}

// ReleaseDir closes a directory.
func (s *Server) ReleaseDir(ctx context.Context, id Handle) error { return s.Release(ctx, id) }

// FsyncDir makes the directory durable; of the root, everything before it.
func (s *Server) FsyncDir(ctx context.Context, id Handle) error { return s.Fsync(ctx, id, false) }
