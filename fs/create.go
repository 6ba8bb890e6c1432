package fs

import (
	"context"
	"syscall"

	"dfs/fs/layout"
	"dfs/internal/errors"
)

// making is what a creating operation wants.
type making struct {
	c       *Caller
	dir     uint64
	name    string
	tmpfile bool   // no name
	mode    uint32 // with type
	rdev    uint32
	target  string // of a symlink
	open    bool
	flags   uint32 // of the open
}

// made is what came out.
type made struct {
	e  Entry
	id Handle
	in OpenInfo
}

// Mknod makes a file, device, fifo or socket.
func (s *Server) Mknod(ctx context.Context, c *Caller, dir Ino, name string, mode, rdev uint32) (Entry, error) {
	switch mode & typeMask {
	case 0:
		mode |= syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
	case syscall.S_IFDIR:
		return Entry{}, errors.Of(errors.KindPermission)
	default:
		return Entry{}, errors.Of(errors.KindInvalid)
	}
	if t := mode & typeMask; c != nil && c.Check && c.UID != 0 && (t == syscall.S_IFCHR || t == syscall.S_IFBLK) {
		return Entry{}, errors.Of(errors.KindPermission)
	}
	if t := mode & typeMask; t != syscall.S_IFCHR && t != syscall.S_IFBLK {
		rdev = 0
	}
	m, err := s.make(ctx, making{c: c, dir: uint64(dir), name: name, mode: mode, rdev: rdev})
	return m.e, err
}

// Mkdir makes a directory.
func (s *Server) Mkdir(ctx context.Context, c *Caller, dir Ino, name string, mode uint32) (Entry, error) {
	m, err := s.make(ctx, making{c: c, dir: uint64(dir), name: name, mode: mode&0o7777 | syscall.S_IFDIR})
	return m.e, err
}

// Symlink makes a symbolic link.
func (s *Server) Symlink(ctx context.Context, c *Caller, dir Ino, name, target string) (Entry, error) {
	switch {
	case target == "":
		return Entry{}, errors.Of(errors.KindNotExist)
	case len(target) > layout.SymlinkMax:
		return Entry{}, errors.Of(errors.KindNameTooLong)
	}
	m, err := s.make(ctx, making{c: c, dir: uint64(dir), name: name, mode: syscall.S_IFLNK | 0o777, target: target})
	return m.e, err
}

// Create makes a regular file and opens it; without O_EXCL an existing one is opened.
func (s *Server) Create(ctx context.Context, c *Caller, dir Ino, name string, mode, flags uint32) (Entry, Handle, OpenInfo, error) {
	for {
		m, err := s.make(ctx, making{c: c, dir: uint64(dir), name: name, mode: mode&0o7777 | syscall.S_IFREG, open: true, flags: flags})
		if !errors.Is(err, errors.KindExist) || flags&syscall.O_EXCL != 0 {
			return m.e, m.id, m.in, err
		}
		e, err := s.Lookup(ctx, c, dir, name)
		if errors.Is(err, errors.KindNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			return e, 0, OpenInfo{}, err
		}
		id, info, err := s.Open(ctx, c, e.Attr.Ino, flags)
		if errors.Is(err, errors.KindStale) {
			continue
		}
		if err == nil && flags&syscall.O_TRUNC != 0 {
			e, err = s.GetAttr(ctx, c, e.Attr.Ino)
		}
		e.AttrCacheable = false // a kernel takes those of a CREATE without a look at their age, even if it knows the inode
		return e, id, info, err
	}
}

// Tmpfile makes a file without a name: an orphan from the start.
func (s *Server) Tmpfile(ctx context.Context, c *Caller, dir Ino, mode, flags uint32) (Entry, Handle, OpenInfo, error) {
	m, err := s.make(ctx, making{c: c, dir: uint64(dir), tmpfile: true, mode: mode&0o7777 | syscall.S_IFREG, open: true, flags: flags})
	return m.e, m.id, m.in, err
}

