package fs

import (
	"context"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// Unlink removes a name of an inode that is no directory. With the last name the inode goes, or
// becomes an orphan while it is open.
func (s *Server) Unlink(ctx context.Context, c *Caller, dir Ino, name string) error {
	return s.remove(ctx, c, uint64(dir), name, false)
}

// Rmdir removes an empty directory.
func (s *Server) Rmdir(ctx context.Context, c *Caller, dir Ino, name string) error {
	switch name {
	case ".":
		return errors.Of(errors.KindInvalid)
	case "..":
		return errors.Of(errors.KindNotEmpty)
	}
	return s.remove(ctx, c, uint64(dir), name, true)
}

func (s *Server) remove(ctx context.Context, c *Caller, dir uint64, name string, rmdir bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.do(ctx, func(ss *session) error {
		for first := true; ; first = false {
			again, err := ss.removeOnce(ctx, c, dir, name, rmdir, first)
			if err != nil || !again {
				return err
			}
		}
	})
}

func (ss *session) removeOnce(ctx context.Context, c *Caller, dir uint64, name string, rmdir, first bool) (again bool, err error) {
	if err := ss.admit(ctx, admitSmall); err != nil {
		return false, err
	}
	child, err := ss.peek(ctx, c, dir, name)
	if err != nil {
		return false, err
	}
	if first && !ss.childAtHand(child, lockserver.Exclusive) {
		if err := ss.fetchAhead(ctx, dir, name, lockserver.Exclusive); err != nil {
			return false, err
		}
	}
	var p pins
	if err := ss.lock(ctx, &p, exclusive(dir), exclusive(child)); err != nil {
		return false, err
	}
	defer p.unlock()
	dn, n := p.of(dir), p.of(child)
	now, err := ss.find(ctx, dn, name)
	if err != nil || now.Ino != child {
		return err == nil, err
	}
	if _, err := ss.load(ctx, n); err != nil {
		return false, err
	}
	t := ss.newTx()
	defer t.done()
	if c.takesOther(child) {
		return false, errors.Of(errors.KindStale)
	}
	if err := ss.checkRemove(ctx, c, dn, n, rmdir); err != nil {
		return false, err
	}
	d := t.dir(ctx, dn)
	if err := d.Remove(name); err != nil {
		return false, err
	}
	ss.stampChange(d.In, true)
	// What is left to the kernel costs a second record. The unlink of a file that is not open does not pay it: an open that
	// it overtakes finds no name, rightly.
	later := ss.dropLink(t, n, d.In, c, rmdir)
	t.completes(completion{})
	if err := t.commit(ctx); err != nil {
		return false, err
	}
	ss.s.known.note(t, child)
	dn.aheadOf().removed()
	if later {
		ss.reapLater(child)
	}
	return false, ss.answer(ctx, true)
}

// takesOther reports whether a kernel takes another directory for the one that is at hand.
func (c *Caller) takesOther(ino uint64) bool { return c != nil && c.Takes != 0 && c.Takes != Ino(ino) }

// checkRemove refuses what may not be removed from dn.
func (ss *session) checkRemove(ctx context.Context, c *Caller, dn, n *node, rmdir bool) error {
	din, in := dn.in.Load(), n.in.Load()
	if err := ss.checkDirWrite(ctx, c, dn, din); err != nil {
		return err
	}
	if err := checkSticky(c, din, in); err != nil {
		return err
	}
	switch {
	case rmdir && !in.IsDir():
		return errors.Of(errors.KindNotDir)
	case !rmdir && in.IsDir():
		return errors.Of(errors.KindIsDir)
	case rmdir && in.Dir.Entries > 0:
		return errors.Of(errors.KindNotEmpty)
	case rmdir && n.ino == layout.RootIno:
		return errors.Of(errors.KindBusy)
	}
	return nil
}

// dropLink takes one link of n, whose entry the tx removed from the directory din.
func (ss *session) dropLink(t *tx, n *node, din *layout.Inode, c *Caller, keep bool) (later bool) {
	in := t.edit(n)
	ss.stampChange(in, false)
	if in.IsDir() {
		din.Nlink--
		return t.dropInode(n, c, keep)
	}
	if in.Nlink--; in.Nlink > 0 {
		return false
	}
	return t.dropInode(n, c, keep)
}
