package seglog

import (
	"bytes"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"dfs/internal/errors"
)

// diskModel is what a log over a fakeDisk must hold: between an acknowledged and a wanted state.
type diskModel struct {
	sure  state  // acknowledged
	maybe *state // if a call is under way or failed: what it would lead to
}

// state is the content of a log: versions of the entries first..first+len-1.
type state struct {
	first    uint64
	versions []int
}

func (s state) last() uint64 { return s.first + uint64(len(s.versions)) - 1 }

func (s state) from(first uint64) state {
	if first > s.last() {
		return state{}
	}
	return state{first, s.versions[first-s.first:]}
}

func (s state) upTo(last uint64) state {
	if last < s.first {
		return state{}
	}
	return state{s.first, s.versions[: last-s.first+1 : last-s.first+1]}
}

func (s state) equal(t state) bool {
	if len(s.versions) != len(t.versions) || (len(s.versions) > 0 && s.first != t.first) {
		return false
	}
	for i := range s.versions {
		if s.versions[i] != t.versions[i] {
			return false
		}
	}
	return true
}

func crashOptions(d *fakeDisk, seed uint64) Options {
	salts := rand.New(rand.NewPCG(seed, 5))
	o := Options{SegmentBytes: 64 << 10, GroupBytes: 20 << 10, FreeMax: 2, FS: d, Salt: salts.Uint64, manual: true}
	if err := o.Validate(); err != nil {
		panic(err)
	}
	o.FillBytesPerSecond = 1 << 40
	return o
}

func crashPayload(index uint64, version int) []byte {
	n := int(index*2654435761+uint64(version)*40503) % 9000
	return append([]byte(fmt.Sprintf("%d/%d:", index, version)), bytes.Repeat([]byte{byte(index), byte(version)}, n/2)...)
}

// read tells the state that a log holds, and fails if it holds anything that was never appended.
func read(t *testing.T, l *Log) state {
	t.Helper()
	s := state{first: l.First()}
	if s.first == 0 {
		return state{}
	}
	for i := s.first; i <= l.Last(); i++ {
		b, err := l.Get(i)
		if err != nil {
			t.Fatalf("Get(%d): %v", i, err)
		}
		var index uint64
		var version int
		if _, err := fmt.Sscanf(string(b[:min(len(b), 40)]), "%d/%d:", &index, &version); err != nil || index != i || !bytes.Equal(b, crashPayload(i, version)) {
			t.Fatalf("entry %d holds foreign bytes %.20q (%v)", i, b, err)
		}
		s.versions = append(s.versions, version)
	}
	return s
}

// script is a run of calls on a log drawn from rng. It returns at the first
// error, with the model telling what must and what may be there.
type script struct {
	rng     *rand.Rand
	model   diskModel
	version int
}

func (s *script) step(l *Log) error {
	cur := s.model.sure
	s.version++
	want := cur
	var call func() error
	switch k := s.rng.IntN(12); {
	case k < 7 || len(cur.versions) == 0:
		var es []Entry
		want.versions = append([]int(nil), cur.versions...)
		if len(cur.versions) == 0 {
			want.first = 1 + s.rng.Uint64N(40)
		}
		for range 1 + s.rng.IntN(8) {
			want.versions = append(want.versions, s.version)
			p := crashPayload(want.last(), s.version)
			es = append(es, Entry{Index: want.last(), Head: p[:2], Data: p[2:]})
		}
		call = func() error { return l.Append(es) }
	case k < 9:
		before := cur.first + s.rng.Uint64N(uint64(len(cur.versions))+1)
		want = cur.from(before)
		call = func() error { return l.TruncateFront(before) }
	case k < 11:
		from := cur.first + s.rng.Uint64N(uint64(len(cur.versions)))
		want = cur.upTo(from - 1)
		call = func() error { return l.TruncateBack(from) }
	default:
		call = func() error { l.fillSpare(); return nil }
	}
	s.model.maybe = &want
	if err := call(); err != nil {
		return err
	}
	s.model.sure, s.model.maybe = want, nil
	return nil
}

// settle checks what a reopened log holds against the model and makes it the sure state.
func (s *script) settle(t *testing.T, l *Log) {
	t.Helper()
	got := read(t, l)
	ok := got.equal(s.model.sure)
	if m := s.model.maybe; !ok && m != nil {
		if len(m.versions) > len(s.model.sure.versions) { // an append: any prefix of it
			ok = len(got.versions) >= len(s.model.sure.versions) && got.equal(m.upTo(got.last())) && (len(got.versions) > 0)
		} else {
			ok = got.equal(*m)
		}
	}
	if !ok {
		t.Fatalf("after reopening: %+v\nacknowledged: %+v\nunder way: %+v", got, s.model.sure, s.model.maybe)
	}
	s.model.sure, s.model.maybe = got, nil
}

// runScript opens a log and does steps of a script on it until one fails, or 30 are done; l is nil if it could not be opened.
func runScript(o Options, seed uint64) (s *script, l *Log, err error) {
	s = &script{rng: rand.New(rand.NewPCG(seed, 9))}
	l, err = build("fake", o)
	for n := 0; n < 30 && err == nil; n++ {
		err = s.step(l)
	}
	return s, l, err
}

// everySite runs test for each I/O site of the script of each seed.
func everySite(t *testing.T, seeds uint64, test func(t *testing.T, seed uint64, at int)) {
	for seed := range seeds {
		sites := crashRun(t, seed, 0, 0)
		for at := 1; at <= sites; at++ {
			t.Run(fmt.Sprintf("%d/%d", seed, at), func(t *testing.T) { test(t, seed, at) })
		}
	}
}

