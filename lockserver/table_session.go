package lockserver

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Attach makes stream the session's only live one: it was attached to this
// epoch in the log, by a message received at `received`. What waited in the
// older stream's name is dropped; what is held is settled by Claims.
func (t *Table) Attach(received time.Time, id blockstore.WriterID, stream uint64) error {
	s := t.sessions[id]
	if err := s.refuse(id); err != nil {
		return err
	}
	s.stream = stream
	s.claims = &Claims{}
	t.dropQueued(received, s)
	t.Received(received, id, stream)
	return nil
}

// refuse tells why s may not attach or be renewed, or nil.
func (s *session) refuse(id blockstore.WriterID) error {
	switch {
	case s == nil || s.over:
		return errors.New(errors.KindDeadWriter, "writer %d is not live: open a new session", id)
	case s.doomed != "":
		return errors.New(errors.KindUnavailable, "%s", s.doomed)
	case s.fencing:
		return errors.New(errors.KindUnavailable, "writer %d is about to be fenced, the outcome is not known yet: try again", id)
	}
	return nil
}

// Detach tells that a stream broke. The session lives on until its lease ends.
func (t *Table) Detach(now time.Time, id blockstore.WriterID, stream uint64) {
	if s := t.sessions[id]; s != nil && s.stream == stream {
		s.stream = 0
		t.dropQueued(now, s)
	}
}

func (t *Table) dropQueued(now time.Time, s *session) {
	t.dropFileWaits(s)
	for _, l := range s.locks {
		if !l.waits(s) {
			continue
		}
		kept := l.queue[:0]
		for _, w := range l.queue {
			if w.s != s {
				kept = append(kept, w)
			}
		}
		l.queue = kept
		l.forgetSession(s)
		t.advance(now, l)
	}
}

// Received notes that a keep-alive arrived at `received`. From now on its
// answer may be sent, so the lease is counted from it; Renew says whether it may. A session that has not told its
// claims in this reign is not answered, and may hold all others up: what it sends prolongs nothing beyond claimBy.
func (t *Table) Received(received time.Time, id blockstore.WriterID, stream uint64) {
	s := t.live(id, stream)
	if s == nil || s.fencing {
		return
	}
	e := received.Add(s.ttl)
	if !s.ready && e.After(s.claimBy) {
		e = s.claimBy
	}
	if e.After(s.expires) {
		s.expires = e
	}
}

// Renew reports whether a keep-alive on that stream, received at `received`, may be
// answered now. Leadership must have been proven since it arrived.
func (t *Table) Renew(received time.Time, id blockstore.WriterID, stream uint64) bool {
	s := t.live(id, stream)
	return s != nil && s.ready && !s.fencing && !received.Add(s.ttl).After(s.expires)
}

// Claims takes a piece of what a client holds; with the last one it settles,
// and returns the answer. Before that it returns nil. An error ends the stream.
func (t *Table) Claims(now time.Time, id blockstore.WriterID, stream uint64, c *Claims) (*Claimed, error) {
	s := t.live(id, stream)
	if s == nil || s.claims == nil {
		return nil, errors.New(errors.KindInvalid, "claims of session %d outside an attach: the client is defective", id)
	}
	all := s.claims
	all.Locks = append(all.Locks, c.Locks...)
	all.Given = append(all.Given, c.Given...)
	all.Files = append(all.Files, c.Files...)
	all.Floor = max(all.Floor, c.Floor)
	if len(all.Locks) > 2*t.o.SessionLocksMax || len(all.Files) > t.o.FileLocksMax || len(all.Given) > 1<<20 {
		return nil, errors.New(errors.KindNoLocks, "session %d claims more locks than the table may hold", id)
	}
	if !c.Done {
		return nil, nil
	}
	s.claims = nil
	return t.settleClaims(now, s, all)
}

