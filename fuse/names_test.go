package fuse

import (
	"fmt"
	"math/rand"
	"testing"
	"time"
)

// ledgerModel is a kernel, a file server and the requests between them, seen from one goroutine: a revoke
// and a reply may come in any order between the steps of a request.
type ledgerModel struct {
	t        *testing.T
	l        *ledger
	r        *rand.Rand
	valid    map[entryName]bool // what the kernel takes without asking
	held     map[uint64]bool    // the lock of a directory is held, so its names may be handed out
	revokes  map[uint64]int     // of a directory so far
	requests []*modelRequest
	rename   *modelRename
}

type modelRequest struct {
	mark      uint64
	name      entryName
	computed  bool // the file server has answered
	cacheable bool
	offered   bool
	ttl       time.Duration
	revokes   int // of the directory when it was computed
}

type modelRename struct {
	from, to entryName
	exchange bool
}

func (m *ledgerModel) anyName() entryName {
	return entryName{uint64(1 + m.r.Intn(3)), fmt.Sprint(m.r.Intn(3))}
}

func (m *ledgerModel) step() {
	switch k := m.r.Intn(10); {
	case k < 2:
		m.requests = append(m.requests, &modelRequest{mark: m.l.begin(), name: m.anyName()})
	case k < 6 && len(m.requests) > 0:
		m.advance(m.r.Intn(len(m.requests)))
	case k == 6:
		if m.rename == nil {
			m.rename = &modelRename{m.anyName(), m.anyName(), m.r.Intn(2) == 0}
			m.l.move(m.rename.from, m.rename.to, m.rename.exchange)
		} else {
			m.endRename()
		}
	case k == 7:
		m.revoke(uint64(1 + m.r.Intn(3)))
	case k == 8:
		m.held[uint64(1+m.r.Intn(3))] = true
	}
}

// advance does the next step of a request: the file server computes, the answer is made, the kernel takes it.
func (m *ledgerModel) advance(i int) {
	r := m.requests[i]
	switch {
	case !r.computed:
		r.computed, r.cacheable, r.revokes = true, m.held[r.name.dir], m.revokes[r.name.dir]
	case !r.offered:
		r.offered = true
		if r.cacheable {
			r.ttl = m.l.offer(r.mark, r.name.dir, r.name.name, time.Minute, false)
		}
	default:
		if r.ttl > 0 && r.revokes != m.revokes[r.name.dir] {
			m.t.Fatalf("name %q of directory %d is handed out, computed before a revoke", r.name.name, r.name.dir)
		}
		m.deliver(r)
		m.requests = append(m.requests[:i], m.requests[i+1:]...)
	}
}

func (m *ledgerModel) deliver(r *modelRequest) {
	m.valid[r.name] = r.ttl > 0
	m.l.end(r.mark)
}

func (m *ledgerModel) endRename() {
	n := m.rename
	m.rename = nil
	m.l.moved(n.from, n.to)
	if n.from == n.to {
		return
	}
	a, b := m.valid[n.from], m.valid[n.to]
	m.valid[n.to], m.valid[n.from] = a, n.exchange && b
}

// revoke takes the names of dir. The kernel's expiry waits for the requests in the directory that are answered.
func (m *ledgerModel) revoke(dir uint64) {
	m.held[dir] = false
	m.revokes[dir]++
	t := m.l.take(dir)
	if m.rename != nil && (m.rename.from.dir == dir || m.rename.to.dir == dir) {
		m.endRename()
	}
	kept := m.requests[:0]
	for _, r := range m.requests {
		if r.offered && r.name.dir == dir {
			m.deliver(r)
		} else {
			kept = append(kept, r)
		}
	}
	m.requests = kept
	for _, name := range t.names {
		m.valid[entryName{dir, name}] = false
	}
	for n, valid := range m.valid {
		if n.dir == dir && valid {
			m.t.Fatalf("name %q of directory %d is valid in the kernel after a revoke", n.name, dir)
		}
	}
}

// TestLedgerModel: after a revoke the kernel has no valid name of the directory, whatever was under way. It fails without the look at
// the drops in offer, without what move notes, and without the names that it keeps from being handed out meanwhile.
func TestLedgerModel(t *testing.T) {
	for seed := range int64(300) {
		l := newLedger()
		l.sharedQuiet = 0
		m := &ledgerModel{t: t, l: l, r: rand.New(rand.NewSource(seed)), valid: map[entryName]bool{}, held: map[uint64]bool{1: true, 2: true, 3: true},
			revokes: map[uint64]int{}}
		for range 400 {
			m.step()
		}
		for len(m.requests) > 0 {
			m.advance(0)
		}
		names := 0
		for _, d := range l.dirs {
			names += len(d.until)
		}
		if names != l.count {
			t.Fatalf("seed %d: %d names are counted, %d there", seed, l.count, names)
		}
		if len(l.active) > 0 || len(l.dropped) > 0 {
			t.Fatalf("seed %d: without requests the ledger remembers %d marks and %d drops", seed, len(l.active), len(l.dropped))
		}
	}
}

