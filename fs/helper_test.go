package fs

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"dfs/internal/errors"
	"dfs/internal/fstest"
	"dfs/wal"
)

// world is a fake cluster.
type world struct {
	t     testing.TB
	disk  *fstest.Disk
	locks *fstest.Locks
	// walTarget is the size of records; 0: the default.
	walTarget int
}

func newWorld(t testing.TB, capacity uint64) *world {
	w := &world{t: t, disk: fstest.NewDisk(capacity), locks: fstest.NewLocks()}
	t.Cleanup(func() {
		if err := w.disk.Defect(); err != nil {
			t.Errorf("the store found: %v", err)
		}
	})
	return w
}

// mount is a server of the world with the parts of its session.
type mount struct {
	*Server
	t     testing.TB
	store *fstest.Store
	clerk *fstest.Clerk
	log   *wal.Writer
}

func (w *world) mount(o Options) *mount {
	w.t.Helper()
	if o.OrphanInterval == 0 {
		o.OrphanInterval = -1
	}
	if o.Logger == nil && testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	s, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &mount{Server: s, t: w.t}
	w.attach(m)
	return m
}

func (w *world) attach(m *mount) {
	w.t.Helper()
	m.store = w.disk.Open()
	m.clerk = w.locks.NewClerk(m.store, m.Server)
	log, err := wal.NewWriter(m.store, wal.Options{RecordBytesTarget: w.walTarget})
	if err != nil {
		w.t.Fatal(err)
	}
	m.log = log
	store, clerk := m.store, m.clerk
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = m.Server.Close(ctx)
		_ = clerk.Close(ctx)
		store.Fence()
		_ = log.Close()
	})
	if err := m.Attach(ctx, Backend{Store: m.store, Clerk: m.clerk, Log: log}); err != nil {
		w.t.Fatal(err)
	}
}

// close ends the mount as an unmount does.
func (m *mount) close() {
	m.t.Helper()
	if err := m.Server.Close(ctx); err != nil {
		m.t.Fatal(err)
	}
}

var (
	ctx  = context.Background()
	root = &Caller{}
)

func (m *mount) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// create makes a file and returns its inode and an O_RDWR handle.
func (m *mount) create(dir Ino, name string) (Ino, Handle) {
	m.t.Helper()
	e, h, _, err := m.Create(ctx, root, dir, name, 0o644, syscall.O_RDWR)
	m.must(err)
	return e.Attr.Ino, h
}

func (m *mount) write(h Handle, data string, off uint64) {
	m.t.Helper()
	_, err := m.Write(ctx, h, []byte(data), off, false)
	m.must(err)
}

func (m *mount) read(h Handle, n int, off uint64) string {
	m.t.Helper()
	b := make([]byte, n)
	got, err := m.Read(ctx, h, b, off)
	m.must(err)
	return string(b[:got])
}

func (m *mount) names(dir Ino) map[string]Ino {
	m.t.Helper()
	h, err := m.OpenDir(ctx, root, dir)
	m.must(err)
	defer func() { _ = m.ReleaseDir(ctx, h) }()
	out := map[string]Ino{}
	m.must(m.ReadDir(ctx, h, 0, false, func(e DirEntry) bool {
		if e.Name != "." && e.Name != ".." {
			if _, twice := out[e.Name]; twice {
				m.t.Errorf("%q is listed twice", e.Name)
			}
			out[e.Name] = e.Ino
		}
		return true
	}))
	return out
}

func (m *mount) attr(ino Ino) Attr {
	m.t.Helper()
	e, err := m.GetAttr(ctx, root, ino)
	m.must(err)
	return e.Attr
}

func (m *mount) lookup(dir Ino, name string) Entry {
	m.t.Helper()
	e, err := m.Lookup(ctx, root, dir, name)
	m.must(err)
	return e
}

// want fails unless err is of the errno (0: none).
func want(t testing.TB, what string, err error, no syscall.Errno) {
	t.Helper()
	if got := errors.Errno(err); got != no {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, no)
	}
}
