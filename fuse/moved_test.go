package fuse

import (
	"context"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// movedFS has directories "d" and "f"; another mount moves that at "d" to "e" and makes another one in its place when a request about "d" comes.
type movedFS struct {
	*fakeFS
	mu    sync.Mutex
	moved bool
	over  bool // "d" was removed or replaced
	stale int  // requests that were answered with KindStale
}

func (f *movedFS) directory(ino fs.Ino) fs.Entry {
	e := f.entry(ino)
	e.Attr.Mode, e.Attr.Nlink = syscall.S_IFDIR|0o755, 2
	e.NameCacheable, e.AttrCacheable = true, false
	return e
}

func (f *movedFS) Lookup(_ context.Context, _ *fs.Caller, dir fs.Ino, name string) (fs.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case dir != fs.RootIno:
	case name == "d" && f.moved && !f.over:
		return f.directory(2002), nil
	case name == "d" && !f.moved, name == "e" && f.moved:
		return f.directory(2001), nil
	case name == "f":
		return f.directory(2003), nil
	}
	return fs.Entry{}, errors.Of(errors.KindNotExist)
}

func (f *movedFS) GetAttr(_ context.Context, _ *fs.Caller, ino fs.Ino) (fs.Entry, error) {
	return f.directory(ino), nil
}

func (f *movedFS) change(c *fs.Caller) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = true
	if c.Takes != 0 && c.Takes != 2002 {
		f.stale++
		return errors.Of(errors.KindStale)
	}
	f.over = true
	return nil
}

func (f *movedFS) Rmdir(_ context.Context, c *fs.Caller, _ fs.Ino, _ string) error {
	return f.change(c)
}

func (f *movedFS) Rename(_ context.Context, c *fs.Caller, _ fs.Ino, _ string, _ fs.Ino, _ string, _ uint32) error {
	return f.change(c)
}

func (f *movedFS) Mkdir(context.Context, *fs.Caller, fs.Ino, string, uint32) (fs.Entry, error) {
	return f.directory(2004), nil
}

// TestMovedAlive: a directory in use, which another mount moves away while its name is removed or replaced here, is not dead for the kernel.
func TestMovedAlive(t *testing.T) {
	for what, call := range map[string]func(dir string) error{
		"rmdir":  func(dir string) error { return unix.Rmdir(filepath.Join(dir, "d")) },
		"rename": func(dir string) error { return unix.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "d")) },
	} {
		t.Run(what, func(t *testing.T) {
			runtime.LockOSThread() // one task for all
			defer runtime.UnlockOSThread()
			f := &movedFS{fakeFS: &fakeFS{}}
			m := mountFakeWith(t, f, Options{})
			fd, err := unix.Open(filepath.Join(m.Dir(), "d"), unix.O_PATH|unix.O_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(fd)
			must(t, call(m.Dir()))
			must(t, unix.Lstat(filepath.Join(m.Dir(), "e"), new(unix.Stat_t)))
			if err := unix.Mkdir(filepath.Join(m.Dir(), "e", "x"), 0o777); err != nil {
				t.Errorf("making something in the directory that was moved: %v", err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.stale != 1 {
				t.Errorf("%d requests were refused, want 1", f.stale)
			}
		})
	}
}
