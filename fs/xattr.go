package fs

import (
	"context"
	"slices"
	"strings"

	"dfs/fs/layout"
	"dfs/internal/errors"
)

// xattrAllowed refuses names that this inode cannot have, as Linux does.
func xattrAllowed(c *Caller, in *layout.Inode, name string, write bool) error {
	switch {
	case name == "" || len(name) > layout.XattrNameMax:
		return errors.Of(errors.KindRange)
	case name == "user." || name == "trusted." || name == "security.":
		return errors.New(errors.KindInvalid, "extended attribute %q has no name behind its namespace", name)
	case strings.HasPrefix(name, "user.") && len(name) > 5:
		if !in.IsRegular() && !in.IsDir() {
			if write {
				return errors.Of(errors.KindPermission)
			}
			return errors.Of(errors.KindNoAttr)
		}
		if write && in.IsDir() && in.Mode&0o1000 != 0 && c != nil && c.Check && c.UID != 0 && c.UID != in.UID {
			return errors.Of(errors.KindPermission)
		}
	case strings.HasPrefix(name, "trusted.") && len(name) > 8:
		if c != nil && c.Check && c.UID != 0 {
			if write {
				return errors.Of(errors.KindPermission)
			}
			return errors.Of(errors.KindNoAttr)
		}
	case strings.HasPrefix(name, "security.") && len(name) > 9:
		if write && c != nil && c.Check && c.UID != 0 {
			return errors.Of(errors.KindPermission)
		}
	case isACL(name):
		if in.IsSymlink() {
			return errors.Of(errors.KindNotSupported)
		}
		if write && c != nil && c.Check && c.UID != 0 && c.UID != in.UID {
			return errors.Of(errors.KindPermission)
		}
	default:
		return errors.New(errors.KindNotSupported, "extended attribute %q is in no namespace that is kept", name)
	}
	return nil
}

func isACL(name string) bool { return name == layout.XattrACLAccess || name == layout.XattrACLDefault }

// checkXattr adds the permission that user attributes ask for.
func (ss *session) checkXattr(ctx context.Context, c *Caller, n *node, in *layout.Inode, name string, mask uint32) error {
	if err := xattrAllowed(c, in, name, mask == layout.MayWrite); err != nil {
		return err
	}
	if strings.HasPrefix(name, "user.") {
		return ss.check(ctx, c, n, in, mask)
	}
	return nil
}

// GetXattr returns a value. KindNoAttr.
func (s *Server) GetXattr(ctx context.Context, c *Caller, ino Ino, name string) (value []byte, err error) {
	err = s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if err := ss.checkXattr(ctx, c, n, in, name, layout.MayRead); err != nil {
				return err
			}
			t := ss.newTx()
			defer t.done()
			if value, err = in.XattrGet(t.vdisk(ctx, n), name); err != nil {
				return err
			}
			return ss.answer(ctx, false)
		})
	})
	return value, err
}

// SetXattr sets a value. An access ACL changes the mode with it, and one that says no more than a mode is not kept.
func (s *Server) SetXattr(ctx context.Context, c *Caller, ino Ino, name string, value []byte, flags uint32) error {
	return s.changeXattr(ctx, c, ino, name, len(value), func(ss *session, t *tx, n *node, in *layout.Inode) error {
		if flags&^3 != 0 {
			return errors.Of(errors.KindInvalid)
		}
		v := t.vdisk(ctx, n)
		if isACL(name) {
			return setACL(c, t, n, in, v, name, value, int(flags))
		}
		return xattrSet(t, n, in, v, name, value, int(flags))
	})
}

// RemoveXattr removes one. KindNoAttr.
func (s *Server) RemoveXattr(ctx context.Context, c *Caller, ino Ino, name string) error {
	return s.changeXattr(ctx, c, ino, name, 0, func(ss *session, t *tx, n *node, in *layout.Inode) error {
		err := in.XattrRemove(t.vdisk(ctx, n), name)
		if isACL(name) && errors.Is(err, errors.KindNoAttr) {
			return nil // as on Linux
		}
		return err
	})
}

func (s *Server) changeXattr(ctx context.Context, c *Caller, ino Ino, name string, size int, change func(*session, *tx, *node, *layout.Inode) error) error {
	return s.do(ctx, func(ss *session) error {
		if err := ss.admit(ctx, admitSmall+2*size); err != nil {
			return err
		}
		return ss.do1(ctx, exclusive(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if err := ss.checkXattr(ctx, c, n, in, name, layout.MayWrite); err != nil {
				return err
			}
			t := ss.newTx()
			defer t.done()
			e := t.edit(n)
			if err := change(ss, t, n, e); err != nil {
				return err
			}
			ss.stampChange(e, false)
			t.completes(completion{})
			if err := t.commit(ctx); err != nil {
				return err
			}
			return ss.answer(ctx, true)
		})
	})
}

func setACL(c *Caller, t *tx, n *node, in *layout.Inode, v layout.Blocks, name string, value []byte, flags int) error {
	acl, err := layout.ParseACL(value)
	if err != nil {
		return err
	}
	remove := acl == nil
	if name == layout.XattrACLDefault {
		if !in.IsDir() {
			if remove {
				return nil
			}
			return errors.Of(errors.KindAccess)
		}
	} else if !remove {
		in.Mode, remove = acl.Mode(in.Mode)
		if c != nil && (c.Check && c.UID != 0 && !c.cred().InGroup(in.GID) || !c.Check && c.KillPriv) {
			in.Mode &^= 0o2000
		}
	}
	if remove {
		if err := in.XattrRemove(v, name); err != nil && !errors.Is(err, errors.KindNoAttr) {
			return err
		}
		return nil
	}
	return xattrSet(t, n, in, v, name, acl.Encode(), flags)
}

// ListXattr lists the names.
func (s *Server) ListXattr(ctx context.Context, c *Caller, ino Ino) (names []string, err error) {
	err = s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(uint64(ino)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			names = in.XattrNames()
			if c != nil && c.UID != 0 { // a kernel does not filter the list
				names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "trusted.") })
			}
			return ss.answer(ctx, false)
		})
	})
	return names, err
}
