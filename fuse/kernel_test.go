package fuse

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// fakeFS is a file system of one directory whose files are there when asked for; the size of a file, and which
// inode a name leads to, is its version. Its locks are real enough: an answer is computed under mu shared.
type fakeFS struct {
	fs.FileSystem
	mu      sync.RWMutex
	noting  bool
	version uint64
	perName bool          // another version is another inode
	block   chan struct{} // lookups of "0" wait for it to be closed
}

func (f *fakeFS) entry(ino fs.Ino) fs.Entry {
	a := fs.Attr{Ino: ino, Mode: syscall.S_IFREG | 0o644, Nlink: 1, Size: f.version, Mtime: time.Unix(int64(f.version), 0)}
	if ino == fs.RootIno {
		a.Mode, a.Nlink = syscall.S_IFDIR|0o755, 2
	}
	return fs.Entry{Attr: a, AttrCacheable: !f.noting, NameCacheable: !f.noting}
}

func (f *fakeFS) Lookup(_ context.Context, _ *fs.Caller, _ fs.Ino, name string) (fs.Entry, error) {
	if f.block != nil && name == "0" {
		<-f.block
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	var n uint64
	if _, err := fmt.Sscan(name, &n); err != nil {
		return fs.Entry{NameCacheable: !f.noting}, errors.Of(errors.KindNotExist)
	}
	ino := fs.Ino(1000 + n)
	if f.perName {
		ino = fs.Ino(1000 + f.version)
	}
	return f.entry(ino), nil
}

func (f *fakeFS) GetAttr(_ context.Context, _ *fs.Caller, ino fs.Ino) (fs.Entry, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.entry(ino), nil
}

func (f *fakeFS) GetXattr(context.Context, *fs.Caller, fs.Ino, string) ([]byte, error) {
	return nil, errors.Of(errors.KindNoAttr)
}

func (f *fakeFS) LeaseLeft() time.Duration { return 10 * time.Second }
func (f *fakeFS) Forgotten(fs.Ino)         {}

// revoke does what a revoke of a lock does, and changes something meanwhile.
func (f *fakeFS) revoke(drop func()) {
	f.mu.Lock()
	f.noting = true
	f.mu.Unlock()
	drop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.noting = false
}

func mountFake(t *testing.T, f *fakeFS) *Mount { return mountFakeWith(t, f, Options{}) }

func mountFakeWith(t *testing.T, f fs.FileSystem, o Options) *Mount {
	t.Helper()
	o.Source, o.Logger = "fake", slog.New(slog.DiscardHandler)
	m, err := New(t.TempDir(), f, o)
	if err != nil {
		t.Fatal(err)
	}
	m.conn.names.mu.Lock()
	m.conn.names.sharedQuiet = 0 // so that every round has names to drop
	m.conn.names.mu.Unlock()
	t.Cleanup(func() {
		if err := m.Unmount(true); err != nil {
			t.Error(err)
		}
		select {
		case <-m.Done():
		case <-time.After(10 * time.Second):
			t.Error("an unmounted mount goes on")
		}
	})
	return m
}

func lstat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Error(err)
	}
	return &st
}

// TestFirstAnswer revokes inodes of which the kernel learns at this moment. (Without the repetition in DropAttr the
// old size is shown.)
func TestFirstAnswer(t *testing.T) {
	f := &fakeFS{}
	m := mountFake(t, f)
	for i := range 1000 {
		path := filepath.Join(m.Dir(), fmt.Sprint(i))
		var wg sync.WaitGroup
		wg.Go(func() { lstat(t, path) })
		wg.Go(func() {
			time.Sleep(time.Duration(i%20) * 5 * time.Microsecond)
			f.revoke(func() { m.conn.DropAttr(fs.Ino(1000 + i)) })
		})
		wg.Wait()
		if st := lstat(t, path); st.Size != int64(f.version) {
			t.Fatalf("round %d: size %d after the change to %d", i, st.Size, f.version)
		}
	}
}

// TestKnownAttributes revokes the attributes of one inode while tasks ask for them.
func TestKnownAttributes(t *testing.T) {
	f := &fakeFS{}
	m := mountFake(t, f)
	path := filepath.Join(m.Dir(), "5")
	whileLooking(t, path, func() {
		for i := range 2000 {
			f.revoke(func() { m.conn.DropAttr(1005) })
			if st := lstat(t, path); st.Size != int64(f.version) {
				t.Fatalf("round %d: size %d after the change to %d", i, st.Size, f.version)
			}
		}
	})
}

// TestNames has a name lead to another inode while tasks look it up, revalidating what they have.
func TestNames(t *testing.T) {
	f := &fakeFS{perName: true}
	m := mountFake(t, f)
	path := filepath.Join(m.Dir(), "5")
	whileLooking(t, path, func() {
		for i := range 300 {
			f.revoke(func() { m.conn.DropNames(fs.RootIno) })
			if st := lstat(t, path); st.Ino != 1000+f.version {
				t.Fatalf("round %d: inode %d after the change to %d", i, st.Ino, 1000+f.version)
			}
		}
	})
}

func whileLooking(t *testing.T, path string, f func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = os.Lstat(path)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	f()
}

