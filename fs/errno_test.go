package fs

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/fs/layout"
)

// TestErrnos is a table of operations and the errno that ext4 gives.
func TestErrnos(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	file, h := m.create(RootIno, "file")
	mk := func(name string) Ino {
		e, err := m.Mkdir(ctx, root, RootIno, name, 0o755)
		m.must(err)
		return e.Attr.Ino
	}
	dir, full, empty := mk("dir"), mk("full"), mk("empty")
	m.create(full, "x")
	link, err := m.Symlink(ctx, root, RootIno, "link", "file")
	m.must(err)
	fifo, err := m.Mknod(ctx, root, RootIno, "fifo", syscall.S_IFIFO|0o644, 0)
	m.must(err)
	sticky, err := m.Mkdir(ctx, root, RootIno, "sticky", 0o1777)
	m.must(err)
	m.create(sticky.Attr.Ino, "roots")
	ro, _, err := m.Open(ctx, root, file, syscall.O_RDONLY)
	m.must(err)
	wo, _, err := m.Open(ctx, root, file, syscall.O_WRONLY)
	m.must(err)
	alice := &Caller{UID: 1000, GID: 1000, Check: true}
	long := strings.Repeat("n", 256)
	big := uint64(1<<60 + 1)
	mode := uint32(0o777)
	e1 := func(_ Entry, err error) error { return err }
	hnd := func(_ Handle, _ OpenInfo, err error) error { return err }
	created := func(_ Entry, _ Handle, _ OpenInfo, err error) error { return err }
	for _, c := range []struct {
		what string
		no   syscall.Errno
		err  error
	}{
		{"lookup missing", syscall.ENOENT, e1(m.Lookup(ctx, root, RootIno, "none"))},
		{"lookup in file", syscall.ENOTDIR, e1(m.Lookup(ctx, root, file, "x"))},
		{"lookup long", syscall.ENAMETOOLONG, e1(m.Lookup(ctx, root, RootIno, long))},
		{"getattr unknown", syscall.ESTALE, e1(m.GetAttr(ctx, root, 1<<40))},
		{"mkdir exists", syscall.EEXIST, e1(m.Mkdir(ctx, root, RootIno, "dir", 0o755))},
		{"mkdir in file", syscall.ENOTDIR, e1(m.Mkdir(ctx, root, file, "d", 0o755))},
		{"mkdir long", syscall.ENAMETOOLONG, e1(m.Mkdir(ctx, root, RootIno, long, 0o755))},
		{"mkdir slash", syscall.EINVAL, e1(m.Mkdir(ctx, root, RootIno, "a/b", 0o755))},
		{"create excl", syscall.EEXIST, created(m.Create(ctx, root, RootIno, "file", 0o644, syscall.O_EXCL|syscall.O_RDWR))},
		{"create over dir", syscall.EISDIR, created(m.Create(ctx, root, RootIno, "dir", 0o644, syscall.O_RDWR))},
		{"symlink empty", syscall.ENOENT, e1(m.Symlink(ctx, root, RootIno, "s", ""))},
		{"symlink long", syscall.ENAMETOOLONG, e1(m.Symlink(ctx, root, RootIno, "s", strings.Repeat("x", 4096)))},
		{"link dir", syscall.EPERM, e1(m.Link(ctx, root, dir, RootIno, "l"))},
		{"link exists", syscall.EEXIST, e1(m.Link(ctx, root, file, RootIno, "fifo"))},
		{"unlink dir", syscall.EISDIR, m.Unlink(ctx, root, RootIno, "dir")},
		{"unlink missing", syscall.ENOENT, m.Unlink(ctx, root, RootIno, "none")},
		{"rmdir file", syscall.ENOTDIR, m.Rmdir(ctx, root, RootIno, "file")},
		{"rmdir full", syscall.ENOTEMPTY, m.Rmdir(ctx, root, RootIno, "full")},
		{"rmdir .", syscall.EINVAL, m.Rmdir(ctx, root, RootIno, ".")},
		{"rmdir ..", syscall.ENOTEMPTY, m.Rmdir(ctx, root, RootIno, "..")},
		{"rename missing", syscall.ENOENT, m.Rename(ctx, root, RootIno, "none", RootIno, "x", 0)},
		{"rename below itself", syscall.EINVAL, m.Rename(ctx, root, RootIno, "dir", dir, "x", 0)},
		{"rename dir over file", syscall.ENOTDIR, m.Rename(ctx, root, RootIno, "dir", RootIno, "file", 0)},
		{"rename file over dir", syscall.EISDIR, m.Rename(ctx, root, RootIno, "file", RootIno, "dir", 0)},
		{"rename over full", syscall.ENOTEMPTY, m.Rename(ctx, root, RootIno, "dir", RootIno, "full", 0)},
		{"rename noreplace", syscall.EEXIST, m.Rename(ctx, root, RootIno, "file", RootIno, "fifo", renameNoReplace)},
		{"rename exchange missing", syscall.ENOENT, m.Rename(ctx, root, RootIno, "file", RootIno, "none", renameExchange)},
		{"rename flags", syscall.EINVAL, m.Rename(ctx, root, RootIno, "file", RootIno, "x", 4)},
		{"open dir for writing", syscall.EISDIR, hnd(m.Open(ctx, root, dir, syscall.O_RDWR))},
		{"open symlink", syscall.ELOOP, hnd(m.Open(ctx, root, link.Attr.Ino, syscall.O_RDONLY))},
		{"open O_DIRECTORY", syscall.ENOTDIR, hnd(m.Open(ctx, root, file, syscall.O_DIRECTORY))},
		{"opendir file", syscall.ENOTDIR, func() error { _, err := m.OpenDir(ctx, root, file); return err }()},
		{"write read-only", syscall.EBADF, func() error { _, err := m.Write(ctx, ro, []byte("x"), 0, false); return err }()},
		{"read write-only", syscall.EBADF, func() error { _, err := m.Read(ctx, wo, make([]byte, 1), 0); return err }()},
		{"read no handle", syscall.EBADF, func() error { _, err := m.Read(ctx, 999, make([]byte, 1), 0); return err }()},
		{"write too far", syscall.EFBIG, func() error { _, err := m.Write(ctx, h, []byte("xx"), 1<<60-1, false); return err }()},
		{"truncate too far", syscall.EFBIG, e1(m.SetAttr(ctx, root, file, 0, SetAttr{Size: &big}))},
		{"truncate dir", syscall.EISDIR, e1(m.SetAttr(ctx, root, dir, 0, SetAttr{Size: new(uint64)}))},
		{"ftruncate read-only", syscall.EINVAL, e1(m.SetAttr(ctx, root, file, ro, SetAttr{Size: new(uint64)}))},
		{"readlink file", syscall.EINVAL, func() error { _, err := m.Readlink(ctx, root, file); return err }()},
		{"fallocate mode", syscall.EOPNOTSUPP, m.Allocate(ctx, h, 0, 1, 0x08)},
		{"fallocate nothing", syscall.EINVAL, m.Allocate(ctx, h, 0, 0, 0)},
		{"fallocate too far", syscall.EFBIG, m.Allocate(ctx, h, 1<<60, 1, 0)},
		{"fallocate read-only", syscall.EBADF, m.Allocate(ctx, ro, 0, 1, 0)},
		{"seek behind the end", syscall.ENXIO, func() error { _, err := m.Seek(ctx, h, 1, seekData); return err }()},
		{"getxattr none", syscall.ENODATA, func() error { _, err := m.GetXattr(ctx, root, file, "user.none"); return err }()},
		{"removexattr none", syscall.ENODATA, m.RemoveXattr(ctx, root, file, "user.none")},
		{"setxattr namespace", syscall.EOPNOTSUPP, m.SetXattr(ctx, root, file, "foo.bar", nil, 0)},
		{"setxattr fifo", syscall.EPERM, m.SetXattr(ctx, root, fifo.Attr.Ino, "user.x", nil, 0)},
		{"setxattr replace", syscall.ENODATA, m.SetXattr(ctx, root, file, "user.x", nil, 2)},
		{"setxattr huge", syscall.E2BIG, m.SetXattr(ctx, root, file, "user.x", make([]byte, 65537), 0)},
		{"setxattr bad acl", syscall.EINVAL, m.SetXattr(ctx, root, file, layout.XattrACLAccess, []byte("x"), 0)},
		{"alice opens for writing", syscall.EACCES, hnd(m.Open(ctx, alice, file, syscall.O_RDWR))},
		{"alice makes in root's", syscall.EACCES, e1(m.Mkdir(ctx, alice, dir, "d", 0o755))},
		{"alice chmods", syscall.EPERM, e1(m.SetAttr(ctx, alice, file, 0, SetAttr{Mode: &mode}))},
		{"alice unlinks in sticky", syscall.EPERM, m.Unlink(ctx, alice, sticky.Attr.Ino, "roots")},
		{"alice makes a device", syscall.EPERM, e1(m.Mknod(ctx, alice, sticky.Attr.Ino, "dev", syscall.S_IFCHR|0o600, 1))},
		{"alice reads", 0, hnd(m.Open(ctx, alice, file, syscall.O_RDONLY))},
		{"rename dir over empty", 0, m.Rename(ctx, root, RootIno, "dir", RootIno, "empty", 0)},
		{"link of a hard link", 0, e1(m.Link(ctx, root, file, dir, "l"))},
	} {
		want(t, c.what, c.err, c.no)
	}
	if got := m.lookup(RootIno, "empty").Attr; got.Ino != dir || got.Nlink != 2 {
		t.Errorf("%+v after a rename over an empty directory", got)
	}
	_, err = m.GetAttr(ctx, root, empty)
	want(t, "the directory replaced", err, syscall.ESTALE)
}

