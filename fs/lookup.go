package fs

import (
	"context"
	"syscall"
	"time"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// childWait is how long a LOOKUP of a kernel waits for the child's lock.
const childWait = 10 * time.Millisecond

// openDir returns n's directory for reading, in a tx that only holds frames.
func (ss *session) openDir(ctx context.Context, t *tx, n *node) (*layout.Dir, error) {
	in, err := ss.load(ctx, n)
	if err != nil {
		return nil, err
	}
	if !in.IsDir() {
		return nil, errors.Of(errors.KindNotDir)
	}
	c := *in
	return layout.OpenDir(&c, t.vdisk(ctx, n)), nil
}

// find looks a name up in a locked directory.
func (ss *session) find(ctx context.Context, n *node, name string) (layout.Entry, error) {
	t := ss.newTx()
	defer t.done()
	d, err := ss.openDir(ctx, t, n)
	if err != nil {
		return layout.Entry{}, err
	}
	return d.Lookup(name)
}

// peek looks a name up under the directory's lock alone: what decides which locks an operation takes. The operation
// looks it up again under them.
func (ss *session) peek(ctx context.Context, c *Caller, dir uint64, name string) (child uint64, err error) {
	err = ss.do1(ctx, shared(dir), func(n *node) error {
		e, err := ss.find(ctx, n, name)
		child = e.Ino
		return err
	})
	return child, err
}

// Lookup finds a name. With KindNotExist the entry says whether the kernel may keep that.
//
// The child's lock. A thin client (Check) uses the attributes of the answer, so both locks are taken. A kernel may have this
// LOOKUP wait inside the directory while a revoke of the directory waits for it (section 7 of the design): so the directory's lock is let go,
// the child's is waited for at most childWait with nothing held, and failing that the attributes are read from the store without
// a lock, at an index at which the name is there. They may be old (another server may have newer ones in memory); the answer says that
// they must not be kept, and the kernel then asks GetAttr before it uses them: a stat gets the right ones (R1). The type, all that it uses without asking, never changes.
func (s *Server) Lookup(ctx context.Context, c *Caller, dir Ino, name string) (e Entry, err error) {
	err = s.do(ctx, func(ss *session) error {
		for first := true; ; first = false {
			var again bool
			e, again, err = ss.lookup(ctx, c, uint64(dir), name, first)
			if err != nil || !again {
				return err
			}
		}
	})
	return e, err
}

func (ss *session) lookup(ctx context.Context, c *Caller, dir uint64, name string, first bool) (e Entry, again bool, err error) {
	var p pins
	if err := ss.lock(ctx, &p, shared(dir)); err != nil {
		return e, false, err
	}
	defer func() { p.unlock() }()
	n := p.of(dir)
	child, err := ss.lookupName(ctx, c, n, name)
	if err != nil {
		if errors.Is(err, errors.KindNotExist) {
			e.NameCacheable = ss.nameCacheable(&p, n) // that there is none
		}
		return e, false, err
	}
	if child == dir {
		return ss.entryOf(&p, n, n.in.Load()), false, ss.answer(ctx, false)
	}
	if first && !ss.childAtHand(child, lockserver.Shared) {
		p.unlock()
		err := ss.fetchAhead(ctx, dir, name, lockserver.Shared)
		return e, err == nil, err
	}
	if e, ok, err := ss.childHeld(ctx, entryAt{dir, name}, child); ok || err != nil {
		e.NameCacheable = ss.nameCacheable(&p, n)
		if err == nil {
			err = ss.answer(ctx, false)
		}
		if err != nil && errors.Is(err, errors.KindStale) {
			return e, true, nil
		}
		return e, false, err
	}
	nameIndex := ss.minIndex(n.id())
	p.unlock()
	if c != nil && c.Check {
		return ss.lookupBoth(ctx, c, dir, child, name)
	}
	return ss.lookupLoose(ctx, dir, child, name, nameIndex)
}

// lookupName finds a name, "." and ".." among them, in n, locked.
func (ss *session) lookupName(ctx context.Context, c *Caller, n *node, name string) (uint64, error) {
	in, err := ss.load(ctx, n)
	if err != nil {
		return 0, err
	}
	if !in.IsDir() {
		return 0, errors.Of(errors.KindNotDir)
	}
	if err := ss.check(ctx, c, n, in, layout.MayExec); err != nil {
		return 0, err
	}
	switch name {
	case ".":
		return n.ino, nil
	case "..":
		return in.Parent, nil
	}
	e, err := ss.find(ctx, n, name)
	return e.Ino, err
}

func (ss *session) nameCacheable(p *pins, dir *node) bool {
	dir.kernelNames.Store(true) // before the look: PrepareRevoke forbids first and looks at this afterwards
	return p.cacheable(dir.ino)
}

// childHeld answers about an inode whose lock is held already and free to use.
func (ss *session) childHeld(ctx context.Context, at entryAt, ino uint64) (e Entry, ok bool, err error) {
	id := lockserver.LockID(ino)
	if !ss.be.Clerk.TryAcquire(lockserver.Request{ID: id, Mode: lockserver.Shared}) {
		return e, false, nil
	}
	defer ss.be.Clerk.Unpin(id)
	n := ss.node(ino)
	defer ss.put(n)
	n.met(at)
	n.rv.note(lockserver.Shared)
	// The ilock of a child below the directory is out of order: it is not waited for.
	if !n.lk.tryLock(false) {
		// A committed inode never changes in place, so without the ilock its last committed state is right too.
		if in := n.in.Load(); in != nil && in != freedInode {
			n.kernelAttr.Store(true)
			return Entry{Attr: attrOf(in), AttrCacheable: !n.rv.noting.Load()}, true, nil
		}
		return e, false, nil
	}
	defer n.lk.unlock(false)
	in, err := ss.load(ctx, n)
	if err != nil {
		return e, false, err
	}
	n.kernelAttr.Store(true)
	return Entry{Attr: attrOf(in), AttrCacheable: !n.rv.noting.Load()}, true, nil
}

// lookupBoth answers with both locks held.
func (ss *session) lookupBoth(ctx context.Context, c *Caller, dir, child uint64, name string) (e Entry, again bool, err error) {
	var p pins
	if err := ss.lock(ctx, &p, shared(dir), shared(child)); err != nil {
		return e, false, err
	}
	defer p.unlock()
	now, err := ss.lookupName(ctx, c, p.of(dir), name)
	if err != nil || now != child {
		return e, err == nil, err
	}
	in, err := ss.load(ctx, p.of(child))
	if err != nil {
		return e, false, err
	}
	e = ss.entryOf(&p, p.of(child), in)
	e.NameCacheable = ss.nameCacheable(&p, p.of(dir))
	return e, false, ss.answer(ctx, false)
}

// lookupLoose answers a kernel about a child whose lock is not held; see Lookup.
func (ss *session) lookupLoose(ctx context.Context, dir, child uint64, name string, nameIndex uint64) (e Entry, again bool, err error) {
	wctx, cancel := context.WithTimeout(ctx, childWait)
	req := lockserver.Request{ID: lockserver.LockID(child), Mode: lockserver.Shared}
	err = ss.be.Clerk.Acquire(wctx, req)
	cancel()
	if err == nil {
		// Sticky: the next round finds it held, unless it goes at once.
		var p pins
		defer p.unlock()
		defer ss.be.Clerk.Unpin(req.ID)
		if e, ok, err := ss.childHeld(ctx, entryAt{dir, name}, child); ok {
			return e, false, ss.answer(ctx, false)
		} else if errors.Is(err, errors.KindStale) {
			return e, true, nil
		} else if err != nil {
			return e, false, err
		}
	} else if isSessionEnd(err) || ctx.Err() != nil {
		return e, false, err
	}
	in, err := ss.fetchInode(ctx, child, max(nameIndex, ss.minIndex(req.ID)))
	if errors.Is(err, errors.KindStale) {
		return e, true, nil // removed meanwhile
	}
	if err != nil {
		return e, false, err
	}
	return Entry{Attr: attrOf(in)}, false, ss.answer(ctx, false)
}

// checkDirWrite is the permission to change entries of a directory.
func (ss *session) checkDirWrite(ctx context.Context, c *Caller, n *node, in *layout.Inode) error {
	return ss.check(ctx, c, n, in, layout.MayWrite|layout.MayExec)
}

// checkSticky is the sticky bit's rule for taking a name away.
func checkSticky(c *Caller, dir, victim *layout.Inode) error {
	if c != nil && c.Check && !layout.MayDelete(c.cred(), dir.Mode, dir.UID, victim.UID) {
		return errors.Of(errors.KindPermission)
	}
	return nil
}

// checkName refuses what cannot be made, renamed or removed.
func checkName(name string) error {
	if len(name) > layout.NameMax {
		return errors.Of(errors.KindNameTooLong)
	}
	if name == "" || name == "." || name == ".." {
		return errors.New(errors.KindInvalid, "%q is no name of an entry", name)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return errors.New(errors.KindInvalid, "a name holds a slash or a zero byte")
		}
	}
	return nil
}

const typeMask = uint32(syscall.S_IFMT)