// make is the one creating operation.
func (s *Server) make(ctx context.Context, k making) (m made, err error) {
	if !k.tmpfile {
		if err := checkName(k.name); err != nil {
			if k.name == "." || k.name == ".." {
				return m, errors.Of(errors.KindExist)
			}
			return m, err
		}
	}
	err = s.do(ctx, func(ss *session) error {
		if err := ss.admit(ctx, admitSmall); err != nil {
			return err
		}
		ino, err := ss.newInode(ctx)
		if err != nil {
			return err
		}
		used := false
		defer func() {
			if !used {
				ss.keepInode(ino)
			}
		}()
		var p pins
		if err := ss.lock(ctx, &p, exclusive(k.dir), exclusive(ino)); err != nil {
			return err
		}
		defer p.unlock()
		t := ss.newTx()
		defer t.done()
		in, err := ss.makeIn(ctx, t, p.of(k.dir), p.of(ino), k)
		if err != nil {
			return err
		}
		if err := t.commit(ctx); err != nil {
			return err
		}
		used = true
		n := p.of(ino)
		if !k.tmpfile {
			n.met(entryAt{k.dir, k.name})
		}
		n.kernelPages.Store(false)
		n.kernelNames.Store(false)
		m.e = ss.entryOf(&p, n, in)
		m.e.NameCacheable = ss.nameCacheable(&p, p.of(k.dir))
		if k.open {
			m.id, m.in = s.openMade(ss, n, k)
		}
		return ss.answer(ctx, true)
	})
	if err != nil && m.id != 0 {
		_ = s.Release(ctx, m.id)
		m.id = 0
	}
	return m, err
}

// openMade opens what was made, whoever may open it.
func (s *Server) openMade(ss *session, n *node, k making) (Handle, OpenInfo) {
	info := OpenInfo{DirectIO: appends(k.flags)}
	h := s.handles.add(ss, n.ino, k.flags&^(syscall.O_CREAT|syscall.O_EXCL|syscall.O_TRUNC), false, info.DirectIO)
	h.check, h.killPriv = k.c != nil && k.c.Check, k.c != nil && k.c.UID != 0
	return h.id, info
}

// makeIn puts the new inode and its name into the tx.
func (ss *session) makeIn(ctx context.Context, t *tx, dir, n *node, k making) (*layout.Inode, error) {
	din, err := ss.load(ctx, dir)
	if err != nil {
		return nil, err
	}
	switch {
	case !din.IsDir():
		return nil, errors.Of(errors.KindNotDir)
	case din.Nlink == 0:
		return nil, errors.Of(errors.KindNotExist)
	}
	if !k.tmpfile {
		if _, err := ss.find(ctx, dir, k.name); err == nil {
			return nil, errors.Of(errors.KindExist)
		} else if !errors.Is(err, errors.KindNotExist) {
			return nil, err
		}
	}
	if err := ss.checkDirWrite(ctx, k.c, dir, din); err != nil {
		return nil, err
	}
	in, err := ss.newFile(ctx, t, dir, din, n, k)
	if err != nil {
		return nil, err
	}
	t.completes(completion{ino: n.ino})
	if k.tmpfile {
		in.Nlink, in.Flags = 0, in.Flags|layout.FlagOrphan
		t.addOrphan(n.ino, layout.OrphanUnlinked)
		return in, nil
	}
	d := t.dir(ctx, dir)
	if err := d.Insert(k.name, n.ino, k.mode&typeMask); err != nil {
		return nil, err
	}
	if in.IsDir() {
		if d.In.Nlink >= layout.LinkMax {
			return nil, errors.Of(errors.KindTooManyLinks)
		}
		d.In.Nlink++
	}
	ss.stampChange(d.In, true)
	return in, nil
}

// newFile makes the inode: owner, mode, ACLs as the directory has it.
func (ss *session) newFile(ctx context.Context, t *tx, dir *node, din *layout.Inode, n *node, k making) (*layout.Inode, error) {
	now := ss.now()
	in := &layout.Inode{Ino: n.ino, Mode: k.mode, Nlink: 1, Rdev: k.rdev, Atime: now, Mtime: now, Ctime: now, Btime: now}
	umask := uint32(0)
	if k.c != nil {
		in.UID, in.GID, umask = k.c.UID, k.c.GID, k.c.Umask
	}
	if din.Mode&syscall.S_ISGID != 0 {
		in.GID = din.GID
		if in.IsDir() {
			in.Mode |= syscall.S_ISGID
		}
	}
	t.create(n, in)
	switch {
	case in.IsSymlink():
		in.Size = uint64(len(k.target))
		in.Flags, in.Inline = layout.FlagInline, []byte(k.target)
		if len(k.target) > in.InlineRoom() {
			return in, in.SpillInline(t.vdisk(ctx, n))
		}
		return in, nil
	case in.IsDir():
		in.NewDir(dir.ino, randomSeed())
	case in.IsRegular():
		in.Flags = layout.FlagInline
	}
	return in, ss.inheritACL(ctx, t, dir, din, n, in, umask)
}

