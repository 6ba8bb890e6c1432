package fs

import (
	"slices"
	"syscall"
	"testing"

	"dfs/fs/layout"
)

// What Linux does on a local file system, each found by comparing with one.

// TestWriteAs: whether a write appends is told with the write, not by the open.
func TestWriteAs(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	m.write(h, "0123456789", 0)
	a, _, err := m.Open(ctx, root, ino, syscall.O_RDWR|syscall.O_APPEND)
	m.must(err)
	// A mapping's page, written back through a handle that appends.
	_, err = m.WriteAs(ctx, a, []byte("abc"), 2, false, false)
	m.must(err)
	// O_APPEND set after the open.
	at, err := m.WriteAs(ctx, h, []byte("end"), 0, false, true)
	m.must(err)
	if got := m.read(h, 100, 0); got != "01abc56789end" || at != 10 {
		t.Errorf("%q, appended at %d", got, at)
	}
}

// TestSetIDOfRoot: an allocation and a copy leave root's set-id bits alone, and clear others'.
func TestSetIDOfRoot(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	_, from := m.create(RootIno, "from")
	m.write(from, "copied", 0)
	for _, uid := range []uint32{0, 5} {
		for what, change := range map[string]func(h Handle) error{
			"allocate": func(h Handle) error { return m.Allocate(ctx, h, 0, 9000, 0) },
			"punch":    func(h Handle) error { return m.Allocate(ctx, h, 0, 9000, fallocPunchHole|fallocKeepSize) },
			"zero":     func(h Handle) error { return m.Allocate(ctx, h, 0, 9000, fallocZeroRange) },
			"copy":     func(h Handle) error { _, err := m.CopyRange(ctx, from, 0, h, 0, 6); return err },
		} {
			ino, _ := m.create(RootIno, "f")
			bits, wanted := uint32(0o6755), uint32(0o6755)
			_, err := m.SetAttr(ctx, root, ino, 0, SetAttr{Mode: &bits})
			m.must(err)
			h, _, err := m.Open(ctx, &Caller{UID: uid}, ino, syscall.O_RDWR)
			m.must(err)
			m.must(change(h))
			if uid != 0 {
				wanted = 0o755
			}
			if got := m.attr(ino).Mode & 0o7777; got != wanted {
				t.Errorf("%s by %d: %o, want %o", what, uid, got, wanted)
			}
			m.must(m.Unlink(ctx, root, RootIno, "f"))
		}
	}
}

func TestXattrNamesAndLists(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	ino, _ := m.create(RootIno, "f")
	for _, name := range []string{"user.", "trusted.", "security."} {
		want(t, "set "+name, m.SetXattr(ctx, root, ino, name, []byte("v"), 0), syscall.EINVAL)
		_, err := m.GetXattr(ctx, root, ino, name)
		want(t, "get "+name, err, syscall.EINVAL)
	}
	want(t, "no namespace", m.SetXattr(ctx, root, ino, "user", []byte("v"), 0), syscall.EOPNOTSUPP)
	m.must(m.SetXattr(ctx, root, ino, "user.a", []byte("v"), 0))
	m.must(m.SetXattr(ctx, root, ino, "trusted.b", []byte("v"), 0))
	for uid, wanted := range map[uint32][]string{0: {"trusted.b", "user.a"}, 1234: {"user.a"}} {
		names, err := m.ListXattr(ctx, &Caller{UID: uid}, ino)
		m.must(err)
		slices.Sort(names)
		if !slices.Equal(names, wanted) {
			t.Errorf("user %d sees %q, want %q", uid, names, wanted)
		}
	}
}

// TestACLKillsSetGroupID: a kernel tells that who sets an access ACL is outside of the group.
func TestACLKillsSetGroupID(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	acl := layout.ACL{{Tag: layout.ACLUserObj, Perm: 7}, {Tag: layout.ACLUser, Perm: 4, ID: 9}, {Tag: layout.ACLGroupObj, Perm: 5},
		{Tag: layout.ACLMask, Perm: 5}, {Tag: layout.ACLOther, Perm: 5}}
	for _, kill := range []bool{false, true} {
		ino, _ := m.create(RootIno, "f")
		bits := uint32(0o2755)
		_, err := m.SetAttr(ctx, root, ino, 0, SetAttr{Mode: &bits})
		m.must(err)
		m.must(m.SetXattr(ctx, &Caller{UID: 5, KillPriv: kill}, ino, layout.XattrACLAccess, acl.Encode(), 0))
		if got := m.attr(ino).Mode&syscall.S_ISGID == 0; got != kill {
			t.Errorf("told to clear: %v, cleared: %v", kill, got)
		}
		m.must(m.Unlink(ctx, root, RootIno, "f"))
	}
}
