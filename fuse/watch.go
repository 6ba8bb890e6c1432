package fuse

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"dfs/fs"
)

// backgroundContext is the root of every request's context.
var backgroundContext = context.Background()

// asleepAfter is the time without a look by the watcher after which the process must have been stopped, or
// the machine suspended. Under a heavy load it may be taken for that by mistake, which costs little.
const asleepAfter = time.Second

// bootTime is CLOCK_BOOTTIME: it runs while the machine is suspended, too.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// watch runs until ctx ends: it looks for interrupts, for a time during which nothing ran, for
// stuck requests, whose connection it aborts, and sweeps the ledger.
func (c *conn) watch(ctx context.Context, abort func()) {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	c.look()
	for n, aborted := 1, false; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.lookForSleep()
		c.look()
		c.interrupts()
		if n%64 == 0 {
			c.names.sweep(time.Now())
		}
		if c.opt.StuckAfter > 0 && !aborted && c.stuck() {
			aborted = true
			abort()
		}
	}
}

// look notes that something runs now.
func (c *conn) look() {
	c.ran.Store(int64(time.Since(c.born)))
	c.looked.Store(int64(c.boot()))
}

// lookForSleep is called by the watcher, and as a request begins: after a stop that is answered only when what was
// answered before the stop has been dropped, even if the watcher has not run yet.
func (c *conn) lookForSleep() {
	looked, now := c.looked.Load(), c.boot()
	gap := now - time.Duration(looked)
	if looked == 0 || gap <= asleepAfter {
		return
	}
	ran := time.Since(c.born) - time.Duration(c.ran.Load())
	if c.looked.CompareAndSwap(looked, int64(now)) {
		c.awake(gap, gap-ran > asleepAfter/2)
	}
}

// awake is called after a time of at least gap during which nothing ran. The kernel counts a timeout from the arrival of the
// reply, so replies written now, but computed before, may carry validity that the lease no longer backs: what they may have named is
// dropped now, and again when they have arrived. If the machine was suspended, the kernel's timeouts stood still while the lease ran
// on: all that it was ever told is dropped.
func (c *conn) awake(gap time.Duration, suspended bool) {
	c.names.lost() // requests may have waited all that time
	c.log.Warn("fuse: this process did not run for a while; what the kernel was told last is dropped", "for", gap.Round(time.Millisecond), "suspended", suspended)
	var inos, dirs map[uint64]bool
	if suspended {
		inos, dirs = c.names.since(time.Time{})
		c.names.eachDir(func(dir uint64) { dirs[dir] = true })
		if v, ok := c.fs.(fs.KernelVoider); ok {
			v.VoidKernel() // the ledger remembers names, but not all attributes
		}
	} else {
		inos, dirs = c.names.since(time.Now().Add(-gap - asleepAfter))
	}
	names := map[uint64][]string{}
	for dir := range dirs {
		names[dir] = c.names.take(dir).names
	}
	attrs := func() {
		for ino := range inos {
			c.names.drop(ino)
			c.notify.invalInode(ino, -1, 0)
		}
	}
	all := func() {
		attrs()
		for dir, list := range names {
			c.expire(dir, list, func() bool { return false })
		}
	}
	attrs()
	go all() // the names may wait for requests
	for _, d := range expireAgain {
		time.AfterFunc(d, all)
	}
}

// interrupts ends the contexts of requests whose callers are being killed, or were interrupted while they wait for a lock.
func (c *conn) interrupts() {
	c.mu.Lock()
	var list []*inflight
	for r := range c.inflight {
		if r.interrupted() {
			list = append(list, r)
		}
	}
	c.mu.Unlock()
	for _, r := range list {
		r.poll(beingKilled)
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
