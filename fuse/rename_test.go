package fuse

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
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
	kind uint32 // of what is under the names; 0: files

	mu     sync.Mutex
	armed  bool // the next lookup of "to" comes after it
	away   bool // what "to" was is found to be gone first
	gone   bool // it was done
	looked int
	asked  int // RENAME and other requests that change something
}

func (f *raceFS) Lookup(_ context.Context, _ *fs.Caller, _ fs.Ino, name string) (fs.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	if f.armed && f.away && name == "to" {
		f.away = false
		return fs.Entry{}, errors.Of(errors.KindNotExist)
	}
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
	if f.kind != 0 {
		e.Attr.Mode = f.kind | 0o755
	}
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
				conn.passes.call = func(uint32, string) rename { return noRename } // before any request
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

// TestRenameLookedUpTwice: a kernel that knows the new name, but finds that it is gone, looks it up a second time in the same pass. What another
// mount does between these two is seen, too, by the mark of the old name alone.
func TestRenameLookedUpTwice(t *testing.T) {
	f, conn, from, to := mountRace(t, false)
	f.set(true, false, revoked)
	must(t, unix.Lstat(to, new(unix.Stat_t)))
	f.take = func() {
		conn.names.take(1)
		conn.names.mu.Lock()
		defer conn.names.mu.Unlock()
		conn.names.took = time.Time{}
	}
	f.set(false, true, revoked)
	f.mu.Lock()
	f.away = true
	f.mu.Unlock()
	err := unix.Rename(from, to)
	if asked, _ := f.requests(); err != syscall.ENOENT || asked != 0 {
		t.Errorf("%v, %d RENAME requests; want %v and none", err, asked, syscall.ENOENT)
	}
	if f.mu.Lock(); f.away {
		t.Error("the new name was not looked up twice")
	}
	f.mu.Unlock()
}

// TestRenameTorn: where the second pass is torn as well, the file server is asked, and its answer told. What it cannot be asked is answered by the
// kernel. The program is not told ESTALE, nor in the calls that follow.
func TestRenameTorn(t *testing.T) {
	for _, c := range []struct {
		what  string
		flags uint
		kind  uint32
		asked bool
		want  error
	}{
		{"plain", 0, 0, true, syscall.ENOENT},
		{"noreplace", unix.RENAME_NOREPLACE, 0, true, syscall.ENOENT},
		{"exchange", unix.RENAME_EXCHANGE, 0, false, nil},
		{"plain, directories", 0, unix.S_IFDIR, false, nil},
		{"noreplace, directories", unix.RENAME_NOREPLACE, unix.S_IFDIR, false, syscall.EEXIST},
	} {
		t.Run(c.what, func(t *testing.T) {
			f, _, from, to := mountRace(t, true)
			f.kind = c.kind
			f.set(false, true, revoked)
			for i := range 50 {
				before, _ := f.requests()
				err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, c.flags)
				if asked, _ := f.requests(); err != c.want || (asked > before) != c.asked {
					t.Fatalf("rename %d: %v, %d RENAME requests", i, err, asked-before)
				}
				var st unix.Stat_t
				if err := unix.Lstat(to, &st); err != nil || st.Ino != 1005 {
					t.Fatalf("rename %d: what was not told of is not found afterwards: inode %d, %v", i, st.Ino, err)
				}
			}
			if _, lookups := f.requests(); lookups < 100 {
				t.Errorf("%d lookups: nothing was looked up again", lookups)
			}
		})
	}
}

// TestLongOnTheWay: a LOOKUP may arrive long after its task went on with an old name that the kernel had: the task had no processor, or this process
// did not run.
func TestLongOnTheWay(t *testing.T) {
	at := entryName{1, "to"}
	for what, lose := range map[string]func(l *ledger, c *conn){
		"a revoke": func(l *ledger, _ *conn) { l.take(1) },
		"a revoke of names that had run out meanwhile": func(l *ledger, _ *conn) {
			l.sweep(time.Now().Add(nameTimeoutMax + 2*arrivalSlack))
			l.take(1)
		},
		"no lease": func(l *ledger, c *conn) {
			c.passes.answer(8, l, looked{entryName: entryName{1, "x"}, since: time.Now(), ino: 5})
		},
		"a lease that ended before the answer": func(l *ledger, c *conn) {
			c.passes.answer(8, l, looked{entryName: entryName{1, "x"}, since: time.Now().Add(-time.Second), lease: time.Millisecond, ino: 5})
		},
		"a stop": func(l *ledger, c *conn) {
			const stop = 20 * time.Second
			l.mu.Lock()
			l.recent[0].at, l.dirs[1].held, l.dirs[1].until = l.recent[0].at.Add(-stop), l.dirs[1].held.Add(-stop), map[string]time.Time{}
			l.mu.Unlock()
			c.awake(stop, false)
			l.take(1)
		},
		"": func(*ledger, *conn) {},
	} {
		c := newConn(&fakeFS{}, newNotifier(-1, slog.New(slog.DiscardHandler)), Options{Logger: slog.New(slog.DiscardHandler), clock: bootTime})
		c.passes.call = func(uint32, string) rename { return moves }
		l := c.names
		mark := l.begin()
		l.offer(mark, 1, "from", time.Hour, true)
		lose(l, c)
		l.end(mark)
		n := looked{entryName: at, since: time.Now().Add(tookFor / 2), lease: time.Hour, mark: l.begin(), sure: true, until: time.Now().Add(time.Hour), ino: 5}
		if v := c.passes.answer(7, l, n); (v == stale) != (what != "") {
			t.Errorf("%q: verdict %d", what, v)
		}
	}
}

