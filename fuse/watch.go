package fuse

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"dfs/fs"
)

// backgroundContext is the root of every request's context.
var backgroundContext = context.Background()

// bootTime is CLOCK_BOOTTIME: it runs while the machine is suspended, too.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// watch runs until ctx ends. A jump of the clock between two of its looks
// means that the process was stopped or the machine suspended: replies written
// since may carry timeouts that the lease no longer backs, so what the last
// answers named is dropped. It also sweeps the ledger, and aborts a connection with a stuck request.
func (c *conn) watch(ctx context.Context, abort func()) {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	last := bootTime()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := bootTime()
		if now-last > 4*watchTick {
			c.dropRecent()
		}
		last = now
		if n%64 == 63 {
			c.names.sweep(time.Now())
		}
		if c.opt.StuckAfter > 0 && c.stuck() {
			abort()
			return
		}
	}
}

// dropRecent drops what the last answers named.
func (c *conn) dropRecent() {
	c.mu.Lock()
	recent := c.recent
	c.mu.Unlock()
	dirs := map[uint64]bool{}
	for _, a := range recent {
		if a.ino != 0 {
			c.DropData(fs.Ino(a.ino), 0, 0)
		}
		if a.dir != 0 && !dirs[a.dir] {
			dirs[a.dir] = true
			c.DropNames(fs.Ino(a.dir))
		}
	}
}

// stuck reports whether a request is older than StuckAfter, and logs it.
func (c *conn) stuck() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.inflight {
		if age := time.Since(r.since); age > c.opt.StuckAfter && !r.anySignal {
			c.log.Error("fuse: a request is stuck; the mount is aborted so that its callers get errors",
				"op", r.op, "ino", r.ino, "age", age, "pid", r.pid)
			return true
		}
	}
	return false
}
