package lockserver

import (
	"container/list"
	"sort"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// TableOptions bounds a Table. Zero fields take the defaults.
type TableOptions struct {
	// MinHold is how long a grant is left alone before it is revoked for
	// another: default 0, as a clerk knows better whether the lock is in use.
	MinHold time.Duration
	// RevokeTimeout is how long a session may take to answer a revoke before it is
	// given up: not renewed any more, waited out, fenced. Default 30s.
	RevokeTimeout time.Duration
	// SessionLocksMax bounds the locks a session holds, waits for or told open: beyond it the
	// oldest idle ones are revoked, beyond twice as many the session is ended. Default 1<<18.
	SessionLocksMax int
	// LocksMax bounds the locks of all sessions in the same way. Default 1<<20.
	LocksMax int
	// RememberMax bounds the locks that nobody holds and whose release index is
	// remembered apart. Default 1<<16.
	RememberMax int
	// FileLocksMax bounds the file locks and waiting requests of one session. Default 1<<16.
	FileLocksMax int
}

func (o *TableOptions) setDefaults() {
	setDefault(&o.RevokeTimeout, 30*time.Second)
	setDefault(&o.SessionLocksMax, 1<<18)
	setDefault(&o.LocksMax, 1<<20)
	setDefault(&o.RememberMax, 1<<16)
	setDefault(&o.FileLocksMax, 1<<16)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Output is what a Table wants done: something sent on a session's stream, or
// (Fence) the session's writer fenced in the replicated log.
type Output struct {
	Session blockstore.WriterID
	Stream  uint64
	Grant   *Grant
	Revoke  *Revoke
	File    *FileReply
	Close   error // the stream ends with it
	Quiet   bool  // with Close: the session itself asked for its end
	Fence   bool
}

// Table is the lock table of one reign: pure, driven by one caller at a time,
// with the time passed in. Everything it wants sent or fenced collects in its
// output, in order (Drain).
//
// Invariants, checked by Check:
//   - a lock has one exclusive holder or any number of shared ones;
//   - nothing is granted before every expected session is ready or ended;
//   - a session's locks go to nobody else until its fence (or close) has been applied
//     and its lease, counted from the last keep-alive that may have been answered, is over;
//   - a grant's MinIndex is at least every index that any release of that lock brought.
type Table struct {
	o        TableOptions
	epoch    blockstore.Epoch
	number   uint64 // of the newest grant
	common   uint64 // stands in for the release index of every lock that is not in the table
	floor    uint64 // the least index that any lock is granted with
	locks    map[LockID]*lock
	idle     *list.List // of *lock: nobody holds it, waits for it or told it open; oldest first
	sessions map[blockstore.WriterID]*session
	awaited  int // sessions from before this reign that are neither ready nor ended
	ranges   []*ownRange
	waiting  map[*lock]struct{} // locks with a queue
	files    map[LockID]*fileLocks
	blocked  map[fileOwner][]*fileWait // POSIX owners that wait
	lastTick time.Time
	out      []Output
}

type session struct {
	id      blockstore.WriterID
	stream  uint64 // the live stream, 0 none
	awaited bool
	ready   bool // has told its claims in this reign
	claims  *Claims
	ttl     time.Duration
	expires time.Time // the lease as the server counts it
	claimBy time.Time // while it is not ready, its lease as the server counts it is not prolonged beyond
	doomed  string    // why it is not renewed any more; "" is not doomed
	fencing bool      // a fence is proposed, its outcome not known
	over    bool      // its writer has ended in the log, at endIndex
	end     uint64
	locks   map[LockID]*lock // held, waited for or told open
	age     list.List        // of *lock held by an explicit grant, oldest first
	fileCnt int
}

// ownRange is a live writer's inode range; given has a bit set for each inode
// of it that its writer has given up since.
type ownRange struct {
	blockstore.InodeRange
	s     *session
	given bitmap
}

type lock struct {
	id      LockID
	index   uint64 // greatest that any release brought
	holders []*hold
	queue   []waiter
	open    []*session // told that the inode is still open there, holding nothing
	idle    *list.Element
}

type hold struct {
	s       *session
	mode    Mode
	number  uint64
	granted time.Time
	age     *list.Element
	// A revoke that is wanted: to is the mode, since when it was first sent.
	revoking bool
	to       Mode
	since    time.Time
}

type waiter struct {
	s    *session
	mode Mode
}

// NewTable makes the table of a reign that began with BeginEpoch applied at
// index begin.
func NewTable(o TableOptions, epoch blockstore.Epoch, begin uint64) *Table {
	o.setDefaults()
	return &Table{
		o: o, epoch: epoch, common: begin, locks: map[LockID]*lock{}, idle: list.New(),
		sessions: map[blockstore.WriterID]*session{}, waiting: map[*lock]struct{}{}, files: map[LockID]*fileLocks{},
		blocked: map[fileOwner][]*fileWait{},
	}
}

// Drain returns what collected in the output and empties it.
func (t *Table) Drain() []Output {
	out := t.out
	t.out = nil
	return out
}

func (t *Table) emit(s *session, o Output) {
	if s.stream == 0 && !o.Fence {
		return
	}
	if s.claims != nil && (o.Grant != nil || o.Revoke != nil) {
		return // its claims settle first; what is still wanted then is asked again
	}
	o.Session, o.Stream = s.id, s.stream
	t.out = append(t.out, o)
}

// claimWait is what a session is given to tell its claims, beyond the two leases in which it may attach last.
const claimWait = 15 * time.Second

// Expect enters a live writer of the state machine. With awaited set it may
// hold locks from an earlier reign: nothing is granted until it is ready or ended. It is
// fenced unless it attaches within ttl.
func (t *Table) Expect(now time.Time, id blockstore.WriterID, ttl time.Duration, awaited bool) {
	if t.sessions[id] != nil {
		return
	}
	t.sessions[id] = &session{id: id, ttl: ttl, expires: now.Add(ttl), claimBy: now.Add(2*ttl + claimWait), awaited: awaited, locks: map[LockID]*lock{}}
	if awaited {
		t.awaited++
	}
}

// SetRanges tells the inode ranges of a session, ascending, neighbours joined.
// Ranges only grow; what is new of them becomes a piece of its own.
func (t *Table) SetRanges(id blockstore.WriterID, ranges []blockstore.InodeRange) {
	s := t.sessions[id]
	if s == nil || s.over {
		return
	}
	known := t.ranges
	for _, r := range ranges {
		t.addRange(s, r, known)
	}
	if len(t.ranges) > len(known) {
		sort.Slice(t.ranges, func(i, j int) bool { return t.ranges[i].First < t.ranges[j].First })
	}
}

// addRange adds what of r is not in known (which is in order) yet.
func (t *Table) addRange(s *session, r blockstore.InodeRange, known []*ownRange) {
	next, end := r.First, r.First+r.Count
	add := func(upTo uint64) {
		if next < upTo {
			t.ranges = append(t.ranges, &ownRange{InodeRange: blockstore.InodeRange{First: next, Count: upTo - next}, s: s})
		}
	}
	from := sort.Search(len(known), func(i int) bool { return known[i].First >= r.First })
	for _, k := range known[from:] {
		if k.First >= end {
			break
		}
		add(k.First)
		next = k.First + k.Count
	}
	add(end)
}

// owner is the live range that id lies in, or nil.
func (t *Table) owner(id LockID) *ownRange {
	i := sort.Search(len(t.ranges), func(i int) bool { return t.ranges[i].First > uint64(id) }) - 1
	if i < 0 || uint64(id)-t.ranges[i].First >= t.ranges[i].Count {
		return nil
	}
	return t.ranges[i]
}

// implicitHolder is the session that holds id by one of its ranges, or nil.
// What an awaited session has given up is not known yet: nothing is granted until it is.
func (t *Table) implicitHolder(id LockID) *session {
	r := t.owner(id)
	if r == nil || r.s.awaited || r.given.has(uint64(id)-r.First) {
		return nil
	}
	return r.s
}

// entry finds or makes the entry of id. One that is made knows what stands in
// for it: the common index, and the implicit holder.
func (t *Table) entry(now time.Time, id LockID) *lock {
	if l := t.locks[id]; l != nil {
		return l
	}
	l := &lock{id: id, index: t.common}
	t.locks[id] = l
	if s := t.implicitHolder(id); s != nil {
		l.holders = append(l.holders, &hold{s: s, mode: Exclusive, granted: now.Add(-t.o.MinHold)})
		s.locks[id] = l
	}
	return l
}

// settle puts l where it belongs: idle, among the waiting, or neither; and
// forgets the oldest idle ones beyond the bound.
func (t *Table) settle(l *lock) {
	if len(l.queue) > 0 {
		t.waiting[l] = struct{}{}
	} else {
		delete(t.waiting, l)
	}
	unused := len(l.queue) == 0 && len(l.holders) == 0 && len(l.open) == 0
	switch {
	case unused && l.idle == nil:
		l.idle = t.idle.PushBack(l)
	case !unused && l.idle != nil:
		t.idle.Remove(l.idle)
		l.idle = nil
	}
	for t.idle.Len() > t.o.RememberMax {
		oldest := t.idle.Remove(t.idle.Front()).(*lock)
		t.common = max(t.common, oldest.index)
		delete(t.locks, oldest.id)
	}
}

// forgetSession strikes l from s's map if s has nothing to do with it any more.
func (l *lock) forgetSession(s *session) {
	if l.holdOf(s) == nil && !l.isOpen(s) && !l.waits(s) {
		delete(s.locks, l.id)
	}
}

func (l *lock) holdOf(s *session) *hold {
	for _, h := range l.holders {
		if h.s == s {
			return h
		}
	}
	return nil
}

func (l *lock) waits(s *session) bool {
	for _, w := range l.queue {
		if w.s == s {
			return true
		}
	}
	return false
}

func (l *lock) isOpen(s *session) bool {
	for _, o := range l.open {
		if o == s {
			return true
		}
	}
	return false
}

func (l *lock) openElsewhere(s *session) bool {
	return len(l.open) > 1 || len(l.open) == 1 && l.open[0] != s
}

func (l *lock) setOpen(s *session, open bool) {
	for i, o := range l.open {
		if o == s {
			if !open {
				l.open = append(l.open[:i], l.open[i+1:]...)
			}
			return
		}
	}
	if open {
		l.open = append(l.open, s)
		s.locks[l.id] = l
	}
}

func (t *Table) dropHold(l *lock, h *hold) {
	for i := range l.holders {
		if l.holders[i] == h {
			l.holders = append(l.holders[:i], l.holders[i+1:]...)
			break
		}
	}
	if h.age != nil {
		h.s.age.Remove(h.age)
	}
	if h.number == 0 {
		t.setGiven(l.id)
	}
}

// setGiven notes that id is not held by its range any more.
func (t *Table) setGiven(id LockID) {
	if r := t.owner(id); r != nil {
		r.given.set(uint64(id)-r.First, r.Count)
	}
}

// doom ends s early: it is renewed no more, waited out, then fenced.
// Its stream is closed with KindUnavailable: that it is over for good is told
// when that stands in the log, never on one leader's word.
func (t *Table) doom(s *session, why string) {
	if s.doomed != "" || s.over {
		return
	}
	s.doomed = why
	t.emit(s, Output{Close: errors.New(errors.KindUnavailable, "%s", why)})
}

// live returns the session if the stream named is its live one.
func (t *Table) live(id blockstore.WriterID, stream uint64) *session {
	s := t.sessions[id]
	if s == nil || s.stream != stream || stream == 0 || s.doomed != "" || s.over {
		return nil
	}
	return s
}

// bitmap is a lazily made set of small numbers.
type bitmap struct{ words []uint64 }

func (b *bitmap) has(i uint64) bool {
	return i/64 < uint64(len(b.words)) && b.words[i/64]&(1<<(i%64)) != 0
}

// set adds i < size.
func (b *bitmap) set(i, size uint64) {
	if b.words == nil {
		b.words = make([]uint64, (size+63)/64)
	}
	b.words[i/64] |= 1 << (i % 64)
}
