package fuse

import "time"

// idlePoll is how often a directory is looked at until no request is under way in it.
const idlePoll = 200 * time.Microsecond

// expire makes the kernel look the names up again at their next use, until given says that this is not needed any more.
//
// The kernel makes it wait for every task that has the directory locked, and those wait for answers of this process. Were it killed meanwhile,
// its waiting thread would keep the connection open, so that neither it nor they could ever end. So while requests are under way
// in the directory nothing is begun: what begins later comes from a task that held no lock yet.
func (c *conn) expire(dir uint64, names []string, given func() bool) {
	for _, name := range names {
		for c.busy(dir) {
			if given() {
				return
			}
			time.Sleep(idlePoll)
		}
		if given() {
			return
		}
		c.notify.expireEntry(dir, name)
	}
}

// busy reports whether a request is under way whose task may hold the kernel's lock of the directory.
func (c *conn) busy(dir uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.inflight {
		if r.ino == dir || r.also == dir {
			return true
		}
	}
	return false
}

// concerns notes the other directory of a rename.
func (c *conn) concerns(r *inflight, dir uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.also = dir
}