// settleClaims makes the table and the client agree. The client is right about what it does not
// hold any more (a grant that never arrived counts as released, a release on its way is told by
// the floor); of what it claims, everything must be its own.
func (t *Table) settleClaims(now time.Time, s *session, c *Claims) (*Claimed, error) {
	if s.ready {
		t.common = max(t.common, c.Floor)
	} else {
		t.raise(c.Floor)
	}
	first := !s.ready
	if why := s.forged(c); why != "" {
		err := errors.New(errors.KindSessionEnded, "conflict: session %d claims %s: it is ended", s.id, why)
		s.ready = true // it is given nothing any more
		t.doom(s, err.Error())
		return nil, err
	}
	if !t.takeGiven(s, c.Given) {
		err := errors.New(errors.KindInvalid, "session %d tells more inodes given up than it ever had: the client is defective", s.id)
		t.doom(s, err.Error())
		return nil, err
	}
	s.ready = true
	if first {
		t.ownClaimed(now, s)
	} else {
		t.dropUnclaimed(now, s, c)
	}
	answer, err := t.takeClaims(now, s, c, first)
	if e := t.takeFileClaims(s, c.Files); err == nil {
		err = e
	}
	if err != nil {
		t.doom(s, err.Error())
	}
	if s.awaited {
		s.awaited = false
		t.arrived(now)
	}
	for _, l := range s.locks {
		t.advance(now, l)
	}
	return answer, err
}

// forged tells what in the first claims of a session cannot be true, or "": one that was opened in this reign was given
// nothing before, and who claims for it might claim what belongs to a session that is still awaited.
func (s *session) forged(c *Claims) string {
	if s.ready || s.awaited {
		return ""
	}
	for _, k := range c.Locks {
		if k.Mode != None {
			return fmt.Sprintf("lock %d, but was opened in this reign and has been given nothing", k.ID)
		}
	}
	if len(c.Files) > 0 {
		return fmt.Sprintf("a file lock of inode %d, but was opened in this reign and has been given nothing", c.Files[0].ID)
	}
	return ""
}

// takeGiven notes which inodes of its own ranges s has given up, and reports whether it told not more than it had.
func (t *Table) takeGiven(s *session, runs []IDRun) bool {
	var owned, told uint64
	for _, r := range t.ranges {
		if r.s == s {
			owned += r.Count
		}
	}
	for _, run := range runs {
		for id := run.First; uint64(id-run.First) < run.Count; id++ {
			r := t.owner(id)
			if r == nil || r.s != s {
				break
			}
			if told++; told > owned {
				return false
			}
			r.given.set(uint64(id)-r.First, r.Count)
		}
	}
	return true
}

// raise makes index the least that any lock is granted with: for what was
// released by a session that did not tell what it held in this reign.
func (t *Table) raise(index uint64) { t.floor = max(t.floor, index) }

// ownClaimed looks for what others have claimed already out of s's ranges
// although s did not give it up.
func (t *Table) ownClaimed(now time.Time, s *session) {
	for _, l := range t.inRanges(s) {
		r := t.owner(l.id)
		if r == nil || r.s != s || r.given.has(uint64(l.id)-r.First) {
			continue
		}
		if l.holdOf(s) != nil {
			continue
		}
		if len(l.holders) > 0 {
			t.doom(s, fmt.Sprintf("conflict: session %d holds inode %d by its range, and session %d has claimed it", s.id, l.id, l.holders[0].s.id))
			continue
		}
		l.holders = append(l.holders, &hold{s: s, mode: Exclusive, granted: now})
		s.locks[l.id] = l
		t.settle(l)
	}
}

// inRanges lists locks of the table, all of those in s's ranges among them, by the shorter way: through the ranges, or
// through the table.
func (t *Table) inRanges(s *session) (list []*lock) {
	owned := uint64(0)
	for _, r := range t.ranges {
		if r.s == s {
			owned += r.Count
		}
	}
	if owned > uint64(len(t.locks)) {
		return slices.Collect(maps.Values(t.locks))
	}
	for _, r := range t.ranges {
		if r.s != s {
			continue
		}
		for i := range r.Count {
			if l := t.locks[LockID(r.First+i)]; l != nil {
				list = append(list, l)
			}
		}
	}
	return list
}

// dropUnclaimed releases what the table has for s and s does not claim.
func (t *Table) dropUnclaimed(now time.Time, s *session, c *Claims) {
	claimed := make(map[LockID]Claim, len(c.Locks))
	for _, k := range c.Locks {
		claimed[k.ID] = k
	}
	for id, l := range s.locks {
		h := l.holdOf(s)
		k := claimed[id]
		if h == nil {
			if l.isOpen(s) && !k.Open {
				l.setOpen(s, false)
				l.forgetSession(s)
				t.settle(l)
			}
			continue
		}
		if h.revoking {
			h.revoking = false // it is sent again
		}
		if r := t.owner(id); h.number == 0 && r != nil && !r.given.has(uint64(id)-r.First) {
			continue // held by the range, not claimed one by one
		}
		if k.Mode < h.mode {
			l.index = max(l.index, c.Floor)
			t.release(l, h, k.Mode, k.Open)
			t.advance(now, l)
		}
	}
}