// TestHiddenTwice: what is not told of in the second pass is not told of when the kernel, which knows it, looks it up once more.
func TestHiddenTwice(t *testing.T) {
	l, p := newLedger(), newPasses()
	p.call = func(uint32, string) rename { return moves }
	look := func(name string) verdict {
		mark := l.begin()
		defer l.end(mark)
		now := time.Now()
		return p.answer(7, l, looked{entryName: entryName{1, name}, since: now, lease: time.Hour, mark: mark, sure: true, until: now.Add(time.Hour), ino: 5})
	}
	for i, step := range []struct {
		name    string
		changed bool // before it
		want    verdict
	}{
		{"from", false, tell}, {"to", true, stale}, {"to", false, stale}, {"from", false, tell}, {"to", true, hide}, {"to", false, hide},
		{"from", false, tell}, {"to", false, tell}, {"from", false, tell}, {"to", true, stale}, {"from", false, tell}, {"to", false, tell},
	} {
		if step.changed {
			l.take(1)
		}
		if got := look(step.name); got != step.want {
			t.Errorf("LOOKUP %d, of %s: verdict %d, want %d", i, step.name, got, step.want)
		}
	}
	if p.over(7, entryName{1, "to"}) != 5 || len(p.tasks) != 0 {
		t.Error("what was not told is not known at the end of the call")
	}
}

// TestOldNameIsNotHidden: of a rename to the same name in another directory, which is in its second pass, the old name is told.
func TestOldNameIsNotHidden(t *testing.T) {
	l, p := newLedger(), newPasses()
	p.call = func(uint32, string) rename { return movesNamesake }
	for i, want := range []verdict{stale, tell, tell, tell} {
		n := looked{entryName: entryName{2, "x"}, since: time.Now(), ino: 5} // as of a mount that never has a lease
		if i == 1 {
			n.entryName = entryName{1, "directory"}
		}
		if got := p.answer(7, l, n); got != want {
			t.Errorf("LOOKUP %d: verdict %d, want %d", i, got, want)
		}
	}
}

// TestCallOfBusyTask: a task that has asked, but has no processor to begin to wait with, is waited for.
func TestCallOfBusyTask(t *testing.T) {
	for tries := 0; ; tries++ {
		tid, done := make(chan int, 1), make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid <- unix.Gettid()
			for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
			}
			ts := unix.NsecToTimespec(int64(time.Second))
			_ = unix.Nanosleep(&ts, nil)
		}()
		call, _, ok := callOf(uint32(<-tid))
		<-done
		if ok && call == unix.SYS_NANOSLEEP {
			return
		}
		if call != unix.SYS_FUTEX || tries == 10 { // there the Go runtime has stopped it
			t.Fatalf("call %d, %v", call, ok)
		}
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

// TestRenameOf: what a task that waits for a LOOKUP of "to" is in.
func TestRenameOf(t *testing.T) {
	f, conn, from, to := mountRace(t, false)
	var got atomic.Uint32
	conn.passes.call = func(pid uint32, name string) rename {
		if name == "to" {
			got.Store(uint32(renameOf(pid, name)))
		}
		return noRename
	}
	at := func(flags uint) error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags) }
	for _, c := range []struct {
		what string
		call func() error
		want rename
	}{
		{"rename", func() error { return unix.Rename(from, to) }, moves},
		{"rename with a slash", func() error { return unix.Rename(from, to+"//") }, moves},
		{"renameat2", func() error { return at(0) }, moves},
		{"renameat2 exchange", func() error { return at(unix.RENAME_EXCHANGE) }, exchanges},
		{"rename to the same name", func() error { return unix.Rename(to, filepath.Dir(to)+"/./to/") }, movesNamesake},
		{"stat", func() error { return unix.Lstat(to, new(unix.Stat_t)) }, noRename},
		{"rename of to", func() error { return unix.Rename(to, from+"other") }, noRename},
		{"mkdir", func() error { return unix.Mkdir(to, 0o777) }, noRename},
	} {
		f.set(false, false, revoked)
		must(t, unix.Lstat(from, new(unix.Stat_t)))
		f.set(false, true, revoked)
		got.Store(uint32(noRename))
		if _ = c.call(); rename(got.Load()) != c.want {
			t.Errorf("%s: %v", c.what, got.Load())
		}
	}
	if renameOf(uint32(os.Getpid()), "to") != noRename {
		t.Error("this process renames nothing")
	}
	for path, want := range map[string]bool{"to": true, "a/to": true, "to/a": true, "/a/to//b": true, "": false, "tom": false, "a/into": false, "a/to.b": false} {
		if has(path, "to") != want {
			t.Errorf("%q: %v", path, !want)
		}
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

// What is mounted on a name, or below it, is a reason to leave its entry alone; what is mounted on such a name elsewhere is none.
func TestMountsWithin(t *testing.T) {
	const table = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/a\040dfs rw,nosuid - fuse.dfs 10.0.0.1:7470 rw
41 40 0:51 / /mnt/a\040dfs/d/with\040blank rw - tmpfs tmpfs rw
42 22 0:52 / /srv/elsewhere rw - tmpfs tmpfs rw
43 40 8:1 /etc/hosts /mnt/a\040dfs/hosts rw - ext4 /dev/sda1 rw
`
	for name, want := range map[string]bool{"with blank": true, "hosts": true, "d": true, "elsewhere": false, "a dfs": false, "mnt": false, "blank": false} {
		if got := mountsWithin(table, name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
