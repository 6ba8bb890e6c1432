package fuse

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// How a mount may know that another may have renamed what its kernel has looked up.
const (
	revoked  = iota // the directory's names were dropped
	revoking        // that was done before, and it has the lock still
	lapsing         // the lease of that time is over
	lapsed          // there is none
	unseen          // not at all: this cannot be
)

// raceFS is a file system in which another mount renames "from" to "to" between the kernel's two lookups of a rename.
type raceFS struct {
	*fakeFS
	take func() // what a revoke of the directory does here
	how  int    // how it shows
	torn bool   // the other mount does so, and back, all the time

	mu     sync.Mutex
	armed  bool // the next lookup of "to" comes after it
	gone   bool // it was done
	looked int
	asked  int // RENAME and other requests that change something
}

func (f *raceFS) Lookup(_ context.Context, _ *fs.Caller, _ fs.Ino, name string) (fs.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	if f.armed && name == "to" {
		f.armed, f.gone = f.torn, true
		if f.how == revoked {
			f.take()
		}
	}
	ino := fs.Ino(1005)
	switch {
	case name == "from" && f.gone && !f.torn, name == "to" && !f.gone && !f.armed:
		return fs.Entry{}, errors.Of(errors.KindNotExist)
	case name == "to" && !f.gone, name == "other":
		ino = 1006
	}
	e := f.entry(ino)
	e.NameCacheable = !f.gone && f.how != revoking
	return e, nil
}

func (f *raceFS) LeaseLeft() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.how {
	case lapsing:
		return time.Nanosecond
	case lapsed:
		return 0
	}
	return time.Hour
}

func (f *raceFS) change() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return errors.Of(errors.KindNotExist)
}

func (f *raceFS) Rename(context.Context, *fs.Caller, fs.Ino, string, fs.Ino, string, uint32) error {
	return f.change()
}

func (f *raceFS) Mkdir(context.Context, *fs.Caller, fs.Ino, string, uint32) (fs.Entry, error) {
	return fs.Entry{}, f.change()
}

// set changes what happens next.
func (f *raceFS) set(gone, armed bool, how int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone, f.armed, f.how = gone, armed, how
}

// requests is how many changed something, lookups how many names were looked up.
func (f *raceFS) requests() (changes, lookups int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked, f.looked
}

func mountRace(t *testing.T, torn bool) (f *raceFS, c *conn, from, to string) {
	f = &raceFS{fakeFS: &fakeFS{}, torn: torn}
	m := mountFakeWith(t, f, Options{})
	f.take = func() { m.conn.names.take(1) }
	return f, m.conn, filepath.Join(m.Dir(), "from"), filepath.Join(m.Dir(), "to")
}

// TestRenameRace has a kernel rename beside another mount's rename of the same names. It looks both up, one after the other, and would ask
// nobody more when it finds one file under both: it has to look again.
func TestRenameRace(t *testing.T) {
	for _, c := range []struct {
		what  string
		flags uint
		known string // looked up before: what the kernel has an entry of; or shared: it was given none lately
		how   int    // how it shows that the old name may have changed
		blind bool   // it cannot be told that the task is in a rename
		want  error
	}{
		{"plain", 0, "", revoked, false, syscall.ENOENT},
		{"noreplace", unix.RENAME_NOREPLACE, "", revoked, false, syscall.ENOENT},
		{"plain, the old name is known", 0, "from", revoked, false, syscall.ENOENT},
		{"noreplace, the old name is known", unix.RENAME_NOREPLACE, "from", revoked, false, syscall.ENOENT},
		{"plain, the new name is known", 0, "to", revoked, false, syscall.ENOENT},
		{"noreplace, the new name is known", unix.RENAME_NOREPLACE, "to", revoked, false, syscall.ENOENT},
		{"plain, in a directory that is shared", 0, "shared", revoked, false, syscall.ENOENT},
		{"plain, a revoke is under way", 0, "", revoking, false, syscall.ENOENT},
		{"plain, the lease ends between", 0, "", lapsing, false, syscall.ENOENT},
		{"plain, the old name is known, there is no lease", 0, "from", lapsed, false, syscall.ENOENT},
		{"plain, nothing shows it", 0, "", unseen, false, nil},
		{"plain, blind", 0, "", revoked, true, nil},
		{"noreplace, blind", unix.RENAME_NOREPLACE, "", revoked, true, syscall.EEXIST},
	} {
		t.Run(c.what, func(t *testing.T) {
			f, conn, from, to := mountRace(t, false)
			if c.blind {
				conn.passes.renames = func(uint32, string) bool { return false } // before any request
			}
			f.set(c.known == "to", false, revoked)
			if c.known == "shared" {
				conn.names.mu.Lock()
				conn.names.sharedQuiet = sharedQuiet
				conn.names.mu.Unlock()
				f.take()
			} else if c.known != "" {
				must(t, unix.Lstat(filepath.Join(filepath.Dir(from), c.known), new(unix.Stat_t)))
			}
			conn.passes.mu.Lock()
			clear(conn.passes.tasks) // another task has looked it up
			conn.passes.mu.Unlock()
			f.set(false, true, c.how)
			err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, c.flags)
			if asked, _ := f.requests(); err != c.want || asked != 0 {
				t.Errorf("%v, %d RENAME requests; want %v and none", err, asked, c.want)
			}
		})
	}
}

