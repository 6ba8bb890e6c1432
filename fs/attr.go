package fs

import (
	"context"
	"syscall"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// attrOf is what stat tells of an inode.
func attrOf(in *layout.Inode) Attr {
	return Attr{
		Ino: Ino(in.Ino), Mode: in.Mode, Nlink: in.Nlink, UID: in.UID, GID: in.GID, Rdev: in.Rdev,
		Size: in.Size, Blocks: sectors(in),
		Atime: in.Atime.Time(), Mtime: in.Mtime.Time(), Ctime: in.Ctime.Time(), Btime: in.Btime.Time(),
	}
}

// sectors is st_blocks: the inode's own block counts where it holds data or names, as a file whose bytes
// take no block at all looks sparse to tar and cp.
func sectors(in *layout.Inode) uint64 {
	n := in.Blocks
	if in.Flags&layout.FlagInline != 0 && (len(in.Inline) > 0 || in.IsDir()) {
		n++
	}
	return n * (blockSize / 512)
}

// entryOf is the answer about an inode locked by the operation.
func (ss *session) entryOf(p *pins, n *node, in *layout.Inode) Entry {
	c := p.cacheable(n.ino)
	if c {
		n.kernelAttr.Store(true)
	}
	return Entry{Attr: attrOf(in), AttrCacheable: c}
}

func (ss *session) now() layout.Time { return layout.TimeOf(ss.s.opts.Now()) }

// stampChange sets ctime (and mtime) of a changed inode; both strictly rise.
func (ss *session) stampChange(in *layout.Inode, mtime bool) {
	now := ss.now()
	prev := in.Ctime
	if mtime && prev.Before(in.Mtime) {
		prev = in.Mtime
	}
	t := layout.Later(prev, now)
	in.Ctime = t
	if mtime {
		in.Mtime = t
	}
}

// cred is who acts, for layout's checks.
func (c *Caller) cred() layout.Cred { return layout.Cred{UID: c.UID, GID: c.GID, Groups: c.Groups} }

// access checks the mask against mode and ACL. KindAccess.
func (ss *session) access(ctx context.Context, c *Caller, n *node, in *layout.Inode, mask uint32) error {
	var acl layout.ACL
	if c.UID != 0 && in.HasXattrs() && in.Mode&0o070 != 0 {
		t := ss.newTx()
		defer t.done()
		var err error
		if acl, err = in.AccessACL(t.vdisk(ctx, n)); err != nil {
			return err
		}
	}
	if !layout.MayAccess(c.cred(), in.Mode, in.UID, in.GID, acl, mask) {
		return errors.Of(errors.KindAccess)
	}
	return nil
}

// check is access where the caller wants checks.
func (ss *session) check(ctx context.Context, c *Caller, n *node, in *layout.Inode, mask uint32) error {
	if c == nil || !c.Check {
		return nil
	}
	return ss.access(ctx, c, n, in, mask)
}

// statUse is how GetAttr uses an inode: where the lock of a file whose pages are filled under Exclusive was taken away, the kernel asks for
// the attributes before it reads, and one hand-over does for both.
func (ss *session) statUse(ino uint64) use {
	u := shared(ino)
	if ss.s.handles.mayDirty(ino) && ss.be.Clerk.Held(lockserver.LockID(ino)) == lockserver.None {
		u.mode = lockserver.Exclusive
	}
	return u
}

// GetAttr tells the attributes.
func (s *Server) GetAttr(ctx context.Context, c *Caller, ino Ino) (e Entry, err error) {
	err = s.do(ctx, func(ss *session) error {
		var p pins
		if err := ss.lock(ctx, &p, ss.statUse(uint64(ino))); err != nil {
			return err
		}
		defer p.unlock()
		n := p.of(uint64(ino))
		in, err := ss.loadLikely(ctx, n)
		if err != nil {
			return err
		}
		e = ss.entryOf(&p, n, in)
		return ss.answer(ctx, false)
	})
	return e, err
}

// Access checks as access(2) does, always.
func (s *Server) Access(ctx context.Context, c *Caller, ino Ino, mask uint32) error {
	if mask&^7 != 0 {
		return errors.Of(errors.KindInvalid)
	}
	return s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if err := ss.access(ctx, c, n, in, mask); err != nil {
				return err
			}
			return ss.answer(ctx, false)
		})
	})
}

