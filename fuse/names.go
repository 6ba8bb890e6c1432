package fuse

import (
	"maps"
	"sync"
	"time"
)

const (
	// ledgerMax bounds the names remembered, over all directories, and dirsMax the directories; beyond it names are
	// handed out with timeout 0, which need no memory.
	ledgerMax = 1 << 20
	dirsMax   = 1 << 18

	// nameTimeoutMax bounds the timeout of a name. A revoke of a directory that cannot expire its names, because a
	// request that waits for that very revoke has the kernel's lock of the directory, waits until they run out. So names of a directory
	// that came into use a moment ago get less (nameTimeoutMin at first): it may turn out to be shared.
	nameTimeoutMax = time.Second
	nameTimeoutMin = 250 * time.Millisecond

	// A directory that was revoked is shared with other mounts: for sharedQuiet its names are handed out with
	// timeout 0, which makes the next revoke a matter of microseconds; for stalledQuiet if the revoke had to wait.
	sharedQuiet  = 2 * time.Second
	stalledQuiet = time.Minute

	// askedQuiet is for how long the kernel is not made to ask again for what it has just been made to ask again for.
	askedQuiet = 100 * time.Millisecond

	// recentMax is how many answers are remembered.
	recentMax = 1 << 12
)

// ledger remembers which names of which directories a kernel may hold valid,
// and until when, so that a revoke of a directory can expire exactly those; and which answers were
// given a moment ago, as the kernel may not have seen them yet.
//
// Invariant: a name handed out with a timeout is in the ledger before its
// reply is written, or the reply's timeout is 0.
type ledger struct {
	mu    sync.Mutex
	dirs  map[uint64]*dirNames
	count int
	drops uint64    // drops so far, over all directories and inodes
	took  time.Time // when a directory last lost names that were handed out

	dropped map[uint64]uint64    // inode -> value of drops at its last drop, while requests older than that are in flight
	active  map[uint64]int       // value of drops at a request's start -> requests
	asked   map[uint64]time.Time // inode -> when the kernel was last made to ask again (askAgain)
	moving  map[entryName]int    // names that a RENAME in flight concerns

	recent [recentMax]handed // ring of the last answers that carried a timeout
	hands  uint64            // answers so far

	sharedQuiet time.Duration // the constant, but for tests
	uncached    bool          // no name is handed out with a timeout: the kernel cannot expire it
}

type entryName struct {
	dir  uint64
	name string
}

// handed is an answer that carried a timeout: for the attributes of ino, or for names of dir.
type handed struct {
	ino, dir uint64
	at       time.Time
}

type dirNames struct {
	since  time.Time            // in use without a revoke
	until  map[string]time.Time // when the kernel's copy runs out by itself, but for the answer's way
	looked time.Time            // when a LOOKUP was last answered with a timeout
	quiet  time.Time            // nothing is handed out with a timeout before
	held   time.Time            // when all that was ever handed out runs out
	drop   uint64               // value of drops at its last drop
}

// taken are the names of a directory that a kernel may still hold.
type taken struct {
	names  []string
	until  time.Time // by then all of them have run out
	looked time.Time
}

func newLedger() *ledger {
	return &ledger{dirs: map[uint64]*dirNames{}, dropped: map[uint64]uint64{}, active: map[uint64]int{}, asked: map[uint64]time.Time{}, moving: map[entryName]int{},
		sharedQuiet: sharedQuiet}
}

// begin marks the start of a request; the mark is for offer, fresh and end.
func (l *ledger) begin() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active[l.drops]++
	return l.drops
}

// end forgets the request.
func (l *ledger) end(mark uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active[mark]--; l.active[mark] <= 0 {
		delete(l.active, mark)
		l.prune()
	}
}

// prune forgets drops that are older than every request in flight.
func (l *ledger) prune() {
	if len(l.dropped) == 0 {
		return
	}
	oldest := l.drops
	for mark := range l.active {
		oldest = min(oldest, mark)
	}
	for ino, at := range l.dropped {
		if at <= oldest {
			delete(l.dropped, ino)
		}
	}
}

// offer records that name of dir is about to be handed out for ttl, in the
// reply of the request that began at mark, and returns the timeout: 0 if it must not be
// cached, because the directory was dropped since, is shared, or the ledger is full, or the name is being moved.
func (l *ledger) offer(mark, dir uint64, name string, ttl time.Duration, lookup bool) time.Duration {
	if ttl <= 0 || l.uncached {
		return 0
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[dir] > mark || len(l.moving) > 0 && l.moving[entryName{dir, name}] > 0 {
		return 0
	}
	d := l.dirs[dir]
	if d == nil {
		if len(l.dirs) >= dirsMax {
			return 0
		}
		d = &dirNames{since: now, until: map[string]time.Time{}, drop: l.drops}
		l.dirs[dir] = d
	}
	if now.Before(d.quiet) {
		return 0
	}
	ttl = min(ttl, max(nameTimeoutMin, min(nameTimeoutMax, now.Sub(d.since))))
	if _, known := d.until[name]; !known {
		if l.count >= ledgerMax {
			return 0
		}
		l.count++
	}
	d.until[name] = now.Add(ttl)
	d.holds(d.until[name])
	if lookup {
		d.looked = now
	}
	l.hand(handed{dir: dir, at: now})
	return ttl
}

// fresh returns ttl if the attributes of ino were not dropped since mark, else 0.
func (l *ledger) fresh(mark, ino uint64, ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return 0
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[ino] > mark {
		return 0
	}
	l.hand(handed{ino: ino, at: now})
	return ttl
}

// askAgain tells whether the kernel should ask again for what the request that began at mark has read of ino, up to its end: something of ino was dropped since.
// Not so twice within askedQuiet.
func (l *ledger) askAgain(mark, ino uint64) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[ino] <= mark || now.Sub(l.asked[ino]) < askedQuiet {
		return false
	}
	l.asked[ino] = now
	return true
}

