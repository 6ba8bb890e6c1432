package fs

import (
	"context"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// Linux's rename flags.
const (
	renameNoReplace = 1
	renameExchange  = 2
)

// renaming is a rename under way.
type renaming struct {
	c               *Caller
	dir, newDir     uint64
	name, newName   string
	noReplace, exch bool
	child, victim   uint64 // victim 0: none
	childDir        bool
	victimDir       bool
	dn, ndn, cn, vn *node
	treeLock        bool      // LockRename is held
	checked         [2]uint64 // child and victim for which the walk found no loop
}

// Rename moves a name, replacing another atomically.
//
// A directory that moves to another parent changes the tree, so LockRename is taken first of all: with it held no other such move is
// under way, and the walk from the new parent up to the root, which refuses a move of a directory below itself, stays true.
func (s *Server) Rename(ctx context.Context, c *Caller, dir Ino, name string, newDir Ino, newName string, flags uint32) error {
	if flags&^(renameNoReplace|renameExchange) != 0 || flags == renameNoReplace|renameExchange {
		return errors.Of(errors.KindInvalid)
	}
	for _, x := range [...]string{name, newName} {
		if x == "." || x == ".." {
			return errors.Of(errors.KindBusy)
		}
		if err := checkName(x); err != nil {
			return err
		}
	}
	return s.do(ctx, func(ss *session) error {
		r := renaming{c: c, dir: uint64(dir), name: name, newDir: uint64(newDir), newName: newName,
			noReplace: flags&renameNoReplace != 0, exch: flags&renameExchange != 0}
		defer func() {
			if r.treeLock {
				ss.treeMu.unlock(true)
				ss.be.Clerk.Unpin(lockserver.LockRename)
			}
		}()
		for {
			again, err := ss.renameOnce(ctx, &r)
			if err != nil || !again {
				return err
			}
		}
	})
}

func (ss *session) renameOnce(ctx context.Context, r *renaming) (again bool, err error) {
	if err := ss.admit(ctx, 2*admitSmall); err != nil {
		return false, err
	}
	if err := ss.renamePeek(ctx, r); err != nil {
		return false, err
	}
	if r.dir != r.newDir && (r.childDir || r.exch && r.victimDir) {
		if err := ss.renameTree(ctx, r); err != nil {
			return false, err
		}
	}
	var p pins
	if err := ss.lock(ctx, &p, exclusive(r.dir), exclusive(r.newDir), exclusive(r.child), exclusive(r.victim)); err != nil {
		return false, err
	}
	defer p.unlock()
	if again, err := ss.renameRecheck(ctx, &p, r); err != nil || again {
		return again, err
	}
	if err := ss.renameCheck(ctx, r); err != nil {
		return false, err
	}
	if r.c.takesOther(r.victim) {
		return false, errors.Of(errors.KindStale)
	}
	if r.child == r.victim {
		return false, ss.answer(ctx, false) // two names of one inode: nothing is done
	}
	t := ss.newTx()
	defer t.done()
	later, err := ss.renameChange(ctx, t, r)
	if err != nil {
		return false, err
	}
	t.completes(completion{})
	if err := t.commit(ctx); err != nil {
		return false, err
	}
	r.cn.met(entryAt{r.newDir, r.newName})
	if r.exch {
		r.vn.met(entryAt{r.dir, r.name})
	}
	ss.s.known.note(t, r.victim)
	if later {
		ss.reapLater(r.victim)
	}
	return false, ss.answer(ctx, true)
}

// renamePeek finds which inodes are concerned.
func (ss *session) renamePeek(ctx context.Context, r *renaming) error {
	look := func(dir uint64, name string) (layout.Entry, error) {
		var e layout.Entry
		err := ss.do1(ctx, shared(dir), func(n *node) (err error) {
			e, err = ss.find(ctx, n, name)
			return err
		})
		return e, err
	}
	e, err := look(r.dir, r.name)
	if err != nil {
		return err
	}
	r.child, r.childDir = e.Ino, isDirType(e.Type)
	e, err = look(r.newDir, r.newName)
	if errors.Is(err, errors.KindNotExist) {
		e, err = layout.Entry{}, nil
	}
	r.victim, r.victimDir = e.Ino, isDirType(e.Type)
	return err
}

func isDirType(t uint32) bool { return t&typeMask == 0o040000 }

// renameTree takes LockRename and refuses loops.
func (ss *session) renameTree(ctx context.Context, r *renaming) error {
	if !r.treeLock {
		bctx, cancel := ss.bound(ctx)
		defer cancel()
		if err := ss.be.Clerk.Acquire(bctx, lockserver.Request{ID: lockserver.LockRename, Mode: lockserver.Exclusive}); err != nil {
			return ss.waited(ctx, err, "waiting for another move of a directory")
		}
		if err := ss.treeMu.lock(bctx, true); err != nil {
			ss.be.Clerk.Unpin(lockserver.LockRename)
			return ss.waited(ctx, err, "waiting for another move of a directory")
		}
		r.treeLock = true
	}
	if r.childDir {
		if err := ss.notAncestor(ctx, r.child, r.newDir); err != nil {
			return err
		}
		r.checked[0] = r.child
	}
	if r.exch && r.victimDir {
		if err := ss.notAncestor(ctx, r.victim, r.dir); err != nil {
			return err
		}
		r.checked[1] = r.victim
	}
	return nil
}

// notAncestor walks from dir to the root and refuses to meet ino. KindInvalid.
func (ss *session) notAncestor(ctx context.Context, ino, dir uint64) error {
	for at, steps := dir, 0; ; steps++ {
		if at == ino {
			return errors.New(errors.KindInvalid, "a directory cannot move below itself")
		}
		if at == layout.RootIno {
			return nil
		}
		if steps > 1<<20 {
			return errors.New(errors.KindCorrupt, "directory %d has no way to the root; run dfs fsck", dir)
		}
		err := ss.do1(ctx, shared(at), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if !in.IsDir() {
				return errors.Of(errors.KindNotDir)
			}
			at = in.Parent
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// renameRecheck loads what is locked and looks whether it is still what was looked up.
func (ss *session) renameRecheck(ctx context.Context, p *pins, r *renaming) (again bool, err error) {
	r.dn, r.ndn, r.cn, r.vn = p.of(r.dir), p.of(r.newDir), p.of(r.child), nil
	e, err := ss.find(ctx, r.dn, r.name)
	if err != nil {
		return false, err
	}
	v, err := ss.find(ctx, r.ndn, r.newName)
	if errors.Is(err, errors.KindNotExist) {
		v, err = layout.Entry{}, nil
	}
	if err != nil {
		return false, err
	}
	if e.Ino != r.child || v.Ino != r.victim {
		return true, nil
	}
	if _, err := ss.load(ctx, r.cn); err != nil {
		return false, err
	}
	if r.victim != 0 {
		r.vn = p.of(r.victim)
		if _, err := ss.load(ctx, r.vn); err != nil {
			return false, err
		}
	}
	return false, nil
}

// renameCheck is everything that may refuse a rename.
func (ss *session) renameCheck(ctx context.Context, r *renaming) error {
	din, ndin, in := r.dn.in.Load(), r.ndn.in.Load(), r.cn.in.Load()
	if err := ss.checkDirWrite(ctx, r.c, r.dn, din); err != nil {
		return err
	}
	if err := ss.checkDirWrite(ctx, r.c, r.ndn, ndin); err != nil {
		return err
	}
	if ndin.Nlink == 0 {
		return errors.Of(errors.KindNotExist)
	}
	if err := checkSticky(r.c, din, in); err != nil {
		return err
	}
	if in.IsDir() && r.dir != r.newDir {
		// A directory's ".." is written with it.
		if err := ss.check(ctx, r.c, r.cn, in, layout.MayWrite); err != nil {
			return err
		}
	}
	if r.victim == r.dir && !r.exch {
		return errors.Of(errors.KindNotEmpty)
	}
	if r.child == r.newDir || r.exch && r.victim == r.dir {
		return errors.Of(errors.KindInvalid)
	}
	if r.vn == nil {
		if r.exch {
			return errors.Of(errors.KindNotExist)
		}
		if in.IsDir() && r.dir != r.newDir && ndin.Nlink >= layout.LinkMax {
			return errors.Of(errors.KindTooManyLinks)
		}
		return nil
	}
	if r.noReplace {
		return errors.Of(errors.KindExist)
	}
	return ss.renameCheckVictim(r, ndin, in, r.vn.in.Load())
}

func (ss *session) renameCheckVictim(r *renaming, ndin, in, vin *layout.Inode) error {
	if err := checkSticky(r.c, ndin, vin); err != nil {
		return err
	}
	if r.exch || r.child == r.victim {
		return nil
	}
	switch {
	case in.IsDir() && !vin.IsDir():
		return errors.Of(errors.KindNotDir)
	case !in.IsDir() && vin.IsDir():
		return errors.Of(errors.KindIsDir)
	case vin.IsDir() && vin.Dir.Entries > 0:
		return errors.Of(errors.KindNotEmpty)
	}
	return nil
}

// renameChange puts the change into the tx.
func (ss *session) renameChange(ctx context.Context, t *tx, r *renaming) (later bool, err error) {
	d, nd := t.dir(ctx, r.dn), t.dir(ctx, r.ndn)
	in := t.edit(r.cn)
	typ := in.Mode & typeMask
	cross := r.dir != r.newDir
	switch {
	case r.exch:
		vin := t.edit(r.vn)
		if err := nd.Replace(r.newName, r.child, typ); err != nil {
			return false, err
		}
		if err := d.Replace(r.name, r.victim, vin.Mode&typeMask); err != nil {
			return false, err
		}
		if cross && vin.IsDir() {
			vin.Parent = r.dir
			nd.In.Nlink--
			d.In.Nlink++
		}
		ss.stampChange(vin, false)
	case r.vn != nil:
		if err := nd.Replace(r.newName, r.child, typ); err != nil {
			return false, err
		}
		later = ss.dropLink(t, r.vn, nd.In, r.c, true)
	default:
		if err := nd.Insert(r.newName, r.child, typ); err != nil {
			return false, err
		}
	}
	if !r.exch {
		if err := d.Remove(r.name); err != nil {
			return false, err
		}
	}
	if cross && in.IsDir() {
		in.Parent = r.newDir
		d.In.Nlink--
		nd.In.Nlink++
	}
	ss.stampChange(in, false)
	ss.stampChange(d.In, true)
	if cross {
		ss.stampChange(nd.In, true)
	}
	return later, nil
}
