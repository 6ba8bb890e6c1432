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
//   - a write drops pages that were filled before it came: that read may have been sent after it (lockWrite). The kernel itself drops
//     pages a second time behind a direct write that its caller waits for, but not behind an asynchronous one.
//
// Fills are remembered of a file that is open for writing: a read from before that open was sent before any such write.

// fillRecent is how long before a write through the page cache arrives it may have been sent. (It leaves a page behind, whose drop costs a
// fill; a write past the pages has dropped them anyway, so it drops them again however long ago they were filled.)
//
// The kernel has the inode locked from before it sends such a write, a truncation or an allocation until that is answered. So a write was not sent before
// the last of those was done, either (settle): else one to a page that a truncation has dropped since it was filled, and that the write itself holds
// now, would look for it in vain, for settleLimit.
const fillRecent = 100 * time.Millisecond

// settleLimit bounds a drop for a write that may hold the page itself. Then it is not up to date.
const settleLimit = 20 * time.Millisecond

// fillsMax bounds what is remembered of one inode; beyond, fills are joined, and more is dropped than was filled.
const fillsMax = 32

// fill is a range of pages that a read has filled.
type fill struct {
	span
	at time.Time
}

// join makes f cover g, too.
func (f *fill) join(g fill) {
	if f.to == 0 {
		*f = g
		return
	}
	f.from, f.to = min(f.from, g.from), max(f.to, g.to)
	if g.at.After(f.at) {
		f.at = g.at
	}
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
	at   time.Time // when it came
	sent time.Time // not before that, if through the page cache
	done chan struct{}
}

// early reports whether a fill that began at t was done before the write, if through the page cache, can have been sent.
func (w *pendingWrite) early(t time.Time) bool { return t.Before(w.sent) }

// settle notes that a request is about to be answered for which the kernel has the inode locked.
func (rv *revocation) settle() {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.settled = time.Now()
}

func (rv *revocation) beginWrite(r span) *pendingWrite {
	now := time.Now()
	w := &pendingWrite{r.pages(), now, now.Add(-fillRecent), make(chan struct{})}
	rv.mu.Lock()
	defer rv.mu.Unlock()
	if rv.settled.After(w.sent) {
		w.sent = rv.settled
	}
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
	if len(rv.fills) >= fillsMax {
		rv.joinFills()
	}
	rv.fills = append(rv.fills, fill{r, time.Now()})
	return nil
}

// joinFills makes room: it joins the fills that no write through the page cache looks for, or else all. rv.mu is held.
func (rv *revocation) joinFills() {
	oldest := &pendingWrite{sent: time.Now().Add(-fillRecent)}
	for _, w := range rv.writes {
		if w.sent.Before(oldest.sent) {
			oldest = w
		}
	}
	var joined fill
	kept := rv.fills[:0]
	for _, f := range rv.fills {
		if oldest.early(f.at) {
			joined.join(f)
		} else {
			kept = append(kept, f)
		}
	}
	if len(kept) > fillsMax/2 {
		for _, f := range kept {
			joined.join(f)
		}
		kept = kept[:0]
	}
	if joined.to > 0 {
		kept = append(kept, joined)
	}
	rv.fills = kept
}

// fillsOn is the smallest range that has all pages of w that reads may have filled after w was sent; empty: none.
func (rv *revocation) fillsOn(w *pendingWrite, past bool) span {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	var all fill
	for _, f := range rv.fills {
		f.from, f.to = max(f.from, w.from), min(f.to, w.to)
		if f.from < f.to && (past || !w.early(f.at)) {
			all.join(f)
		}
	}
	return all.span
}

// cutFills takes r, which was dropped, out of the fills.
func (rv *revocation) cutFills(r span) {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	old := rv.fills
	rv.fills = make([]fill, 0, len(old))
	for _, f := range old {
		for _, left := range [...]span{{f.from, min(f.to, r.from)}, {max(f.from, r.to), f.to}} {
			if left.from < left.to {
				rv.fills = append(rv.fills, fill{left, f.at})
			}
		}
	}
	if len(rv.fills) > fillsMax {
		rv.joinFills()
	}
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
		w := l.n.rv.fillOrWait(r, ss.s.handles.writable(h.ino))
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

// lockWrite is lockSingle of a write; with w it has dropped the pages that may have been filled after it was sent, holding no lock. While it
// does, reads that fill such pages wait for w, with the pages locked: the drop leaves them out.
func (ss *session) lockWrite(ctx context.Context, u use, w *pendingWrite) (pin, error) {
	l, err := ss.lockSingle(ctx, u)
	if err != nil || w == nil {
		return l, err
	}
	if u.kind == ioWrite && !l.n.rv.contended(time.Now()) {
		return l, nil // nothing has been dropped
	}
	filled := l.n.rv.fillsOn(w, u.kind == ioPast)
	if filled.to == 0 {
		return l, nil
	}
	n, limit := ss.node(u.ino), time.Duration(0)
	defer ss.put(n)
	if u.kind == ioWrite {
		limit = settleLimit
	}
	ss.unlockSingle(l)
	ss.dropPages(n, filled, limit)
	n.rv.cutFills(filled) // not before: another write to these pages must not end sooner
	return ss.lockSingle(ctx, u)
}