func TestLedgerAttributes(t *testing.T) {
	l := newLedger()
	old := l.begin()
	if got := l.fresh(old, 7, time.Second); got != time.Second {
		t.Errorf("nothing was dropped: %v", got)
	}
	l.drop(7)
	if l.fresh(old, 7, time.Second) != 0 {
		t.Error("attributes computed before a drop are handed out after it")
	}
	if l.fresh(old, 8, time.Second) == 0 {
		t.Error("the drop of one inode keeps another's attributes")
	}
	young := l.begin()
	if l.fresh(young, 7, time.Second) == 0 {
		t.Error("a request after the drop may be cached")
	}
	if at := l.handedAt(7); time.Since(at) > time.Minute {
		t.Errorf("inode 7 was handed out just now: %v", at)
	}
	if at := l.handedAt(9); !at.IsZero() {
		t.Errorf("inode 9 was never handed out: %v", at)
	}
	for i := range uint64(recentMax) {
		l.fresh(young, 100+i, time.Second)
	}
	if l.handedAt(7).IsZero() {
		t.Error("what is no longer remembered must count as recent as the oldest remembered")
	}
	inos, _ := l.since(time.Now().Add(-time.Minute))
	if len(inos) != recentMax || !inos[100] {
		t.Errorf("%d answers remembered", len(inos))
	}
}

func TestLedgerTimeouts(t *testing.T) {
	l := newLedger()
	mark := l.begin()
	if got := l.offer(mark, 1, "a", time.Hour, true); got != nameTimeoutMin {
		t.Errorf("the timeout of the first name is %v, want %v", got, nameTimeoutMin)
	}
	l.dirs[1].since = time.Now().Add(-time.Hour)
	if got := l.offer(mark, 1, "a", time.Hour, true); got != nameTimeoutMax {
		t.Errorf("the timeout of a name is %v, want at most %v", got, nameTimeoutMax)
	}
	if got := l.offer(mark, 1, "a", time.Millisecond, true); got != time.Millisecond {
		t.Errorf("a lease of a millisecond gives a timeout of %v", got)
	}
	l.offer(mark, 1, "a", time.Hour, true)
	if l.offer(mark, 1, "a", -1, true) != 0 {
		t.Error("a timeout although the lease is over")
	}
	got := l.take(1)
	if len(got.names) != 1 || time.Until(got.until) < nameTimeoutMax/2 || got.looked.IsZero() {
		t.Errorf("%+v", got)
	}
	mark = l.begin()
	if l.offer(mark, 1, "a", time.Hour, false) != 0 {
		t.Error("a name of a directory shared a moment ago is handed out with a timeout")
	}
	if l.offer(mark, 2, "a", time.Hour, false) == 0 {
		t.Error("a name of another directory is not")
	}
	l.sweep(time.Now().Add(nameTimeoutMax + arrivalSlack + max(sharedQuiet, tookFor)))
	if l.count != 0 || len(l.dirs) != 0 {
		t.Errorf("after everything ran out: %d names, %d directories", l.count, len(l.dirs))
	}
	if l.take(1); l.offer(l.begin(), 1, "a", time.Hour, false) != 0 {
		t.Error("a revoke of a directory without names does not count as sharing")
	}
	l.stalled(1)
	if d := l.dirs[1]; time.Until(d.quiet) < stalledQuiet/2 {
		t.Errorf("quiet for %v after a stalled revoke", time.Until(d.quiet))
	}
}

func TestLedgerBound(t *testing.T) {
	l := newLedger()
	l.count = ledgerMax
	mark := l.begin()
	if l.offer(mark, 1, "a", time.Second, false) != 0 {
		t.Error("a name beyond the bound is handed out with a timeout")
	}
	l.count = ledgerMax - 1
	if l.offer(mark, 1, "a", time.Second, false) == 0 || l.offer(mark, 1, "a", time.Second, false) == 0 || l.offer(mark, 1, "b", time.Second, false) != 0 {
		t.Error("the bound is not on names")
	}
}

func BenchmarkRequest(b *testing.B) {
	c := &conn{names: newLedger(), inflight: map[*inflight]struct{}{}}
	for b.Loop() {
		mark := c.names.begin()
		c.names.fresh(mark, 5, time.Second)
		c.names.offer(mark, 1, "a", time.Second, true)
		c.names.end(mark)
	}
}
