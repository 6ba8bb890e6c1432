package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"dfs/internal/errors"
)

// copier copies as cp(1) does.
type copier struct {
	ctx       context.Context
	from      source
	to        target
	oneSide   bool // both are this machine, or both the cluster
	recursive bool
	messages  io.Writer
	skipped   int // of a tree: what was told and left out
}

func (c *copier) run(from, to string) error {
	look := c.from.Stat
	if c.recursive {
		look = c.from.Lstat
	}
	info, err := look(from)
	if err != nil {
		return err
	}
	if at, err := c.to.Stat(to); err == nil && at.IsDir() {
		name := filepath.Base(from)
		if name == ".." {
			name = "." // else it would be beside to, not in it
		}
		to = below(to, name)
	}
	if info.IsDir() && !c.recursive {
		return fmt.Errorf("%s is a directory; copy it with -r", from)
	}
	if info.IsDir() {
		if err := c.checkOutside(from, to, info); err != nil {
			return err
		}
	}
	if err := c.copy(from, to, info); err != nil {
		return err
	}
	if c.skipped > 0 {
		return fmt.Errorf("%d files or directories of %s were not copied (see above)", c.skipped, from)
	}
	return nil
}

// below names an entry of a directory. The directory's name stays as it is: ".." behind a symlink is not what the text says.
func below(dir, name string) string { return strings.TrimRight(dir, "/") + "/" + name }

// same tells whether two FileInfos, of from and of to, are of one file. One side may be a mount of the other: then no device
// number tells, but the inode and its time of change, to the nanosecond.
func (c *copier) same(from, to os.FileInfo) bool {
	a, b := statOf(from), statOf(to)
	if c.oneSide {
		return a.Dev == b.Dev && a.Ino == b.Ino
	}
	return a.Ino == b.Ino && a.Ctim == b.Ctim
}

// checkOutside refuses to copy the directory from to a name that is, or lies, in it: it goes up from there to the root.
func (c *copier) checkOutside(from, to string, info os.FileInfo) error {
	dir := to
	at, err := c.to.Stat(dir)
	for err != nil || !at.IsDir() {
		parent := strings.TrimRight(dir, "/")
		parent = parent[:strings.LastIndexByte(parent, '/')+1]
		switch {
		case parent == "":
			parent = "."
		case parent == dir:
			return err
		}
		dir = parent
		at, err = c.to.Stat(dir)
	}
	for {
		if c.same(info, at) {
			return fmt.Errorf("%s is a directory and %s lies in it; it cannot be copied into itself", from, to)
		}
		dir = below(dir, "..")
		up, err := c.to.Stat(dir)
		if err != nil {
			return err
		}
		if a, b := statOf(up), statOf(at); a.Dev == b.Dev && a.Ino == b.Ino {
			return nil // the root
		}
		at = up
	}
}

func (c *copier) copy(from, to string, info os.FileInfo) error {
	switch {
	case info.IsDir():
		return c.tree(from, to, info)
	case info.Mode().IsRegular():
		return c.file(from, to, info)
	case c.recursive:
		return c.special(from, to, info)
	}
	return fmt.Errorf("%s is not a regular file; copy it as what it is with -r", from)
}

// tree copies a directory. What fails of it is told and counted, unless all that follows would fail, too.
func (c *copier) tree(from, to string, info os.FileInfo) error {
	if at, err := c.to.Lstat(to); err == nil && !at.IsDir() {
		return fmt.Errorf("%s is not a directory: the directory %s is not copied there", to, from)
	}
	if err := c.to.MkdirAll(to, info.Mode().Perm()|0o700); err != nil {
		return err
	}
	entries, err := c.from.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := below(from, e.Name())
		info, err := c.from.Lstat(name)
		if err == nil {
			err = c.copy(name, below(to, e.Name()), info)
		}
		if c.ctx.Err() != nil {
			return errors.New(errors.KindInterrupted, "interrupted while copying %s", name)
		}
		if errors.Is(err, errors.KindUnavailable) || errors.Is(err, errors.KindTimeout) {
			return err
		}
		if err != nil {
			c.skipped++
			if _, err := fmt.Fprintf(c.messages, "dfs: %v\n", err); err != nil {
				return err
			}
		}
	}
	return nil
}

// special copies a symlink, FIFO, socket or device as what it is, in the place of what is there.
func (c *copier) special(from, to string, info os.FileInfo) error {
	if at, err := c.to.Lstat(to); err == nil {
		switch {
		case at.IsDir():
			return fmt.Errorf("%s is a directory: %s is not copied there", to, from)
		case c.same(info, at) || at.Mode().IsRegular() && c.leadsTo(from, at):
			return errSameFile(from, to)
		}
		if err := c.to.Unlink(to); err != nil {
			return err
		}
	}
	if info.Mode().Type() == os.ModeSymlink {
		target, err := c.from.Readlink(from)
		if err != nil {
			return err
		}
		return c.to.Symlink(target, to)
	}
	st := statOf(info)
	return c.to.Mknod(to, st.Mode, uint32(st.Rdev))
}

// leadsTo tells whether the link from leads to the file of to: the link in its place would lead to itself.
func (c *copier) leadsTo(from string, at os.FileInfo) bool {
	info, err := c.from.Stat(from)
	return err == nil && c.same(info, at)
}

func errSameFile(from, to string) error {
	return fmt.Errorf("%s and %s are the same file", from, to)
}

func (c *copier) file(from, to string, info os.FileInfo) (err error) {
	if at, err := c.to.Stat(to); err == nil && c.same(info, at) {
		return errSameFile(from, to)
	}
	in, err := c.from.open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.create(to, info.Mode().Perm())
	if err != nil {
		return err
	}
	bar := newProgress(c.messages, info)
	defer func() { bar.end(err) }()
	defer closing(&err, out.Close)
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, bar)}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	return err
}

// progress shows on a terminal how far the copy of a file is; nil shows nothing. A bar that cannot be shown is no error of the
// copy: the library has one for a file that grows meanwhile.
type progress struct{ bar *progressbar.ProgressBar }

func newProgress(out io.Writer, info os.FileInfo) *progress {
	if f, ok := out.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) || info.Size() == 0 {
		return nil
	}
	return &progress{progressbar.DefaultBytes(info.Size(), info.Name())}
}

// Write implements io.Writer: so much more was copied.
func (p *progress) Write(b []byte) (int, error) {
	if p != nil {
		_ = p.bar.Add(len(b))
	}
	return len(b), nil
}

// end completes the bar, or leaves it where the copy failed.
func (p *progress) end(failed error) {
	switch {
	case p == nil:
	case failed != nil:
		_ = p.bar.Exit()
	default:
		_ = p.bar.Finish()
	}
}