func (l *ledger) hand(h handed) {
	l.recent[l.hands%recentMax] = h
	l.hands++
}

// handedAt is when attributes of ino were last handed out with a timeout, as far as that is remembered: at the latest.
func (l *ledger) handedAt(ino uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var at time.Time
	for i := uint64(1); i <= min(l.hands, recentMax); i++ {
		h := l.recent[(l.hands-i)%recentMax]
		if h.ino == ino {
			return h.at
		}
		at = h.at
	}
	if l.hands <= recentMax {
		return time.Time{}
	}
	return at
}

// eachDir calls f for each directory of which a kernel may hold names.
func (l *ledger) eachDir(f func(dir uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir, d := range l.dirs {
		if len(d.until) > 0 {
			f(dir)
		}
	}
}

// since returns what was handed out at or after t.
func (l *ledger) since(t time.Time) (inos, dirs map[uint64]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	inos, dirs = map[uint64]bool{}, map[uint64]bool{}
	for i := uint64(1); i <= min(l.hands, recentMax); i++ {
		h := l.recent[(l.hands-i)%recentMax]
		if h.at.Before(t) {
			break
		}
		if h.ino != 0 {
			inos[h.ino] = true
		} else {
			dirs[h.dir] = true
		}
	}
	return inos, dirs
}

// drop marks the attributes of ino as dropped for all requests in flight.
func (l *ledger) drop(ino uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(ino)
}

func (l *ledger) dropLocked(ino uint64) {
	l.drops++
	if len(l.active) > 0 {
		l.dropped[ino] = l.drops
	}
}

// take removes and returns the names of dir that a kernel may still hold. From now on no name of it is handed out with a timeout
// by requests in flight, nor by others for a while.
func (l *ledger) take(dir uint64) taken {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(dir)
	d := l.dirs[dir]
	if d == nil {
		if len(l.dirs) < dirsMax {
			l.dirs[dir] = &dirNames{until: map[string]time.Time{}, quiet: now.Add(l.sharedQuiet), since: now.Add(l.sharedQuiet), drop: l.drops}
		}
		return taken{}
	}
	d.drop = l.drops
	if d.held.Add(arrivalSlack + tookFor).After(now) {
		l.took = now
	}
	t := taken{looked: d.looked}
	for name, until := range d.until {
		until = until.Add(arrivalSlack)
		if until.After(now) {
			t.names = append(t.names, name)
		}
		if until.After(t.until) {
			t.until = until
		}
	}
	l.count -= len(d.until)
	d.until = map[string]time.Time{}
	d.quietUntil(now.Add(l.sharedQuiet))
	d.since = d.quiet
	return t
}

// changedSince reports whether dir may have been changed by others since a mark: at the latest, where that is not remembered.
func (l *ledger) changedSince(dir, mark uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dirs[dir]; d != nil {
		return d.drop > mark
	}
	return l.drops > mark
}

// tookNames reports whether names that were handed out were lost by any directory after t.
func (l *ledger) tookNames(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.took.After(t)
}

func (d *dirNames) quietUntil(t time.Time) {
	if t.After(d.quiet) {
		d.quiet = t
	}
}

// stalled notes that a revoke of dir had to wait for its names.
func (l *ledger) stalled(dir uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dirs[dir]; d != nil {
		d.quietUntil(time.Now().Add(stalledQuiet))
	}
}

// move notes that a RENAME begins: the kernel's entry, with the validity that it has, goes from one name to the other (with
// exchange, both do), once the reply is there. So what the ledger has of the one is noted of the other now, and until moved is called nothing
// more is handed out about either.
func (l *ledger) move(from, to entryName, exchange bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moving[from]++
	l.moving[to]++
	a, b := l.untilOf(from), l.untilOf(to)
	l.noteUntil(to, a)
	if exchange {
		l.noteUntil(from, b)
	}
}

// moved is called when the RENAME was done or has failed.
func (l *ledger) moved(from, to entryName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range [2]entryName{from, to} {
		if l.moving[n]--; l.moving[n] <= 0 {
			delete(l.moving, n)
		}
	}
}

func (l *ledger) untilOf(n entryName) time.Time {
	if d := l.dirs[n.dir]; d != nil {
		return d.until[n.name]
	}
	return time.Time{}
}

// noteUntil notes a validity of n, over the ledger's bounds if need be: renames in flight are few.
func (l *ledger) noteUntil(n entryName, until time.Time) {
	if until.IsZero() {
		return
	}
	d := l.dirs[n.dir]
	if d == nil {
		d = &dirNames{since: time.Now(), until: map[string]time.Time{}, drop: l.drops}
		l.dirs[n.dir] = d
	}
	old, known := d.until[n.name]
	if !known {
		l.count++
	}
	if until.After(old) {
		d.until[n.name] = until
		d.holds(until)
	}
}

// lost notes that names may just have been lost whatever is remembered of them.
func (l *ledger) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = time.Now()
}

func (d *dirNames) holds(until time.Time) {
	if until.After(d.held) {
		d.held = until
	}
}

// sweep removes what has run out.
func (l *ledger) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir, d := range l.dirs {
		for name, until := range d.until {
			if !until.Add(arrivalSlack).After(now) {
				delete(d.until, name)
				l.count--
			}
		}
		if len(d.until) == 0 && !d.quiet.After(now) && !d.held.Add(arrivalSlack+tookFor).After(now) {
			delete(l.dirs, dir)
		}
	}
	maps.DeleteFunc(l.asked, func(_ uint64, at time.Time) bool { return now.Sub(at) > askedQuiet })
}
