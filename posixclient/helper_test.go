package posixclient

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	dfsfs "dfs/fs"
	"dfs/fs/filerpc"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/fstest"
	"dfs/wal"
)

// world is a fake cluster whose nodes serve the file service on loopback.
type world struct {
	t     *testing.T
	disk  *fstest.Disk
	locks *fstest.Locks
	nodes []*testNode
}

// testNode is one node's file server and file service.
type testNode struct {
	addr  string
	files *dfsfs.Server
	store *fstest.Store
	clerk *fstest.Clerk
	log   *wal.Writer
	rpc   *filerpc.Server
	grpc  *grpc.Server
	hook  hooked

	cluster atomic.Value // string: the id of the cluster that it says it is of
}

// Info implements cluster.Source.
func (n *testNode) Info() cluster.Info {
	return cluster.Info{Node: blockstore.NodeID(n.addr), ClusterID: n.cluster.Load().(string)}
}

func newWorld(t *testing.T, nodes int, opt filerpc.Options) *world {
	t.Helper()
	w := &world{t: t, disk: fstest.NewDisk(1 << 20), locks: fstest.NewLocks()}
	for range nodes {
		w.add(opt)
	}
	t.Cleanup(func() {
		if err := w.disk.Defect(); err != nil {
			t.Errorf("the store found: %v", err)
		}
	})
	return w
}

// add starts a node.
func (w *world) add(opt filerpc.Options) *testNode {
	w.t.Helper()
	s, err := dfsfs.New(dfsfs.Options{OrphanInterval: -1})
	w.must(err)
	n := &testNode{files: s, hook: hooked{FileSystem: s}}
	w.session(n)
	if opt.Open == nil {
		opt.Open = func(context.Context) (filerpc.FileSystem, error) { return &n.hook, nil }
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Identity == nil {
		opt.Identity = func(_, _ uint32) bool { return true }
	}
	n.rpc = filerpc.NewServer(opt)
	n.grpc = grpc.NewServer(cluster.ServerOptions(nil)...)
	n.rpc.Register(n.grpc)
	n.cluster.Store("one")
	cluster.Register(n.grpc, n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	n.addr = l.Addr().String()
	go func() { _ = n.grpc.Serve(l) }()
	w.nodes = append(w.nodes, n)
	w.t.Cleanup(func() {
		n.kill()
		n.rpc.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Close(ctx)
		_ = n.clerk.Close(ctx)
		n.store.Fence()
		_ = n.log.Close()
	})
	return n
}

// session gives the node's file server a session with the cluster.
func (w *world) session(n *testNode) {
	var err error
	n.store = w.disk.Open()
	n.clerk = w.locks.NewClerk(n.store, n.files)
	n.log, err = wal.NewWriter(n.store, wal.Options{})
	w.must(err)
	w.must(n.files.Attach(context.Background(), dfsfs.Backend{Store: n.store, Clerk: n.clerk, Log: n.log}))
}

// fence ends the session of the node's file server, as that of a process that is stopped.
func (n *testNode) fence() {
	n.store.Fence()
	n.clerk.End(errors.New(errors.KindSessionEnded, "its lease ran out"))
	_ = n.log.Close()
}

// kill cuts every connection of the node, and refuses new ones.
func (n *testNode) kill() { n.grpc.Stop() }

// hooked lets a test do something in the midst of a call.
type hooked struct {
	filerpc.FileSystem
	write  func() error // before a Write is done
	mkdir  func()       // after a Mkdir was done
	create func()       // after a Create was done
	before func()       // before a changing request is looked up
	during func()       // when it is to be done
	after  func()       // when it was done, and before it is answered
}

// Once does as a node that is stopped now and then: what it has begun goes on, whoever asked for it.
func (h *hooked) Once(ctx context.Context, r dfsfs.Request, f func(ctx context.Context) error) (*dfsfs.Outcome, error) {
	run := func(f func()) {
		if f != nil {
			f()
			ctx = context.WithoutCancel(ctx)
		}
	}
	run(h.before)
	done, err := h.FileSystem.Once(ctx, r, func(ctx context.Context) error {
		if h.during != nil {
			h.during()
			ctx = context.WithoutCancel(ctx)
		}
		return f(ctx)
	})
	run(h.after)
	return done, err
}

func (h *hooked) Write(ctx context.Context, fh dfsfs.Handle, data []byte, off uint64, kill bool) (uint64, error) {
	if f := h.write; f != nil {
		if err := f(); err != nil {
			return 0, err
		}
	}
	return h.FileSystem.Write(ctx, fh, data, off, kill)
}

func (h *hooked) Mkdir(ctx context.Context, c *dfsfs.Caller, dir dfsfs.Ino, name string, mode uint32) (dfsfs.Entry, error) {
	e, err := h.FileSystem.Mkdir(ctx, c, dir, name, mode)
	if h.mkdir != nil {
		h.mkdir()
	}
	return e, err
}

func (h *hooked) Create(ctx context.Context, c *dfsfs.Caller, dir dfsfs.Ino, name string, mode, flags uint32) (dfsfs.Entry, dfsfs.Handle, dfsfs.OpenInfo, error) {
	e, fh, info, err := h.FileSystem.Create(ctx, c, dir, name, mode, flags)
	if h.create != nil {
		h.create()
	}
	return e, fh, info, err
}

func (w *world) addrs() []string {
	var list []string
	for _, n := range w.nodes {
		list = append(list, n.addr)
	}
	return list
}

// client connects as root.
func (w *world) client() *Client { return w.clientOf(Options{}) }

func (w *world) clientOf(opt Options) *Client {
	w.t.Helper()
	if opt.Wait == 0 {
		opt.Wait = 10 * time.Second
	}
	c, err := Dial(context.Background(), w.addrs(), opt)
	w.must(err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) must(err error) {
	w.t.Helper()
	must(w.t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails unless err is of the errno (0: none), wrapped as package os does.
func want(t testing.TB, what string, err error, no syscall.Errno) {
	t.Helper()
	if no == 0 {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if got := errors.Errno(err); got != no || !errorsIs(err, no) {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, no)
	}
	switch err.(type) {
	case *os.PathError, *os.LinkError, *os.SyscallError:
	default:
		t.Errorf("%s: the error is a %T", what, err)
	}
}

// open opens, which must succeed.
func open(t testing.TB, c *Client, path string, flags int) *File {
	t.Helper()
	f, err := c.Open(path, flags, 0o644)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func content(t testing.TB, c *Client, path string) string {
	t.Helper()
	b, err := c.ReadFile(path)
	must(t, err)
	return string(b)
}

func names(list []fs.DirEntry) []string {
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}
