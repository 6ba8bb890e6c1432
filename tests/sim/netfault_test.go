package sim

import (
	"maps"
	"slices"
	"syscall"
	"time"
)

// wakeLocked lets every connection look again.
func (n *network) wakeLocked() {
	for c := range n.conns {
		c.in.wake()
	}
}

// cut holds or joins what goes from one machine to another. What was written meanwhile arrives when it is joined.
func (n *network) cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.linkLocked(from, to).cut = cut
	n.wakeLocked()
}

// slow gives a link another delay and returns the old one.
func (n *network) slow(from, to string, delay time.Duration) (old time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(from, to)
	old, l.delay = l.delay, delay
	return old
}

// reset breaks every connection between two machines.
func (n *network) reset(a, b string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	broken := 0
	for _, c := range n.ordered() {
		if c.local.name == a && c.remote.name == b && c.in.end == nil {
			c.breakLocked()
			broken++
		}
	}
	return broken
}

// freeze holds or lets go everything that a machine's processes send and take.
func (h *host) freeze(frozen bool) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.frozen = frozen
	h.n.wakeLocked()
}

// kill ends every connection of a machine's processes. With the power off nobody is told; else its kernel tells the others.
func (h *host) kill(power bool) {
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	h.off, h.down, h.frozen = power, true, false
	clear(h.listen)
	for _, c := range n.ordered() {
		if c.local != h {
			continue
		}
		c.closed = true
		delete(n.conns, c)
		if !power && c.out.end == nil {
			c.out.end = syscall.ECONNRESET
		}
		c.in.wake()
		c.out.wake()
	}
}

// mute lets nothing that is said from now on leave the machine.
func (h *host) mute() {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.muted = true
}

// unmute lets the machine speak again, on new connections.
func (h *host) unmute() {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.muted = false
	for _, c := range h.n.ordered() {
		if c.local == h && c.in.end == nil {
			c.breakLocked()
		}
	}
}

// start gives the machine its network back. Others learn that their old connections are dead.
func (h *host) start() {
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	h.off, h.down, h.frozen, h.muted = false, false, false, false
	for c := range n.conns {
		if c.remote == h && c.peer.closed && c.in.end == nil {
			c.in.end, c.out.end = syscall.ECONNRESET, syscall.ECONNRESET
		}
	}
	n.wakeLocked()
}

// ordered lists the connections as they were made.
func (n *network) ordered() []*conn {
	return slices.SortedFunc(maps.Keys(n.conns), func(a, b *conn) int { return a.id - b.id })
}