// Readlink returns a symlink's target. KindInvalid if it is none.
func (s *Server) Readlink(ctx context.Context, c *Caller, ino Ino) (target string, err error) {
	err = s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if !in.IsSymlink() {
				return errors.Of(errors.KindInvalid)
			}
			if in.Flags&layout.FlagInline != 0 {
				target = string(in.Inline)
				return ss.answer(ctx, false)
			}
			t := ss.newTx()
			defer t.done()
			block, err := t.vdisk(ctx, n).Get(0)
			if err != nil {
				return err
			}
			target = string(block[:min(in.Size, blockSize)])
			return ss.answer(ctx, false)
		})
	})
	return target, err
}

// SetAttr changes attributes: all in one record, but for the steps in which a great truncation frees blocks behind it.
func (s *Server) SetAttr(ctx context.Context, c *Caller, ino Ino, h Handle, a SetAttr) (e Entry, err error) {
	if a.Size != nil && *a.Size > layout.MaxFileSize {
		return e, errors.Of(errors.KindFileTooBig)
	}
	var hd *handle
	if h != 0 {
		if hd, err = s.handles.get(h); err != nil {
			return e, err
		}
		if hd.ino != uint64(ino) || a.Size != nil && !hd.mayWrite() {
			return e, errors.Of(errors.KindInvalid)
		}
	}
	err = s.do(ctx, func(ss *session) error {
		if err := ss.admit(ctx, admitSmall); err != nil {
			return err
		}
		var p pins
		u := exclusive(uint64(ino))
		if a.Size != nil {
			u.kind = ioTruncate
		}
		if err := ss.lock(ctx, &p, u); err != nil {
			return err
		}
		defer p.unlock()
		n := p.of(uint64(ino))
		in, err := ss.load(ctx, n)
		if err != nil {
			return err
		}
		if err := ss.maySetAttr(ctx, c, n, in, hd, a); err != nil {
			return err
		}
		if err := ss.setAttr(ctx, c, n, a); err != nil {
			return err
		}
		e = ss.entryOf(&p, n, n.in.Load())
		return ss.answer(ctx, true)
	})
	return e, err
}

// setAttr makes the change of SetAttr.
func (ss *session) setAttr(ctx context.Context, c *Caller, n *node, a SetAttr) error {
	if a.Size != nil {
		defer n.rv.settle()
		return ss.truncate(ctx, n, *a.Size, completion{state: layout.ClientDone}, func(t *tx, _ *layout.Inode) error { return ss.applyAttr(ctx, c, t, n, a) })
	}
	t := ss.newTx()
	defer t.done()
	if err := ss.applyAttr(ctx, c, t, n, a); err != nil || len(t.inodes) == 0 {
		return err
	}
	t.completes(completion{})
	return t.commit(ctx)
}

