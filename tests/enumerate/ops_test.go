package enumerate

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	"dfs/fs"
)

// client does operations on a file system by path.
type client struct {
	fs.FileSystem
	ctx  context.Context
	open []fs.Handle // kept open until the end
	// before, if set, is called before each operation of a sequence, and at its end.
	before func(nth int) error
}

var root = &fs.Caller{}

func (c *client) at(p string) (ino fs.Ino, err error) {
	ino = fs.RootIno
	for _, name := range strings.Split(p, "/") {
		if name == "" {
			continue
		}
		e, err := c.Lookup(c.ctx, root, ino, name)
		if err != nil {
			return 0, err
		}
		ino = e.Attr.Ino
	}
	return ino, nil
}

// dir finds the directory of a path, and its last name.
func (c *client) dir(p string) (fs.Ino, string, error) {
	dir, name := path.Split(p)
	ino, err := c.at(dir)
	return ino, name, err
}

// with opens a file for f.
func (c *client) with(p string, flags uint32, f func(h fs.Handle) error) error {
	ino, err := c.at(p)
	if err != nil {
		return err
	}
	h, _, err := c.Open(c.ctx, root, ino, flags|syscall.O_NOATIME)
	if err != nil {
		return err
	}
	err = f(h)
	if rerr := c.Release(c.ctx, h); err == nil {
		err = rerr
	}
	return err
}

// op is one operation.
type op struct {
	name string
	do   func(c *client) error
	file string // whose fsync makes it durable; "": none's
	dir  string // likewise, a directory's; "-": none's
	data bool   // fdatasync of file is enough
	sync bool   // it is durable when it returns
	long bool   // it may be done in part: a prefix of what it writes to file
}

func (o *op) String() string { return o.name }

// Falloc modes, as Linux has them.
const (
	keepSize  = 1
	punchHole = 2
	zeroRange = 16
	noReplace = 1
	exchange  = 2
)

func bytesOf(tag byte, n int) []byte {
	b := bytes.Repeat([]byte{tag}, n)
	for i := range b {
		b[i] ^= byte(i / 512)
	}
	return b
}