// crashRun runs a script, crashing at I/O site `at` (0: never), reopens with a
// second crash within recovery at site `again`, and goes on for a while. It returns the sites seen.
func crashRun(t *testing.T, seed uint64, at, again int) (sites int) {
	t.Helper()
	d := newFakeDisk(seed*1_000_003 + uint64(at)*31 + uint64(again))
	o := crashOptions(d, seed)
	d.crashAt = at
	s, l, err := runScript(o, seed)
	sites = d.site
	if err != nil && !stderrors.Is(err, errPower) {
		t.Fatalf("unexpected: %v", err)
	}
	if l != nil {
		l.Close()
	}
	for round := range 3 {
		d.crash()
		if round == 0 && again > 0 {
			d.crashAt = d.site + again
		}
		l, err = build("fake", o)
		if err != nil {
			if round == 0 && stderrors.Is(err, errPower) {
				continue
			}
			t.Fatalf("reopen: %v", err)
		}
		s.settle(t, l)
		for range 5 {
			if err = s.step(l); err != nil {
				break
			}
		}
		if err != nil && !(round == 0 && stderrors.Is(err, errPower)) {
			t.Fatalf("after reopening: %v", err)
		}
		l.Close()
		if d.opened != 0 {
			t.Fatalf("%d files left open", d.opened)
		}
	}
	return sites
}

// TestKillEverywhere kills the process at every I/O site; the log is reopened, and then the power fails: what
// the reopened log showed must still be there, though the killed process never synced it.
func TestKillEverywhere(t *testing.T) {
	everySite(t, 6, killRun)
}

func killRun(t *testing.T, seed uint64, at int) {
	d := newFakeDisk(seed*31 + uint64(at))
	o := crashOptions(d, seed)
	d.crashAt = at
	s, l, _ := runScript(o, seed)
	if l != nil {
		l.Close()
	}
	d.restart()
	for round := range 3 {
		l, err := build("fake", o)
		if err != nil {
			t.Fatal(err)
		}
		s.settle(t, l)
		for range round * 2 { // nothing at first: the reopening alone must make it safe
			if err := s.step(l); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
		d.crash()
	}
}

// TestCrashEverywhere crashes at every I/O site of random scripts, and for each also within the recovery.
func TestCrashEverywhere(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 6
	}
	everySite(t, seeds, func(t *testing.T, seed uint64, at int) { crashRun(t, seed, at, (at*7)%11) })
}

// TestFailEverywhere fails every I/O site once, without a crash: the call fails or the
// failure was harmless (a spare), the log is dead afterwards, and a reopened one is right.
func TestFailEverywhere(t *testing.T) {
	everySite(t, 6, failRun)
}

func failRun(t *testing.T, seed uint64, at int) {
	d := newFakeDisk(seed*77 + uint64(at))
	o := crashOptions(d, seed)
	d.failAt = at
	s, l, err := runScript(o, seed)
	if err != nil && !stderrors.Is(err, errInjected) {
		t.Fatal(err)
	}
	if l != nil {
		if err != nil {
			before := d.site
			if again := l.Append([]Entry{{Index: s.model.sure.last() + 1}}); !stderrors.Is(again, errInjected) {
				t.Fatalf("append to a dead log: %v", again)
			}
			if again := l.TruncateFront(1 << 40); !stderrors.Is(again, errInjected) {
				t.Fatalf("truncation of a dead log: %v", again)
			}
			if d.site != before {
				t.Fatal("a dead log still does I/O")
			}
		}
		l.Close()
	}
	if at%2 == 0 {
		d.crash()
	}
	d.failAt = 0
	l, err = build("fake", o)
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	s.settle(t, l)
	l.Close()
}

// TestOldUseDoesNotResurface recycles a segment full of entries that fit in index,
// position and size what is written next, and loses the new write.
func TestOldUseDoesNotResurface(t *testing.T) {
	for seed := range uint64(40) {
		d := newFakeDisk(seed)
		o := crashOptions(d, seed)
		l, err := build("fake", o)
		if err != nil {
			t.Fatal(err)
		}
		l.fillSpare()
		put := func(index uint64) error {
			return l.Append([]Entry{{Index: index, Data: crashPayload(index, int(index))}})
		}
		for i := uint64(1); i <= 40; i++ {
			if err := put(i); err != nil {
				t.Fatal(err)
			}
		}
		// Empty the log twice: the second time the new segment is the file of the first.
		for range 2 {
			if err := l.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		for i := uint64(1); i <= 3; i++ {
			if err := put(i); err != nil {
				t.Fatal(err)
			}
		}
		d.crashAt = d.site + 1
		if err := put(4); err == nil {
			t.Fatal("no crash")
		}
		l.Close()
		d.crash()
		if l, err = build("fake", o); err != nil {
			t.Fatal(err)
		}
		if last := l.Last(); last != 3 && last != 4 {
			t.Fatalf("last is %d: an older use shines through", last)
		}
		l.Close()
	}
}

// TestLostAcknowledgedWriteIsDamage loses a middle write that was acknowledged: that is told, not cut off.
func TestLostAcknowledgedWriteIsDamage(t *testing.T) {
	d := newFakeDisk(1)
	o := crashOptions(d, 1)
	l, err := build("fake", o)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 4; i++ {
		if err := l.Append([]Entry{{Index: i, Data: []byte("entry")}}); err != nil {
			t.Fatal(err)
		}
	}
	name := l.active().name
	l.Close()
	clear(d.names[name].seen[2*Block : 3*Block])
	if _, err = build("fake", o); !errors.Is(err, errors.KindCorrupt) {
		t.Fatalf("got %v", err)
	}
}
