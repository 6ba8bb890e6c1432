package fuse

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"dfs/fs"
	"dfs/internal/errors"
)

// watchTick is how often the watcher looks for a jump of the clock, for interrupts and for stuck requests.
const watchTick = 100 * time.Millisecond

// arrivalSlack is taken off every timeout: the kernel counts it from the
// arrival of the reply, which is later than the look at the lease.
const arrivalSlack = 50 * time.Millisecond

// conn answers the requests of one kernel connection. It implements
// gofuse.RawFileSystem (each method by name: a missing one would be ENOSYS in
// silence) and fs.Invalidator.
type conn struct {
	fs     fs.FileSystem
	io     fs.KernelIO // nil: the file system does not want to know
	notify *notifier
	names  *ledger
	passes *passes
	opt    Options
	log    *slog.Logger

	lookups *lookups

	mapsDirect bool // the kernel's (kernel.go)

	mu       sync.Mutex
	inflight map[*inflight]struct{}

	boot   func() time.Duration // CLOCK_BOOTTIME
	looked atomic.Int64         // when the watcher last looked, by boot; 0: not running
	ran    atomic.Int64         // the same, as time since born: by a clock that stands still while the machine is suspended
	born   time.Time
}

var (
	_ gofuse.RawFileSystem = (*conn)(nil)
	_ fs.Invalidator       = (*conn)(nil)
	_ fs.DirectMapper      = (*conn)(nil)
)

const (
	opLockWait = "setlkw" // the one request that any signal interrupts
	opLookup   = "lookup" // the one that names something without the kernel's lock of the directory, at times
)

// inflight is a request being answered.
type inflight struct {
	request
	caller fs.Caller
	mark   uint64 // ledger mark
	op     string
	ino    uint64
	also   uint64 // another directory that it concerns
	since  time.Time
}

func newConn(fsys fs.FileSystem, n *notifier, opt Options) *conn {
	c := &conn{fs: fsys, notify: n, names: newLedger(), passes: newPasses(), lookups: newLookups(), opt: opt, log: opt.Logger, inflight: map[*inflight]struct{}{}, boot: opt.clock, born: time.Now()}
	c.io, _ = fsys.(fs.KernelIO)
	return c
}

// begin makes the context and caller of a request; end must follow.
func (c *conn) begin(cancel <-chan struct{}, h *gofuse.InHeader, op string) *inflight {
	now := time.Now()
	c.lookForSleep()
	r := &inflight{op: op, ino: h.NodeId, since: now, mark: c.names.begin()}
	r.request.Context, r.request.cancel, r.request.pid = backgroundContext, cancel, h.Pid
	r.anySignal = op == opLockWait
	r.caller = fs.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid, Kernel: true}
	c.mu.Lock()
	c.inflight[r] = struct{}{}
	c.mu.Unlock()
	return r
}

func (c *conn) end(r *inflight) {
	c.mu.Lock()
	delete(c.inflight, r)
	c.mu.Unlock()
	c.names.end(r.mark)
}

// status maps err to the errno the caller sees, and logs what it hides.
func (c *conn) status(r *inflight, err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	no := errors.Errno(err)
	if no == syscall.EIO {
		c.log.Warn("fuse: an operation failed", "op", r.op, "ino", r.ino, "error", err)
	}
	return gofuse.Status(no)
}

// ttl is how long an answer made now may be cached.
func (c *conn) ttl() time.Duration {
	if c.opt.Uncached {
		return 0
	}
	left := c.fs.LeaseLeft() - arrivalSlack
	if c.opt.TimeoutMax > 0 && left > c.opt.TimeoutMax {
		left = c.opt.TimeoutMax
	}
	return max(left, 0)
}

// fillAttr translates attributes.
func fillAttr(a *fs.Attr, out *gofuse.Attr) {
	*out = gofuse.Attr{
		Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks, Mode: a.Mode, Nlink: a.Nlink, Rdev: a.Rdev, Blksize: 4096,
		Atime: uint64(a.Atime.Unix()), Atimensec: uint32(a.Atime.Nanosecond()),
		Mtime: uint64(a.Mtime.Unix()), Mtimensec: uint32(a.Mtime.Nanosecond()),
		Ctime: uint64(a.Ctime.Unix()), Ctimensec: uint32(a.Ctime.Nanosecond()),
		Owner: gofuse.Owner{Uid: a.UID, Gid: a.GID},
	}
}

// fillAttrOut makes the answer to GETATTR; the timeout is computed last.
func (c *conn) fillAttrOut(r *inflight, e *fs.Entry, out *gofuse.AttrOut) {
	fillAttr(&e.Attr, &out.Attr)
	if e.AttrCacheable {
		out.SetTimeout(c.names.fresh(r.mark, uint64(e.Attr.Ino), c.ttl()))
	}
}

// fillEntry makes the answer that names a child.
func (c *conn) fillEntry(r *inflight, dir uint64, name string, e *fs.Entry, out *gofuse.EntryOut) {
	out.NodeId, out.Generation = uint64(e.Attr.Ino), 1
	c.lookups.named(out.NodeId)
	fillAttr(&e.Attr, &out.Attr)
	ttl := c.ttl()
	if e.AttrCacheable {
		out.SetAttrTimeout(c.names.fresh(r.mark, uint64(e.Attr.Ino), ttl))
	}
	if e.NameCacheable {
		out.SetEntryTimeout(c.names.offer(r.mark, dir, name, ttl, r.op == opLookup))
	}
}

// openFlags says how the kernel may cache the file.
func (c *conn) openFlags(info fs.OpenInfo) (flags uint32) {
	if c.opt.Uncached {
		return gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	if info.DirectIO {
		flags |= gofuse.FOPEN_DIRECT_IO
	}
	if info.KeepCache {
		flags |= gofuse.FOPEN_KEEP_CACHE
	}
	return flags
}