// maySetAttr refuses what the type of the inode or (with Check) the caller's rights do not allow.
func (ss *session) maySetAttr(ctx context.Context, c *Caller, n *node, in *layout.Inode, h *handle, a SetAttr) error {
	if a.Size != nil {
		switch {
		case in.IsDir():
			return errors.Of(errors.KindIsDir)
		case !in.IsRegular():
			return errors.Of(errors.KindInvalid)
		}
		if h == nil {
			if err := ss.check(ctx, c, n, in, layout.MayWrite); err != nil {
				return err
			}
		}
	}
	if c == nil || !c.Check || c.UID == 0 {
		return nil
	}
	owner := c.UID == in.UID
	eperm := errors.Of(errors.KindPermission)
	if a.Mode != nil && !owner {
		return eperm
	}
	if a.UID != nil && (!owner || *a.UID != in.UID) {
		return eperm
	}
	if a.GID != nil && (!owner || *a.GID != in.GID && !c.cred().InGroup(*a.GID)) {
		return eperm
	}
	if (a.Atime != nil || a.Mtime != nil) && !owner {
		return eperm
	}
	if (a.AtimeNow || a.MtimeNow) && !owner {
		return ss.check(ctx, c, n, in, layout.MayWrite)
	}
	return nil
}

// applyAttr puts all but the size into the tx.
func (ss *session) applyAttr(ctx context.Context, c *Caller, t *tx, n *node, a SetAttr) error {
	chown := a.UID != nil || a.GID != nil
	if a.Mode == nil && !chown && a.Atime == nil && a.Mtime == nil && !a.AtimeNow && !a.MtimeNow && !a.KillPriv {
		return nil
	}
	in := t.edit(n)
	if a.UID != nil {
		in.UID = *a.UID
	}
	if a.GID != nil {
		in.GID = *a.GID
	}
	if chown && a.Mode == nil || a.KillPriv {
		// As Linux: a change of owner clears set-id bits, for root too.
		in.Mode = layout.KillPriv(in.Mode)
		if chown {
			if err := dropCapability(ctx, t, n, in); err != nil {
				return err
			}
		}
	}
	if a.Mode != nil {
		if err := setMode(ctx, c, t, n, in, *a.Mode); err != nil {
			return err
		}
	}
	ss.stampChange(in, false)
	now := in.Ctime
	if a.AtimeNow {
		in.Atime = now
	} else if a.Atime != nil {
		in.Atime = layout.TimeOf(*a.Atime)
	}
	if a.MtimeNow {
		in.Mtime = now
	} else if a.Mtime != nil {
		in.Mtime = layout.TimeOf(*a.Mtime)
	}
	return nil
}

// setMode is chmod: the ACL's mask (or group entry) follows, and a caller outside of
// the group loses the set-group-id bit.
func setMode(ctx context.Context, c *Caller, t *tx, n *node, in *layout.Inode, mode uint32) error {
	if in.IsSymlink() {
		return errors.Of(errors.KindNotSupported)
	}
	mode = in.Mode&syscall.S_IFMT | mode&0o7777
	if c != nil && c.Check && c.UID != 0 && !c.cred().InGroup(in.GID) {
		mode &^= syscall.S_ISGID
	}
	in.Mode = mode
	if _, ok := in.XattrSize(layout.XattrACLAccess); !ok {
		return nil
	}
	v := t.vdisk(ctx, n)
	acl, err := in.AccessACL(v)
	if err != nil || acl == nil {
		return err
	}
	return xattrSet(t, n, in, v, layout.XattrACLAccess, acl.Chmod(mode).Encode(), 0)
}

// dropCapability removes security.capability, which a change of owner or content invalidates.
func dropCapability(ctx context.Context, t *tx, n *node, in *layout.Inode) error {
	if _, ok := in.XattrSize("security.capability"); !ok {
		return nil
	}
	return in.XattrRemove(t.vdisk(ctx, n), "security.capability")
}

// xattrSet is Inode.XattrSet, noting that it may move inline data of a file into block 0.
func xattrSet(t *tx, n *node, in *layout.Inode, v layout.Blocks, name string, value []byte, flags int) error {
	inline := in.Flags&layout.FlagInline != 0 && len(in.Inline) > 0
	if err := in.XattrSet(v, name, value, flags); err != nil {
		return err
	}
	if inline && in.Flags&layout.FlagInline == 0 && !in.IsDir() {
		t.marks = append(t.marks, txMark{n: n, first: 0, count: 1, present: true})
	}
	return nil
}