// inheritACL applies the directory's default ACL, or the umask without one.
func (ss *session) inheritACL(ctx context.Context, t *tx, dir *node, din *layout.Inode, n *node, in *layout.Inode, umask uint32) error {
	if !din.HasXattrs() {
		in.Mode &^= umask & 0o777
		return nil
	}
	def, err := din.DefaultACL(t.vdisk(ctx, dir))
	if err != nil {
		return err
	}
	mode, acl := layout.InheritACL(def, in.Mode, umask)
	in.Mode = mode
	v := t.vdisk(ctx, n)
	if acl != nil {
		if err := in.XattrSet(v, layout.XattrACLAccess, acl.Encode(), 0); err != nil {
			return err
		}
	}
	if def != nil && in.IsDir() {
		return in.XattrSet(v, layout.XattrACLDefault, def.Encode(), 0)
	}
	return nil
}

// Link makes another name of an inode that is no directory.
func (s *Server) Link(ctx context.Context, c *Caller, ino, dir Ino, name string) (e Entry, err error) {
	if err := checkName(name); err != nil {
		if name == "." || name == ".." {
			return e, errors.Of(errors.KindExist)
		}
		return e, err
	}
	err = s.do(ctx, func(ss *session) error {
		if err := ss.admit(ctx, admitSmall); err != nil {
			return err
		}
		if ino == dir {
			return errors.Of(errors.KindPermission)
		}
		var p pins
		if err := ss.lock(ctx, &p, exclusive(uint64(dir)), exclusive(uint64(ino))); err != nil {
			return err
		}
		defer p.unlock()
		dn, n := p.of(uint64(dir)), p.of(uint64(ino))
		t := ss.newTx()
		defer t.done()
		t.completes(completion{})
		if err := ss.link(ctx, c, t, dn, n, name); err != nil {
			return err
		}
		if err := t.commit(ctx); err != nil {
			return err
		}
		e = ss.entryOf(&p, n, n.in.Load())
		e.NameCacheable = ss.nameCacheable(&p, dn)
		return ss.answer(ctx, true)
	})
	return e, err
}

func (ss *session) link(ctx context.Context, c *Caller, t *tx, dn, n *node, name string) error {
	din, err := ss.load(ctx, dn)
	if err != nil {
		return err
	}
	old, err := ss.load(ctx, n)
	if err != nil {
		return err
	}
	switch {
	case !din.IsDir():
		return errors.Of(errors.KindNotDir)
	case din.Nlink == 0:
		return errors.Of(errors.KindNotExist)
	case old.IsDir():
		return errors.Of(errors.KindPermission)
	}
	if _, err := ss.find(ctx, dn, name); err == nil {
		return errors.Of(errors.KindExist)
	} else if !errors.Is(err, errors.KindNotExist) {
		return err
	}
	if err := ss.checkDirWrite(ctx, c, dn, din); err != nil {
		return err
	}
	if old.Nlink >= layout.LinkMax {
		return errors.Of(errors.KindTooManyLinks)
	}
	in := t.edit(n)
	if in.Flags&layout.FlagOrphan != 0 {
		if !ss.s.handles.isOpen(n.ino) {
			return errors.Of(errors.KindNotExist)
		}
		in.Flags &^= layout.FlagOrphan // linkat of an O_TMPFILE
		t.clearOrphan(n.ino, layout.OrphanUnlinked)
	}
	in.Nlink++
	ss.stampChange(in, false)
	d := t.dir(ctx, dn)
	if err := d.Insert(name, n.ino, in.Mode&typeMask); err != nil {
		return err
	}
	ss.stampChange(d.In, true)
	return nil
}