func (t *Table) takeClaims(now time.Time, s *session, c *Claims, first bool) (*Claimed, error) {
	answer := &Claimed{}
	var conflict error
	for _, k := range c.Locks {
		l := t.entry(now, k.ID)
		l.index = max(l.index, c.Floor)
		if k.Mode == None {
			l.setOpen(s, k.Open)
			t.settle(l)
			continue
		}
		h := l.holdOf(s)
		w := waiter{s, k.Mode}
		if k.Mode > Exclusive || !l.fits(w) || !first && (h == nil || h.mode != k.Mode) {
			t.settle(l)
			conflict = errors.New(errors.KindSessionEnded, "conflict: session %d claims lock %d in mode %d, which it cannot have: it is ended", s.id, k.ID, k.Mode)
			continue // what else it claims stays its own until it is fenced and its lease over
		}
		if h == nil {
			h = &hold{s: s}
			l.holders = append(l.holders, h)
		}
		since := h.since
		t.renumber(now, l, h)
		h.mode, h.since = k.Mode, since
		if r := t.owner(k.ID); r != nil && r.s == s {
			t.setGiven(k.ID)
		}
		s.locks[k.ID] = l
		t.settle(l)
		if answer.Count == 0 {
			answer.First = h.number
		}
		answer.Count++
	}
	return answer, conflict
}

// arrived counts one awaited session less; after the last one grants begin.
func (t *Table) arrived(now time.Time) {
	if t.awaited--; t.awaited > 0 {
		return
	}
	for l := range t.waiting {
		t.advance(now, l)
	}
	t.advanceFiles()
}

// End gives a session up: not renewed any more, waited out, then fenced.
func (t *Table) End(id blockstore.WriterID, why string) {
	if s := t.sessions[id]; s != nil {
		t.doom(s, why)
	}
}

// Ended tells that the session's writer has ended in the log at index. Its
// locks are free once its lease is over, too; quiet says that the session itself told that it
// answers nothing from caches any more.
func (t *Table) Ended(now time.Time, id blockstore.WriterID, index uint64, quiet bool) {
	s := t.sessions[id]
	if s == nil || s.over {
		return
	}
	how := "its lease ran out, or it was ended by its owner's successor"
	if quiet {
		how = "it was closed"
	}
	t.emit(s, Output{Close: errors.New(errors.KindSessionEnded, "session %d has ended at index %d: %s", id, index, how), Quiet: quiet})
	s.over, s.end, s.stream = true, index, 0
	t.dropQueued(now, s)
	if quiet || !now.Before(s.expires) {
		t.free(now, s)
	}
}

// free gives away everything of a session that is fenced and whose lease is over.
func (t *Table) free(now time.Time, s *session) {
	delete(t.sessions, s.id)
	if s.ready {
		t.common = max(t.common, s.end)
	} else {
		t.raise(s.end) // what it held in this reign nobody knows
	}
	kept := t.ranges[:0]
	for _, r := range t.ranges {
		if r.s != s {
			kept = append(kept, r)
		}
	}
	t.ranges = kept
	for _, l := range s.locks {
		if h := l.holdOf(s); h != nil {
			l.index = max(l.index, s.end)
			t.dropHold(l, h)
		}
		l.setOpen(s, false)
		t.advance(now, l)
	}
	t.freeFiles(s)
	if s.awaited {
		s.awaited = false
		t.arrived(now)
	}
}

// Awaited tells how many sessions from before this reign are still awaited.
func (t *Table) Awaited() int { return t.awaited }

// Has reports whether the table knows the session.
func (t *Table) Has(id blockstore.WriterID) bool { return t.sessions[id] != nil }

// Sessions calls f for every session that has not ended in the log.
func (t *Table) Sessions(f func(blockstore.WriterID)) {
	for id, s := range t.sessions {
		if !s.over {
			f(id)
		}
	}
}