// setUp makes the tree that every sequence begins with.
func (c *client) setUp() error {
	steps := []*op{mkdir("A"), mkdir("B"), mkdir("C"), create("A/foo", 0o644), write("A/foo", 0, 12288, 'f'), create("B/foo", 0o600), write("B/foo", 0, 100, 'b'),
		setxattr("B/foo", "user.x", 10)}
	for _, s := range steps {
		if err := s.do(c); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return c.SyncAll(c.ctx)
}

// operations are all the operations.
func operations() []*op {
	list := []*op{
		create("A/bar", 0o644), create("B/bar", 0o4711), create("A/foo", 0o644), create("C/foo", 0o600), mkdir("A/bar"), mkdir("D"), symlink("A/bar", "foo"), symlink("B/bar", strings.Repeat("x", 3000)),
		mknod("A/bar"), tmpfile("A", "A/bar"), createWrite("A/bar", 9000),
		write("A/foo", 0, 100, 'w'), write("A/foo", 4000, 300, 'w'), write("A/foo", 20000, 5000, 'w'), write("A/foo", 0, 12288, 'w'), write("B/foo", 0, 50, 'w'), write("B/foo", 90, 5000, 'w'),
		syncWrite("A/foo", 100, 200), syncWrite("B/foo", 10, 20), longWrite("A/foo", 0, 600<<10), longWrite("A/foo", 5000, 300<<10), appendTo("A/foo", 6000), appendTo("B/foo", 10), appendTo("A/bar", 10),
		truncate("A/foo", 0), truncate("A/foo", 5000), truncate("A/foo", 40000), truncate("B/foo", 0), truncate("B/foo", 10000), openTrunc("A/foo"),
		link("A/foo", "A/bar"), link("A/foo", "B/bar"), link("B/foo", "A/bar"), unlink("A/foo"), unlink("B/foo"), unlink("A/bar"), unlinkOpen("A/foo"), unlinkOpen("B/foo"),
		rmdir("C"), rmdir("B"), rmdir("A/bar"),
		rename("A/foo", "A/bar", 0), rename("A/foo", "B/foo", 0), rename("A/foo", "B/bar", 0), rename("B/foo", "A/foo", 0), rename("A/bar", "A/foo", 0), rename("C", "D", 0), rename("C", "A/bar", 0), rename("B", "A/bar", 0),
		rename("B", "C", 0), rename("A/foo", "A/bar", noReplace), rename("A/foo", "B/foo", noReplace), rename("A/foo", "B/foo", exchange), rename("A", "B", exchange), rename("A/foo", "C", exchange),
		setxattr("A/foo", "user.a", 5), setxattr("A/foo", "user.a", 3000), setxattr("B/foo", "user.x", 300), setxattr("A", "user.d", 20), removexattr("B/foo", "user.x"),
		allocate("A/foo", 0, 40000, 0), allocate("A/foo", 12288, 9000, keepSize), allocate("A/foo", 0, 4096, punchHole|keepSize), allocate("A/foo", 100, 6000, punchHole|keepSize), allocate("A/foo", 1000, 9000, zeroRange),
		allocate("B/foo", 0, 9000, 0), allocate("B/foo", 10, 50, punchHole|keepSize),
		chmod("A/foo", 0o755), chown("B/foo"), utimes("A/foo"), copyRange("A/foo", "B/foo", 5000),
	}
	return list
}

func create(p string, mode uint32) *op {
	return &op{name: fmt.Sprintf("creat(%s, %o)", p, mode), file: p, dir: path.Dir(p), do: func(c *client) error {
		dir, name, err := c.dir(p)
		if err != nil {
			return err
		}
		_, h, _, err := c.Create(c.ctx, root, dir, name, mode, syscall.O_RDWR|syscall.O_EXCL)
		if err != nil {
			return err
		}
		return c.Release(c.ctx, h)
	}}
}

func createWrite(p string, n int) *op {
	return &op{name: fmt.Sprintf("creat(%s) and write %d", p, n), file: p, dir: "-", data: true, long: true, do: func(c *client) error {
		dir, name, err := c.dir(p)
		if err != nil {
			return err
		}
		_, h, _, err := c.Create(c.ctx, root, dir, name, 0o644, syscall.O_RDWR|syscall.O_EXCL)
		if err != nil {
			return err
		}
		_, err = c.Write(c.ctx, h, bytesOf('c', n), 0, false)
		if rerr := c.Release(c.ctx, h); err == nil {
			err = rerr
		}
		return err
	}}
}

func mkdir(p string) *op {
	return named("mkdir", p, func(c *client, dir fs.Ino, name string) error {
		_, err := c.Mkdir(c.ctx, root, dir, name, 0o755)
		return err
	})
}

func mknod(p string) *op {
	return named("mkfifo", p, func(c *client, dir fs.Ino, name string) error {
		_, err := c.Mknod(c.ctx, root, dir, name, syscall.S_IFIFO|0o600, 0)
		return err
	})
}

func symlink(p, target string) *op {
	o := named("symlink", p, func(c *client, dir fs.Ino, name string) error {
		_, err := c.Symlink(c.ctx, root, dir, name, target)
		return err
	})
	o.name += fmt.Sprintf(" of %d bytes", len(target))
	return o
}

func unlink(p string) *op {
	return named("unlink", p, func(c *client, dir fs.Ino, name string) error { return c.Unlink(c.ctx, root, dir, name) })
}

func rmdir(p string) *op {
	return named("rmdir", p, func(c *client, dir fs.Ino, name string) error { return c.Rmdir(c.ctx, root, dir, name) })
}

// named is an operation on a name.
func named(what, p string, f func(c *client, dir fs.Ino, name string) error) *op {
	return &op{name: what + "(" + p + ")", dir: path.Dir(p), do: func(c *client) error {
		dir, name, err := c.dir(p)
		if err != nil {
			return err
		}
		return f(c, dir, name)
	}}
}

func tmpfile(in, p string) *op {
	return &op{name: fmt.Sprintf("open(%s, O_TMPFILE), write, link(%s)", in, p), file: p, dir: path.Dir(p), do: func(c *client) error {
		dir, name, err := c.dir(p)
		if err != nil {
			return err
		}
		e, h, _, err := c.Tmpfile(c.ctx, root, dir, 0o600, syscall.O_RDWR)
		if err != nil {
			return err
		}
		c.open = append(c.open, h)
		if _, err := c.Write(c.ctx, h, bytesOf('t', 5000), 0, false); err != nil {
			return err
		}
		_, err = c.Link(c.ctx, root, e.Attr.Ino, dir, name)
		return err
	}}
}

// on is an operation on an open file.
func on(what, p string, flags uint32, f func(c *client, h fs.Handle) error) *op {
	return &op{name: what, file: p, dir: "-", data: true, do: func(c *client) error {
		return c.with(p, syscall.O_RDWR|flags, func(h fs.Handle) error { return f(c, h) })
	}}
}

func write(p string, off, n int, tag byte) *op {
	return on(fmt.Sprintf("write(%s, %d+%d)", p, off, n), p, 0, func(c *client, h fs.Handle) error {
		_, err := c.Write(c.ctx, h, bytesOf(tag, n), uint64(off), false)
		return err
	})
}

func longWrite(p string, off, n int) *op {
	o := write(p, off, n, 'l')
	o.long = true
	return o
}

func syncWrite(p string, off, n int) *op {
	o := on(fmt.Sprintf("write(%s, %d+%d, O_SYNC)", p, off, n), p, syscall.O_SYNC, func(c *client, h fs.Handle) error {
		_, err := c.Write(c.ctx, h, bytesOf('s', n), uint64(off), false)
		return err
	})
	o.sync = true
	return o
}

func appendTo(p string, n int) *op {
	return on(fmt.Sprintf("append(%s, %d)", p, n), p, syscall.O_APPEND, func(c *client, h fs.Handle) error {
		_, err := c.Write(c.ctx, h, bytesOf('a', n), 0, false)
		return err
	})
}

func openTrunc(p string) *op {
	return on(fmt.Sprintf("open(%s, O_TRUNC)", p), p, syscall.O_TRUNC, func(*client, fs.Handle) error { return nil })
}

func allocate(p string, off, n uint64, mode uint32) *op {
	return on(fmt.Sprintf("fallocate(%s, %d+%d, mode %d)", p, off, n, mode), p, 0, func(c *client, h fs.Handle) error {
		return c.Allocate(c.ctx, h, off, n, mode)
	})
}

func copyRange(from, to string, n uint64) *op {
	return on(fmt.Sprintf("copy_file_range(%s, %s, %d)", from, to, n), to, 0, func(c *client, h fs.Handle) error {
		return c.with(from, syscall.O_RDONLY, func(src fs.Handle) error {
			_, err := c.CopyRange(c.ctx, src, 100, h, 50, n)
			return err
		})
	})
}

// attr is an operation on an inode.
func attr(what, p string, f func(c *client, ino fs.Ino) error) *op {
	return &op{name: what, file: p, dir: "-", do: func(c *client) error {
		ino, err := c.at(p)
		if err != nil {
			return err
		}
		return f(c, ino)
	}}
}

func set(what, p string, s fs.SetAttr) *op {
	return attr(what, p, func(c *client, ino fs.Ino) error {
		_, err := c.SetAttr(c.ctx, root, ino, 0, s)
		return err
	})
}

func truncate(p string, size uint64) *op {
	o := set(fmt.Sprintf("truncate(%s, %d)", p, size), p, fs.SetAttr{Size: &size})
	o.data = true
	return o
}

func chmod(p string, mode uint32) *op {
	return set(fmt.Sprintf("chmod(%s, %o)", p, mode), p, fs.SetAttr{Mode: &mode})
}

func chown(p string) *op {
	uid, gid := uint32(7), uint32(8)
	return set(fmt.Sprintf("chown(%s)", p), p, fs.SetAttr{UID: &uid, GID: &gid})
}

func utimes(p string) *op {
	at := time.Unix(1e9, 5)
	return set(fmt.Sprintf("utimes(%s)", p), p, fs.SetAttr{Mtime: &at})
}

func setxattr(p, name string, n int) *op {
	return attr(fmt.Sprintf("setxattr(%s, %s, %d)", p, name, n), p, func(c *client, ino fs.Ino) error {
		return c.SetXattr(c.ctx, root, ino, name, bytesOf('x', n), 0)
	})
}

func removexattr(p, name string) *op {
	return attr(fmt.Sprintf("removexattr(%s, %s)", p, name), p, func(c *client, ino fs.Ino) error { return c.RemoveXattr(c.ctx, root, ino, name) })
}

func link(from, to string) *op {
	o := named("", to, func(c *client, dir fs.Ino, name string) error {
		ino, err := c.at(from)
		if err != nil {
			return err
		}
		_, err = c.Link(c.ctx, root, ino, dir, name)
		return err
	})
	o.name, o.file = fmt.Sprintf("link(%s, %s)", from, to), to
	return o
}

func unlinkOpen(p string) *op {
	o := named("", p, func(c *client, dir fs.Ino, name string) error {
		ino, err := c.at(p)
		if err != nil {
			return err
		}
		h, _, err := c.Open(c.ctx, root, ino, syscall.O_RDWR|syscall.O_NOATIME)
		if err != nil {
			return err
		}
		c.open = append(c.open, h)
		if err := c.Unlink(c.ctx, root, dir, name); err != nil {
			return err
		}
		_, err = c.Write(c.ctx, h, bytesOf('u', 20000), 0, false)
		return err
	})
	o.name = fmt.Sprintf("unlink(%s) while it is open, and write to it", p)
	return o
}

func rename(from, to string, flags uint32) *op {
	o := named("", to, func(c *client, dir fs.Ino, name string) error {
		fromDir, fromName, err := c.dir(from)
		if err != nil {
			return err
		}
		return c.Rename(c.ctx, root, fromDir, fromName, dir, name, flags)
	})
	o.name = fmt.Sprintf("rename(%s, %s, flags %d)", from, to, flags)
	return o
}
