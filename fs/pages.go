package fs

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"dfs/lockserver"
)

// A write changes the kernel's page first, or has it dropped, and is sent then. If the page is dropped and filled anew by a read that is served
// before the write is, the kernel has old bytes: stale ones, and if a mapping's store turns them dirty, they are written back over the write. So
//
//   - a read that fills pages waits for the writes on them that have come before it is served (waitWrites);
//   - a write drops pages that were filled a moment ago: that read may have been sent after it (lockWrite).

// fillRecent is how long before a write arrives it may have been sent.
const fillRecent = 100 * time.Millisecond

// settleLimit bounds a drop for a write that may hold the page itself. Then it is not up to date.
const settleLimit = 20 * time.Millisecond

// fillsMax bounds what is remembered of one inode; beyond, fills are joined.
const fillsMax = 32

// fill is a range of pages that a read has filled.
type fill struct {
	span
	at time.Time
}

// fillGrace is how long pages just filled are left to whoever asked for them: a page fault or read(2) that finds its page dropped asks again, and
// would wait for the lock anew each time.
const fillGrace = 400 * time.Microsecond

// fillGrace waits until the last fill is that long ago. (time.Sleep is a millisecond at least where nothing else runs.)
func (rv *revocation) fillGrace() {
	if left := fillGrace - time.Since(time.Unix(0, rv.filled.Load())); left > 0 && left <= fillGrace {
		ts := unix.NsecToTimespec(int64(left))
		_ = unix.Nanosleep(&ts, nil)
	}
}

// pendingWrite is a write that is not done yet.
type pendingWrite struct {
	span
	done chan struct{}
}

func (rv *revocation) beginWrite(r span) *pendingWrite {
	w := &pendingWrite{r.pages(), make(chan struct{})}
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.writes = append(rv.writes, w)
	return w
}

func (rv *revocation) endWrite(w *pendingWrite) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	for i := range rv.writes {
		if rv.writes[i] == w {
			last := len(rv.writes) - 1
			rv.writes[i], rv.writes[last] = rv.writes[last], nil
			rv.writes = rv.writes[:last]
			break
		}
	}
	close(w.done)
}

// fillOrWait notes a fill of r that is being served (keep: so that a write finds it), or names a write on these pages that is not done.
func (rv *revocation) fillOrWait(r span, keep bool) *pendingWrite {
	r = r.pages()
	rv.mu.Lock()
	defer rv.mu.Unlock()
	for _, w := range rv.writes {
		if w.from < r.to && r.from < w.to {
			return w
		}
	}
	if !keep {
		return nil
	}
	now := time.Now()
	if len(rv.fills) == fillsMax {
		kept := rv.fills[:0]
		for _, f := range rv.fills {
			if now.Sub(f.at) < fillRecent {
				kept = append(kept, f)
			}
		}
		if rv.fills = kept; len(kept) == fillsMax {
			for _, f := range kept {
				r = span{min(r.from, f.from), max(r.to, f.to)}
			}
			rv.fills = kept[:0]
		}
	}
	rv.fills = append(rv.fills, fill{r, now})
	return nil
}

// takeFills takes out the fills of a moment ago that touch r.
func (rv *revocation) takeFills(r span) (recent []span) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	kept := rv.fills[:0]
	for _, f := range rv.fills {
		switch {
		case time.Since(f.at) >= fillRecent:
		case f.from < r.to && r.from < f.to:
			recent = append(recent, f.span)
		default:
			kept = append(kept, f)
		}
	}
	rv.fills = kept
	return recent
}

func (rv *revocation) forgetFills() {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.fills = rv.fills[:0]
}

// lockFill is lockSingle of a read that fills pages: under Exclusive where they may turn dirty without a word, and after the writes on them.
func (ss *session) lockFill(ctx context.Context, h *handle, r span) (pin, error) {
	for {
		u := use{ino: h.ino, mode: lockserver.Shared, io: r, kind: ioFill}
		if ss.s.handles.mayDirty(h.ino) {
			u.mode = lockserver.Exclusive
		}
		l, err := ss.lockSingle(ctx, u)
		if err != nil {
			return l, err
		}
		if u.mode == lockserver.Shared && ss.s.handles.mayDirty(h.ino) {
			ss.unlockSingle(l) // opened for writing meanwhile
			continue
		}
		w := l.n.rv.fillOrWait(r, ss.s.handles.dropsFirst(h.ino) || l.n.rv.contended(time.Now()))
		if w == nil {
			l.n.kernelPages.Store(true)
			l.n.rv.filled.Store(time.Now().UnixNano())
			return l, nil
		}
		n := l.n
		n.rv.park(&waiter{use: u, never: true}, func() {
			ss.unlockSingle(l)
			err = ss.waitWrite(ctx, w)
		})
		if err != nil {
			return pin{}, err
		}
	}
}

// park counts w as waiting while f runs.
func (rv *revocation) park(w *waiter, f func()) {
	rv.mu.Lock()
	rv.waitLocked(w)
	rv.mu.Unlock()
	f()
	rv.stopWaiting(w)
}

func (ss *session) waitWrite(ctx context.Context, w *pendingWrite) error {
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	select {
	case <-w.done:
		return nil
	case <-bctx.Done():
		return ss.waited(ctx, bctx.Err(), "waiting for a write to the same page")
	}
}

// lockWrite is lockSingle of a write; with w it has dropped the pages that were filled a moment ago.
func (ss *session) lockWrite(ctx context.Context, u use, w *pendingWrite) (pin, error) {
	for {
		l, err := ss.lockSingle(ctx, u)
		if err != nil || w == nil {
			return l, err
		}
		if u.kind == ioWrite && !l.n.rv.contended(time.Now()) {
			return l, nil // nothing has been dropped
		}
		recent := l.n.rv.takeFills(w.span)
		if len(recent) == 0 {
			return l, nil
		}
		n, limit := ss.node(u.ino), time.Duration(0)
		if u.kind == ioWrite {
			limit = settleLimit
		}
		ss.unlockSingle(l)
		for _, r := range recent {
			ss.dropPages(n, r, limit)
		}
		ss.put(n)
	}
}
