package fuse

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// raceFS is a file system in which another mount renames "from" to "to" between the kernel's two lookups of a rename.
type raceFS struct {
	*fakeFS
	stale bool // the first lookup of "to" is answered with ESTALE

	mu     sync.Mutex
	looked map[string]int
	asked  int // RENAME requests
}

func (f *raceFS) Lookup(_ context.Context, _ *fs.Caller, _ fs.Ino, name string) (fs.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked[name]++
	gone := f.looked["to"] > 0
	switch {
	case name == "from" && gone, name != "from" && name != "to":
		return fs.Entry{}, errors.Of(errors.KindNotExist)
	case name == "to" && f.stale && f.looked[name] == 1:
		return fs.Entry{}, errors.Of(errors.KindStale)
	}
	e := f.entry(1005)
	e.NameCacheable = false
	return e, nil
}

func (f *raceFS) Rename(context.Context, *fs.Caller, fs.Ino, string, fs.Ino, string, uint32) error {
	f.asked++
	return errors.Of(errors.KindNotExist)
}

// TestRenameRace shows what a kernel makes of a rename beside another mount's of the same names. It looks both up, one after the other, and asks
// nobody more when it finds one file under both (the README's limits tell of it). That an answer of ESTALE has it look both up
// again is how it could be mended.
func TestRenameRace(t *testing.T) {
	for _, c := range []struct {
		what  string
		flags uint
		stale bool
		want  error
	}{
		{"plain", 0, false, nil},
		{"noreplace", unix.RENAME_NOREPLACE, false, syscall.EEXIST},
		{"plain, the lookup is stale", 0, true, syscall.ENOENT},
		{"noreplace, the lookup is stale", unix.RENAME_NOREPLACE, true, syscall.ENOENT},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := &raceFS{fakeFS: &fakeFS{}, stale: c.stale, looked: map[string]int{}}
			m := mountFakeWith(t, f, Options{})
			err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.Dir(), "from"), unix.AT_FDCWD, filepath.Join(m.Dir(), "to"), c.flags)
			if err != c.want || f.asked != 0 {
				t.Errorf("%v, %d RENAME requests; want %v and none", err, f.asked, c.want)
			}
		})
	}
}