// TestRenameTorn: where the second pass is torn as well, the program is not told ESTALE, nor in the calls that follow.
func TestRenameTorn(t *testing.T) {
	f, _, from, to := mountRace(t, true)
	f.set(false, true, revoked)
	for i := range 50 {
		if err := unix.Rename(from, to); err != nil {
			t.Fatalf("rename %d: %v", i, err)
		}
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != syscall.EEXIST {
			t.Fatalf("rename %d: %v", i, err)
		}
	}
	if _, lookups := f.requests(); lookups < 250 {
		t.Errorf("%d lookups: nothing was looked up again", lookups)
	}
}

// TestNoStale: the kernel does not begin mkdir, mknod, symlink, link again, so none of their lookups may be answered with ESTALE.
func TestNoStale(t *testing.T) {
	for what, call := range map[string]func(from, to string) error{
		"mkdir":   func(_, to string) error { return unix.Mkdir(to, 0o777) },
		"mknod":   func(_, to string) error { return unix.Mknod(to, unix.S_IFREG|0o666, 0) },
		"symlink": func(_, to string) error { return unix.Symlink("x", to) },
		"link":    func(from, to string) error { return unix.Link(filepath.Join(filepath.Dir(from), "other"), to) },
		"create": func(_, to string) error {
			_, err := unix.Open(to, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o666)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, _, from, to := mountRace(t, false)
			must(t, unix.Lstat(from, new(unix.Stat_t)))
			f.set(false, true, revoked)
			err := call(from, to)
			if asked, _ := f.requests(); err != syscall.EEXIST || asked != 0 {
				t.Errorf("%v, %d requests; want EEXIST and none", err, asked)
			}
		})
	}
}

// TestRenamesTo: what a task that waits for a LOOKUP of "to" is in.
func TestRenamesTo(t *testing.T) {
	f, conn, from, to := mountRace(t, false)
	var got atomic.Bool
	conn.passes.renames = func(pid uint32, name string) bool {
		got.Store(name == "to" && renamesTo(pid, name))
		return false
	}
	at := func(flags uint) error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags) }
	for _, c := range []struct {
		what string
		call func() error
		want bool
	}{
		{"rename", func() error { return unix.Rename(from, to) }, true},
		{"rename with a slash", func() error { return unix.Rename(from, to+"//") }, true},
		{"renameat2", func() error { return at(0) }, true},
		{"renameat2 exchange", func() error { return at(unix.RENAME_EXCHANGE) }, true},
		{"stat", func() error { return unix.Lstat(to, new(unix.Stat_t)) }, false},
		{"rename of to", func() error { return unix.Rename(to, from+"other") }, false},
		{"mkdir", func() error { return unix.Mkdir(to, 0o777) }, false},
	} {
		f.set(false, false, revoked)
		must(t, unix.Lstat(from, new(unix.Stat_t)))
		f.set(false, true, revoked)
		got.Store(false)
		if _ = c.call(); got.Load() != c.want {
			t.Errorf("%s: %v", c.what, got.Load())
		}
	}
	if renamesTo(uint32(os.Getpid()), "to") {
		t.Error("this process renames nothing")
	}
	long := make([]byte, 3*4096)
	for i := range long {
		long[i] = 'x'
	}
	for _, end := range []int{1, 100, 4000, 4095} {
		long[end] = 0
		if got := stringOf(uint32(os.Getpid()), uint64(uintptr(unsafe.Pointer(&long[0])))); got != string(long[:end]) {
			t.Errorf("a string of %d bytes is read as %d", end, len(got))
		}
		long[end] = 'x'
	}
	if got := stringOf(uint32(os.Getpid()), uint64(uintptr(unsafe.Pointer(&long[0])))); got != "" {
		t.Errorf("a string without end is read as %d bytes", len(got))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