// TestAwake: after a stop what was handed out last is asked for again.
func TestAwake(t *testing.T) {
	f := &fakeFS{}
	m := mountFake(t, f)
	path := filepath.Join(m.Dir(), "5")
	lstat(t, path)
	f.mu.Lock()
	f.version = 77 // behind the kernel's back
	f.mu.Unlock()
	if st := lstat(t, path); st.Size == 77 {
		t.Fatal("nothing was cached: this test shows nothing")
	}
	m.conn.ran.Add(-int64(5 * time.Second)) // as if the watcher had not run for so long
	m.conn.looked.Add(-int64(5 * time.Second))
	if _, err := os.Lstat(filepath.Join(m.Dir(), "another")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if st := lstat(t, path); st.Size != 77 {
		t.Errorf("size %d is taken from the time before the stop", st.Size)
	}
}

// suspendedFS is a file system that remembers that all that its kernel was told was to be dropped.
type suspendedFS struct {
	*fakeFS
	voided atomic.Int32
}

func (f *suspendedFS) VoidKernel()              { f.voided.Add(1) }
func (f *suspendedFS) LeaseLeft() time.Duration { return time.Hour } // nothing runs out by itself

// TestSuspended: while a machine is suspended the lease runs on and the kernel's timeouts do not. On waking everything is dropped that
// the kernel was told, however long ago; a clock that stands still meanwhile does not hide it.
func TestSuspended(t *testing.T) {
	var jumped atomic.Int64
	f := &suspendedFS{fakeFS: &fakeFS{}}
	m := mountFakeWith(t, f, Options{clock: func() time.Duration { return bootTime() + time.Duration(jumped.Load()) }})
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("the watcher does not run", func() bool { return m.conn.looked.Load() != 0 })
	old, err := unix.Open(filepath.Join(m.Dir(), "5"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(old)
	fstat := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Fstat(old, &st); err != nil {
			t.Fatal(err)
		}
		return st.Size
	}
	fstat()
	m.conn.names.mu.Lock() // it was told long ago
	for i := range m.conn.names.recent {
		m.conn.names.recent[i].at = m.conn.names.recent[i].at.Add(-5 * time.Second)
	}
	m.conn.names.mu.Unlock()
	f.mu.Lock()
	f.version = 77 // behind the kernel's back
	f.mu.Unlock()
	if fstat() == 77 {
		t.Fatal("nothing was cached: this test shows nothing")
	}
	jumped.Store(int64(9 * time.Hour))
	until("what an open file's kernel was told 5 s before the night is shown after it", func() bool { return fstat() == 77 })
	if n := f.voided.Load(); n != 1 {
		t.Errorf("the file system was told %d times that its kernel knows old things", n)
	}
	m.conn.ran.Add(-int64(5 * time.Second)) // a stop is no suspension: the kernel's timeouts went on
	m.conn.looked.Add(-int64(5 * time.Second))
	if _, err := os.Lstat(filepath.Join(m.Dir(), "another")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if n := f.voided.Load(); n != 1 {
		t.Error("a stop was taken for a suspension")
	}
}

// TestStuck: a request that is never answered ends with an error, once the connection is aborted.
func TestStuck(t *testing.T) {
	f := &fakeFS{block: make(chan struct{})}
	defer close(f.block)
	m := mountFakeWith(t, f, Options{StuckAfter: 300 * time.Millisecond})
	got := make(chan error, 1)
	go func() { got <- syscall.Lstat(filepath.Join(m.Dir(), "0"), new(syscall.Stat_t)) }()
	select {
	case err := <-got:
		if err == nil {
			t.Error("a request that was never answered succeeded")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a stuck request stays stuck")
	}
}

// TestUnmountWhileWaiting detaches a mount on which a request waits: it is answered, then the mount ends.
func TestUnmountWhileWaiting(t *testing.T) {
	f := &fakeFS{block: make(chan struct{})}
	m, err := New(t.TempDir(), f, Options{Source: "fake", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- syscall.Lstat(filepath.Join(m.Dir(), "0"), new(syscall.Stat_t)) }()
	for waiting := 0; waiting == 0; time.Sleep(time.Millisecond) {
		m.conn.mu.Lock()
		waiting = len(m.conn.inflight)
		m.conn.mu.Unlock()
	}
	if err := m.Unmount(false); !errors.Is(err, errors.KindBusy) {
		t.Errorf("unmounting a mount in use: %v", err)
	}
	if err := m.Unmount(true); err != nil {
		t.Fatal(err)
	}
	close(f.block)
	if err := <-got; err != nil {
		t.Errorf("the request that waited: %v", err)
	}
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		t.Error("the mount goes on")
	}
}

func TestCheckMountPoint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := mountFake(t, &fakeFS{})
	for path, want := range map[string]errors.Kind{
		filepath.Join(dir, "missing"): errors.KindNotExist,
		file:                          errors.KindNotDir,
		dir:                           errors.KindNotEmpty,
		m.Dir():                       errors.KindBusy,
		"/proc":                       errors.KindBusy,
	} {
		if err := CheckMountPoint(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if err := CheckMountPoint(t.TempDir()); err != nil {
		t.Error(err)
	}
	if !Mounted(m.Dir()) || Mounted(dir) {
		t.Error("Mounted is wrong")
	}
	if err := Unmount(dir, false); !errors.Is(err, errors.KindInvalid) {
		t.Errorf("unmounting what is no mount: %v", err)
	}
	if got := unescapeMount(`/a\040b\011c\134d`); got != "/a b\tc\\d" {
		t.Errorf("%q", got)
	}
}

// TestDescriptors: no descriptor of /dev/fuse is left open to a child.
func TestDescriptors(t *testing.T) {
	mountFake(t, &fakeFS{})
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range list {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if target != "/dev/fuse" {
			continue
		}
		found++
		info, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil {
			continue
		}
		var flags int64
		for line := range strings.Lines(string(info)) {
			if _, err := fmt.Sscanf(line, "flags:\t%o", &flags); err == nil {
				break
			}
		}
		if flags&syscall.O_CLOEXEC == 0 {
			t.Errorf("descriptor %s of /dev/fuse is inherited by children", e.Name())
		}
	}
	if found < 2 {
		t.Errorf("%d descriptors of /dev/fuse found, want the server's and the notifier's", found)
	}
}
