package lockserver

import (
	"fmt"
	"time"

	"dfs/blockstore"
)

// Acquire queues requests of a session. One that waits for the lock already
// has its request raised to the greater mode, in its place.
func (t *Table) Acquire(now time.Time, id blockstore.WriterID, stream uint64, reqs []Request) {
	s := t.live(id, stream)
	if s == nil || !s.ready {
		return
	}
	for _, r := range reqs {
		if len(s.locks) >= 2*t.o.SessionLocksMax || len(t.locks) >= 2*t.o.LocksMax+t.o.RememberMax {
			t.doom(s, fmt.Sprintf("session %d asked for more locks than the table may hold (it has %d): it does not answer revokes of idle locks; it is ended", id, len(s.locks)))
			return
		}
		l := t.entry(now, r.ID)
		queued := false
		for i := range l.queue {
			if l.queue[i].s == s {
				l.queue[i].mode = max(l.queue[i].mode, r.Mode)
				queued = true
			}
		}
		if !queued {
			l.queue = append(l.queue, waiter{s, r.Mode})
			s.locks[l.id] = l
		}
		t.advance(now, l)
	}
	t.evict(now, s)
}

// advance grants from the head of the queue while that fits, and revokes what
// stands in the way of the first that does not.
func (t *Table) advance(now time.Time, l *lock) {
	defer t.settle(l)
	if t.awaited > 0 {
		return
	}
	for len(l.queue) > 0 {
		w := l.queue[0]
		if w.s.doomed != "" {
			l.queue = l.queue[1:]
			l.forgetSession(w.s)
			continue
		}
		if !l.fits(w) {
			t.revokeFor(now, l, w)
			return
		}
		l.queue = l.queue[1:]
		t.grant(now, l, w)
	}
	l.queue = nil
}

// fits reports whether no other session's hold is in the way of w.
func (l *lock) fits(w waiter) bool {
	for _, h := range l.holders {
		if h.s != w.s && (w.mode == Exclusive || h.mode == Exclusive) {
			return false
		}
	}
	return true
}

func (t *Table) grant(now time.Time, l *lock, w waiter) {
	h := l.holdOf(w.s)
	if h == nil {
		h = &hold{s: w.s}
		l.holders = append(l.holders, h)
	}
	if h.number == 0 {
		t.setGiven(l.id)
	}
	t.renumber(now, l, h)
	h.mode, h.since = max(h.mode, w.mode), time.Time{}
	l.setOpen(w.s, false)
	w.s.locks[l.id] = l
	t.emit(w.s, Output{Grant: &Grant{ID: l.id, Number: h.number, Mode: h.mode, MinIndex: max(l.index, t.floor), Open: l.openElsewhere(w.s)}})
}

// renumber gives h a number above all before it; nothing that named the older
// one counts any more.
func (t *Table) renumber(now time.Time, l *lock, h *hold) {
	t.number++
	h.number, h.granted, h.revoking = t.number, now, false
	if h.age != nil {
		h.s.age.MoveToBack(h.age)
	} else {
		h.age = h.s.age.PushBack(l)
	}
}

// revokeFor asks back what is in the way of w, once its minimum hold is over.
func (t *Table) revokeFor(now time.Time, l *lock, w waiter) {
	to := Shared
	if w.mode == Exclusive {
		to = None
	}
	for _, h := range l.holders {
		if h.s != w.s && (w.mode == Exclusive || h.mode == Exclusive) {
			t.revoke(now, l, h, to)
		}
	}
}

func (t *Table) revoke(now time.Time, l *lock, h *hold, to Mode) {
	if h.revoking && h.to <= to || now.Sub(h.granted) < t.o.MinHold {
		return
	}
	if h.since.IsZero() {
		h.since = now
	}
	h.revoking, h.to = true, to
	t.emit(h.s, Output{Revoke: &Revoke{ID: l.id, Number: h.number, To: to}})
}

// Release takes releases of a session. One that names another grant than the
// current one changes nothing but the lock's index, which a greater value
// never harms.
func (t *Table) Release(now time.Time, id blockstore.WriterID, stream uint64, rels []Release) {
	s := t.live(id, stream)
	if s == nil || !s.ready {
		return
	}
	for _, r := range rels {
		if r.Epoch != t.epoch {
			continue
		}
		l := t.locks[r.ID]
		if l == nil {
			if t.implicitHolder(r.ID) != s || r.Number != 0 {
				continue
			}
			l = t.entry(now, r.ID)
		}
		l.index = max(l.index, r.Index)
		h := l.holdOf(s)
		if h == nil || h.number != r.Number || r.To >= h.mode {
			continue
		}
		t.release(l, h, r.To, r.Open)
		t.advance(now, l)
	}
}

func (t *Table) release(l *lock, h *hold, to Mode, open bool) {
	h.since, h.revoking = time.Time{}, false
	if to == None {
		t.dropHold(l, h)
		l.setOpen(h.s, open)
		l.forgetSession(h.s)
		return
	}
	h.mode = to
	if h.number == 0 {
		t.setGiven(l.id)
	}
}

// evict asks the oldest locks back of a session that has too many, or of any
// that wants more while the table is over its bound.
func (t *Table) evict(now time.Time, s *session) {
	over := max(len(s.locks)-t.o.SessionLocksMax, len(t.locks)-t.idle.Len()-t.o.LocksMax)
	for e := s.age.Front(); e != nil && over > 0; over-- {
		l := e.Value.(*lock)
		e = e.Next()
		if h := l.holdOf(s); h != nil && !h.revoking {
			t.revoke(now, l, h, None)
		}
	}
}

// giveBack prolongs what is waited for by a time during which nothing was heard.
func (t *Table) giveBack(late time.Duration) {
	for _, s := range t.sessions {
		s.expires, s.claimBy = s.expires.Add(late), s.claimBy.Add(late)
	}
	for l := range t.waiting {
		for _, h := range l.holders {
			if !h.since.IsZero() {
				h.since = h.since.Add(late)
			}
		}
	}
}

// Tick does what time brings: revokes whose minimum hold is over, sessions
// that did not answer one, leases that ran out. It returns when it wants to be
// called next, at the latest. After a pause of the caller itself (it comes
// later than pause), every lease, and every revoke, gets that time back: the keep-alives and releases of that
// time may lie unread.
func (t *Table) Tick(now time.Time) time.Time {
	const every, pause = 250 * time.Millisecond, time.Second
	if late := now.Sub(t.lastTick) - every; !t.lastTick.IsZero() && late > pause {
		t.giveBack(late)
	}
	t.lastTick = now
	next := now.Add(every)
	for l := range t.waiting {
		t.advance(now, l)
		for _, h := range l.holders {
			switch due := h.granted.Add(t.o.MinHold); {
			case !h.since.IsZero() && now.Sub(h.since) >= t.o.RevokeTimeout:
				t.doom(h.s, fmt.Sprintf("session %d did not give lock %d up within %v: it is ended", h.s.id, l.id, t.o.RevokeTimeout))
			case !h.revoking && due.After(now) && due.Before(next):
				next = due
			}
		}
	}
	for _, s := range t.sessions {
		switch {
		case s.over && !now.Before(s.expires):
			t.free(now, s)
		case !s.over && !s.fencing && !now.Before(s.expires):
			s.fencing = true
			t.emit(s, Output{Fence: true})
		case s.expires.After(now) && s.expires.Before(next):
			next = s.expires
		}
	}
	return next
}
