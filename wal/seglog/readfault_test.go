package seglog

import (
	stderrors "errors"
	"math/rand/v2"
	"testing"

	"dfs/internal/errors"
)

// readFaults lets the at-th look at the disk fail: a listing, an opening, a size, a read. Looks are not sites of fakeDisk, because they change nothing.
type readFaults struct {
	*fakeDisk
	looks, at int
	site      string // what failed
}

type readFaultsFile struct {
	File
	d *readFaults
}

func (d *readFaults) look(site string) error {
	if d.looks++; d.looks == d.at {
		d.site = site
		return errInjected
	}
	return nil
}

func (d *readFaults) List() ([]string, error) {
	if err := d.look("list"); err != nil {
		return nil, err
	}
	return d.fakeDisk.List()
}

func (d *readFaults) Open(name string, create bool) (File, error) {
	if !create {
		if err := d.look("open"); err != nil {
			return nil, err
		}
	}
	f, err := d.fakeDisk.Open(name, create)
	if err != nil {
		return nil, err
	}
	return readFaultsFile{f, d}, nil
}

func (f readFaultsFile) Size() (int64, error) {
	if err := f.d.look("size"); err != nil {
		return 0, err
	}
	return f.File.Size()
}

func (f readFaultsFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.look("read"); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// TestLooksFailEverywhere fails each look at the disk in turn, from the opening of a log of several segments through reads of all entries to the
// removal of some at its end, until a run has no more. What fails says so, is not taken for a torn end, and loses nothing: opened again the log holds all.
func TestLooksFailEverywhere(t *testing.T) {
	sites := map[string]int{}
	for _, all := range []bool{false, true} {
		for at := 1; lookFails(t, at, all, sites); at++ {
		}
	}
	t.Logf("%v", sites)
	for _, site := range []string{"list", "open", "size", "read"} {
		if sites[site] == 0 {
			t.Errorf("no %s was made", site)
		}
	}
}

// lookFails lets one look fail; false: there were not so many. all: the opening verifies every entry.
func lookFails(t *testing.T, at int, all bool, sites map[string]int) bool {
	d := &readFaults{fakeDisk: newFakeDisk(1)}
	o := crashOptions(d.fakeDisk, 1)
	o.FS, o.VerifyAll = d, all
	l, err := build("fake", o)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{rng: rand.New(rand.NewPCG(3, 9))}
	s.model.sure = fill(t, l, 60)
	l.fillSpare()
	if err := l.TruncateFront(20); err != nil {
		t.Fatal(err)
	}
	s.model.sure = s.model.sure.from(20)
	l.Close()
	d.looks, d.at = 0, at
	err = lookEverywhere(o, s)
	if d.site == "" {
		if err != nil {
			t.Fatalf("without a fault: %v", err)
		}
		return false
	}
	sites[d.site]++
	if err != nil && !stderrors.Is(err, errInjected) {
		t.Errorf("look %d, a %s, fails: %v", at, d.site, err)
	}
	d.at = 0
	if l, err = build("fake", o); err != nil {
		t.Fatalf("opened again after look %d, a %s, failed: %v", at, d.site, err)
	}
	s.settle(t, l)
	l.Close()
	return true
}

// fill appends n entries, a few at a time.
func fill(t *testing.T, l *Log, n uint64) state {
	st := state{first: 1}
	for i := uint64(1); i <= n; i += 3 {
		var es []Entry
		for j := i; j < i+3; j++ {
			es = append(es, Entry{Index: j, Data: crashPayload(j, 1)})
			st.versions = append(st.versions, 1)
		}
		if err := l.Append(es); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// lookEverywhere opens the log, reads all and removes some at the end.
func lookEverywhere(o Options, s *script) error {
	l, err := build("fake", o)
	if err != nil {
		return err
	}
	defer l.Close()
	for i := l.First(); i <= l.Last(); i++ {
		if _, err := l.Get(i); err != nil {
			return err
		}
	}
	want := s.model.sure.upTo(41)
	s.model.maybe = &want
	if err := l.TruncateBack(42); err != nil {
		return err
	}
	s.model.sure, s.model.maybe = want, nil
	return nil
}

// TestOptionsThatCannotBe lists them.
func TestOptionsThatCannotBe(t *testing.T) {
	for _, o := range []Options{{SegmentBytes: 1}, {SegmentBytes: 64<<10 + 1}, {SegmentBytes: 2 << 30}, {FreeMax: -1}, {SpareAfter: -1}, {GroupBytes: -5}} {
		if err := o.Validate(); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