// TestSetGIDAndACL: what a new file inherits, and chmod on an ACL.
func TestSetGIDAndACL(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	e, err := m.Mkdir(ctx, &Caller{UID: 1, GID: 7, Umask: 0o022}, RootIno, "d", 0o2777)
	m.must(err)
	if e.Attr.Mode&0o7777 != 0o2755 {
		t.Errorf("mode %o under the umask", e.Attr.Mode)
	}
	sub, err := m.Mkdir(ctx, &Caller{UID: 2, GID: 8}, e.Attr.Ino, "sub", 0o755)
	m.must(err)
	if sub.Attr.GID != 7 || sub.Attr.Mode&0o2000 == 0 {
		t.Errorf("a directory in a set-gid one has gid %d, mode %o", sub.Attr.GID, sub.Attr.Mode)
	}
	acl := layout.ACL{{Tag: layout.ACLUserObj, Perm: 7}, {Tag: layout.ACLUser, Perm: 7, ID: 1000}, {Tag: layout.ACLGroupObj, Perm: 5},
		{Tag: layout.ACLMask, Perm: 7}, {Tag: layout.ACLOther, Perm: 0}}
	m.must(m.SetXattr(ctx, root, e.Attr.Ino, layout.XattrACLDefault, acl.Encode(), 0))
	f, _, _, err := m.Create(ctx, &Caller{Umask: 0o077}, e.Attr.Ino, "f", 0o664, syscall.O_RDWR)
	m.must(err)
	if f.Attr.Mode&0o777 != 0o660 {
		t.Errorf("mode %o under a default ACL, want 660 (the umask does not count)", f.Attr.Mode&0o777)
	}
	alice := &Caller{UID: 1000, GID: 1000, Check: true}
	want(t, "alice, named in the ACL", m.Access(ctx, alice, f.Attr.Ino, layout.MayRead|layout.MayWrite), 0)
	mode := uint32(0o600)
	_, err = m.SetAttr(ctx, root, f.Attr.Ino, 0, SetAttr{Mode: &mode})
	m.must(err)
	want(t, "alice, the mask being cleared by chmod", m.Access(ctx, alice, f.Attr.Ino, layout.MayRead), syscall.EACCES)
}

// TestTimesRise: mtime and ctime of an inode strictly rise, even where the clock stands.
func TestTimesRise(t *testing.T) {
	w := newWorld(t, 1<<20)
	start := time.Unix(1000, 0)
	m := w.mount(Options{Now: func() time.Time { return start }})
	ino, h := m.create(RootIno, "f")
	last := m.attr(ino)
	for range 5 {
		m.write(h, "x", 0)
		now := m.attr(ino)
		if !now.Mtime.After(last.Mtime) || !now.Ctime.After(last.Ctime) {
			t.Fatalf("times %v, %v do not rise", last.Mtime, now.Mtime)
		}
		last = now
	}
}
