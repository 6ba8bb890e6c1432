package fuse

import (
	"log/slog"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"dfs/fs"
	"dfs/internal/errors"
)

// expireWait is how long a directory revoke waits for the kernel to take the expiry of its
// names before it falls back on their timeouts running out.
const expireWait = 5 * time.Millisecond

// watchTick is how often the watcher looks for a jump of the clock and for stuck requests.
const watchTick = 250 * time.Millisecond

// arrivalSlack is taken off every timeout: the kernel counts it from the
// arrival of the reply, which is later than the look at the lease.
const arrivalSlack = 50 * time.Millisecond

// conn answers the requests of one kernel connection. It implements
// gofuse.RawFileSystem (each method by name: a missing one would be ENOSYS in
// silence) and fs.Invalidator.
type conn struct {
	fs     fs.FileSystem
	notify *notifier
	names  *ledger
	opt    Options
	log    *slog.Logger

	mu       sync.Mutex
	inflight map[*inflight]struct{}
	recent   [recentMax]answered // ring of the last answers that carried a timeout
	answers  uint64
}

// recentMax is how many answers are remembered for the case that the process was stopped
// between computing and writing one.
const recentMax = 256

// answered is what an answer with a timeout named.
type answered struct{ ino, dir uint64 }

var (
	_ gofuse.RawFileSystem = (*conn)(nil)
	_ fs.Invalidator       = (*conn)(nil)
)

// opLockWait names the one request that any signal interrupts.
const opLockWait = "setlkw"

// inflight is a request being answered.
type inflight struct {
	request
	caller fs.Caller
	mark   uint64 // ledger mark
	op     string
	ino    uint64
	since  time.Time
	answered
}

func newConn(fsys fs.FileSystem, n *notifier, opt Options) *conn {
	return &conn{fs: fsys, notify: n, names: newLedger(), opt: opt, log: opt.Logger, inflight: map[*inflight]struct{}{}}
}

// begin makes the context and caller of a request; end must follow.
func (c *conn) begin(cancel <-chan struct{}, h *gofuse.InHeader, op string) *inflight {
	r := &inflight{op: op, ino: h.NodeId, since: time.Now(), mark: c.names.begin()}
	r.request.Context, r.request.cancel, r.request.pid = backgroundContext, cancel, h.Pid
	r.anySignal = op == opLockWait
	r.caller = fs.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid}
	c.mu.Lock()
	c.inflight[r] = struct{}{}
	c.mu.Unlock()
	return r
}

func (c *conn) end(r *inflight) {
	c.mu.Lock()
	delete(c.inflight, r)
	if r.answered != (answered{}) {
		c.recent[c.answers%recentMax] = r.answered
		c.answers++
	}
	c.mu.Unlock()
	c.names.end(r.mark)
	r.finish()
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

// fillAttrOut makes the answer to GETATTR and SETATTR; the timeout is computed last.
func (c *conn) fillAttrOut(r *inflight, e *fs.Entry, out *gofuse.AttrOut) {
	fillAttr(&e.Attr, &out.Attr)
	if e.AttrCacheable {
		out.SetTimeout(c.names.fresh(r.mark, uint64(e.Attr.Ino), c.ttl()))
		r.answered.ino = uint64(e.Attr.Ino)
	}
}

// fillEntry makes the answer that names a child.
func (c *conn) fillEntry(r *inflight, dir uint64, name string, e *fs.Entry, out *gofuse.EntryOut) {
	out.NodeId, out.Generation = uint64(e.Attr.Ino), 1
	fillAttr(&e.Attr, &out.Attr)
	ttl := c.ttl()
	if e.AttrCacheable {
		out.SetAttrTimeout(c.names.fresh(r.mark, uint64(e.Attr.Ino), ttl))
		r.answered.ino = uint64(e.Attr.Ino)
	}
	if e.NameCacheable {
		out.SetEntryTimeout(c.names.offer(r.mark, dir, name, ttl))
		r.answered.dir = dir
	}
}

func (c *conn) openFlags(info fs.OpenInfo) uint32 {
	var flags uint32
	if info.DirectIO || c.opt.Uncached {
		flags |= gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_PARALLEL_DIRECT_WRITES
	} else if info.KeepCache {
		flags |= gofuse.FOPEN_KEEP_CACHE
	}
	return flags
}

// DropData implements fs.Invalidator.
func (c *conn) DropData(ino fs.Ino, off, length uint64) {
	c.names.drop(uint64(ino))
	c.notify.invalInode(uint64(ino), int64(off), int64(length))
}

// DropAttr implements fs.Invalidator.
func (c *conn) DropAttr(ino fs.Ino) {
	c.names.drop(uint64(ino))
	c.notify.invalInode(uint64(ino), -1, 0)
}

// DropNames implements fs.Invalidator: the names are expired on a goroutine
// of their own, because the kernel makes that wait for every LOOKUP in flight in
// the directory, and those may wait for this very revoke; if it is not done
// soon, the timeouts handed out are waited out instead.
func (c *conn) DropNames(dir fs.Ino) {
	names, until := c.names.take(uint64(dir))
	if len(names) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, name := range names {
			c.notify.expireEntry(uint64(dir), name)
		}
	}()
	quick := time.NewTimer(expireWait + time.Duration(len(names))*20*time.Microsecond)
	defer quick.Stop()
	select {
	case <-done:
		return
	case <-quick.C:
	}
	rest := time.NewTimer(time.Until(until.Add(arrivalSlack)))
	defer rest.Stop()
	select {
	case <-done:
	case <-rest.C:
	}
}
