package fs

import (
	"cmp"
	"slices"
	"time"
)

// wholeFile is every byte that a file can have.
var wholeFile = span{0, ^uint64(0) / blockSize * blockSize}

// dropPages drops the kernel's pages of r. The kernel makes that wait for requests on those pages that hold one locked, and such a
// request may wait for a greater lock than the one being given up. Its pages are not up to date then, so they need no drop:
//
//   - A read that fills pages holds them locked, not up to date, until it is answered.
//   - A write through the page cache that waits while the lock is held Shared: nothing in the cache is up to date then, because
//     pages of a file that is open for writing are filled under Exclusive alone (lockFill), those from before that open were dropped by it
//     (Open), and all are dropped when the lock is downgraded (dropKernel).
//
// So what such requests cover is left out; where one begins to wait with a drop under way, which it may be holding up, that
// drop is left to itself, and what it had not come to is dropped anew. With a limit, not 0, a drop is left to itself after it, too.
func (ss *session) dropPages(n *node, r span, limit time.Duration) {
	for done := false; !done; {
		done = true
		gaps, _ := n.rv.gaps(r)
		for _, gap := range gaps {
			done = ss.dropOne(n, gap, limit) && done
		}
	}
}

// dropOne drops r; it returns false when a request on r has begun to wait for the lock, which may be in the way.
func (ss *session) dropOne(n *node, r span, limit time.Duration) bool {
	var over <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		over = t.C
	}
	dropped := ss.startDrop(n, r)
	for {
		gaps, parked := n.rv.gaps(r)
		if len(gaps) != 1 || gaps[0] != r {
			select {
			case <-dropped:
				return true
			default:
				return false
			}
		}
		select {
		case <-dropped:
			return true
		case <-over:
			return true
		case <-parked:
		}
	}
}

// startDrop drops r on a goroutine of its own, which ends when the requests on it have been answered.
func (ss *session) startDrop(n *node, r span) (dropped <-chan struct{}) {
	done := make(chan struct{})
	length := r.to - r.from
	if r.to == wholeFile.to {
		length = 0 // to the end
	}
	go func() {
		defer close(done)
		ss.s.opts.Invalidator.DropData(Ino(n.ino), r.from, length)
	}()
	return done
}

// gaps is r less the pages that requests hold which wait and are not served under the revoke, ascending; parked is closed when
// another begins to wait.
func (rv *revocation) gaps(r span) (out []span, parked <-chan struct{}) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	if rv.parked == nil {
		rv.parked = make(chan struct{})
	}
	at := r.from
	for _, h := range rv.heldLocked(r) {
		if h.from > at {
			out = append(out, span{at, h.from})
		}
		at = max(at, h.to)
	}
	if at < r.to {
		out = append(out, span{at, r.to})
	}
	return out, rv.parked
}

func (rv *revocation) heldLocked(r span) []span {
	var held []span
	for w := range rv.waiters {
		p := w.io.pages()
		p = span{max(p.from, r.from), min(p.to, r.pages().to)}
		if w.holds() && p.from < p.to && !rv.admits(w) {
			held = append(held, p)
		}
	}
	slices.SortFunc(held, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return held
}
