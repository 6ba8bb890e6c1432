package simdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"dfs/blockstore/device"
	"dfs/wal/seglog"
)

func newDisk(seed uint64) *Disk { return New(NewPower(rand.New(rand.NewPCG(seed, 1)))) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func blocks(t *testing.T, d *Disk) device.File {
	t.Helper()
	f, err := Volume{d}.Open("blocks", true)
	must(t, err)
	return f
}

func segment(t *testing.T, d *Disk, name string) seglog.File {
	t.Helper()
	f, err := Log{d}.Open(name, true)
	must(t, err)
	return f
}

// sectors reads the first byte of each of n sectors, which must be all of one kind.
func sectors(t *testing.T, f device.File, n int) string {
	t.Helper()
	b := make([]byte, n*sector)
	must(t, f.ReadAt(b, 0))
	var s []byte
	for p := range slices.Chunk(b, sector) {
		if !bytes.Equal(p, bytes.Repeat(p[:1], sector)) {
			t.Fatalf("a sector is torn within: %x", p)
		}
		s = append(s, p[0])
	}
	return string(s)
}

func filled(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n*sector) }

// left is what losses leave of a file: 'a' synced in four sectors, 'b' written to all, 'c' to two of them.
func left(t *testing.T, l Loss, seeds uint64) map[string]int {
	seen := map[string]int{}
	for seed := range seeds {
		d := newDisk(seed)
		f := blocks(t, d)
		must(t, f.WriteAt(filled('a', 6), 0))
		must(t, f.Sync())
		must(t, f.WriteAt(filled('b', 4), 0))
		must(t, f.WriteAt(filled('c', 2), sector))
		d.Cut()
		d.Lose(l)
		d.Restore()
		seen[sectors(t, blocks(t, d), 6)]++
	}
	return seen
}

// TestSectors: what was synced and not written again stays, in each loss; of what was not, each sector holds any version.
func TestSectors(t *testing.T) {
	if got := left(t, Everything, 5); got["aaaaaa"] != 5 {
		t.Errorf("everything lost: %v", got)
	}
	if got := left(t, Nothing, 5); got["bccbaa"] != 5 {
		t.Errorf("nothing lost: %v", got)
	}
	want := map[string]bool{}
	for _, s := range []string{"a", "b"} {
		for _, m := range []string{"aa", "ab", "ac", "ba", "bb", "bc", "ca", "cb", "cc"} {
			want[s+m+"aaa"], want[s+m+"baa"] = true, true
		}
	}
	got := left(t, Torn, 1500)
	for s, n := range got {
		if !want[s] {
			t.Errorf("torn: %s is left", s)
		}
		if n == 1500 {
			t.Errorf("torn: always %s", s)
		}
	}
	for s := range want {
		if got[s] == 0 {
			t.Errorf("torn: %s was never left in 1500 losses", s)
		}
	}
	if torn := 1500 / len(want); got["aaaaaa"] < 2*torn || got["bccbaa"] < 2*torn {
		t.Errorf("all or nothing of a file is lost %d and %d times only", got["aaaaaa"], got["bccbaa"])
	}
}

// TestSizes: a size since the last sync is any of those that the file had.
func TestSizes(t *testing.T) {
	seen := map[int64]int{}
	for seed := range uint64(100) {
		d := newDisk(seed)
		f := blocks(t, d)
		must(t, f.Grow(4096))
		must(t, f.Sync())
		must(t, f.Grow(8192))
		must(t, f.WriteAt(filled('x', 1), 8192))
		d.Lose(Torn)
		n, _ := blocks(t, d).Size()
		seen[n]++
	}
	if len(seen) != 3 || seen[4096] == 0 || seen[8192] == 0 || seen[8192+sector] == 0 {
		t.Errorf("sizes left: %v", seen)
	}
}

// TestDurableWrite: it is on the disk when it returns; one that the power fails in is torn.
func TestDurableWrite(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		d := newDisk(seed)
		f := segment(t, d, "s")
		must(t, Log{d}.SyncDir())
		_, err := f.WriteAt(filled('z', 3), 0)
		must(t, err)
		must(t, f.WriteDurable(filled('a', 3), 0))
		d.FailIn(1)
		if err := f.WriteDurable(filled('b', 2), 0); err != ErrPower {
			t.Fatal(err)
		}
		if site, ok := d.Hit(); !ok || site != WriteDurable || !d.Off() {
			t.Fatalf("hit: %v %v", site, ok)
		}
		select {
		case <-d.Lost():
		default:
			t.Fatal("nobody is told of the loss")
		}
		if err := f.WriteDurable(filled('c', 1), 0); err != ErrPower {
			t.Fatalf("a write without power: %v", err)
		}
		d.Lose(Torn)
		d.Restore()
		f, err = Log{d}.Open("s", false)
		must(t, err)
		b := make([]byte, 3*sector)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		seen[string([]byte{b[0], b[sector], b[2*sector]})]++
	}
	if len(seen) != 4 || seen["aaa"]*seen["aba"]*seen["baa"]*seen["bba"] == 0 {
		t.Errorf("left: %v", seen)
	}
}

// TestNames: of the changes of names since the last sync of the directory a prefix survives.
func TestNames(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		d := newDisk(seed)
		l := Log{d}
		segment(t, d, "a")
		must(t, l.SyncDir())
		segment(t, d, "b")
		must(t, l.Rename("a", "c"))
		must(t, l.Remove("b"))
		if names, _ := l.List(); !slices.Equal(names, []string{"c"}) {
			t.Fatalf("seen before the loss: %v", names)
		}
		d.Lose(Torn)
		names, _ := l.List()
		seen[fmt.Sprint(names)]++
	}
	if len(seen) != 4 || seen["[a]"]*seen["[a b]"]*seen["[b c]"]*seen["[c]"] == 0 {
		t.Errorf("names left: %v", seen)
	}
}

// TestCommit: the files on the host change whole or not at all where the power fails, not where the disk fails.
func TestCommit(t *testing.T) {
	seen := map[bool]int{}
	for seed := range uint64(50) {
		d := newDisk(seed)
		made := false
		change := func() error { made = true; return nil }
		d.FailIn(1)
		if err := d.Commit(change); err != ErrPower {
			t.Fatal(err)
		}
		seen[made]++
		if made = false; d.Commit(change) != ErrPower || made {
			t.Fatal("a change without power")
		}
		d.Restore()
		d.ErrorsIn(1, 1)
		if err := d.Commit(change); err != syscall.EIO || made {
			t.Fatalf("a change that fails: %v, made: %v", err, made)
		}
		if err := d.Commit(change); err != nil || !made {
			t.Fatal(err)
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("made: %v", seen)
	}
}

// TestErrors: the operations that were named fail and do nothing, and no others; Fault is told.
func TestErrors(t *testing.T) {
	d := newDisk(1)
	var told []string
	d.Fault = func(k Kind, err error) { told = append(told, fmt.Sprint(k, ": ", err)) }
	f := blocks(t, d)
	d.ErrorsIn(2, 2)
	want := []error{nil, syscall.EIO, syscall.EIO, nil}
	for i, w := range want {
		if err := f.WriteAt(filled(byte('a'+i), 1), int64(i)*sector); err != w {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if s := sectors(t, f, 4); s != "a\x00\x00d" {
		t.Errorf("written: %q", s)
	}
	d.FailIn(1)
	if err := f.Sync(); err != ErrPower || d.Armed() {
		t.Errorf("sync: %v", err)
	}
	if !slices.Equal(told, []string{"write: input/output error", "write: input/output error", "sync: " + ErrPower.Error()}) {
		t.Errorf("told: %q", told)
	}
	if d.Lose(Everything); sectors(t, f, 4) != "\x00\x00\x00\x00" {
		t.Error("a sync that the power failed in did its work for certain")
	}
}

// TestRoom: a write that needs a page more than there is room for does nothing; others go on.
func TestRoom(t *testing.T) {
	d := newDisk(1)
	f := blocks(t, d)
	must(t, f.WriteAt(filled('a', 8), 0))
	d.SetRoom(1)
	must(t, f.WriteAt(filled('b', 8), 0))
	must(t, f.WriteAt(filled('c', 1), page))
	if err := f.WriteAt(filled('d', 1), 2*page); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	must(t, f.Punch(0, page))
	must(t, f.WriteAt(filled('d', 1), 2*page))
	d.SetRoom(-1)
	must(t, f.WriteAt(filled('e', 1), 3*page))
}

// TestHang: writes, syncs and commits wait, as long as the disk hangs.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		f := blocks(t, d)
		d.Hang()
		done := make(chan error, 3)
		go func() { done <- f.WriteAt(filled('a', 1), 0) }()
		go func() { done <- f.Sync() }()
		go func() { done <- d.Commit(func() error { return nil }) }()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("a disk that hangs answers")
		}
		d.Resume()
		for range 3 {
			must(t, <-done)
		}
	})
}

// TestRot: one bit of what is synced turns over, and nothing else.
func TestRot(t *testing.T) {
	places := map[string]bool{}
	for seed := range uint64(20) {
		d := newDisk(seed)
		f := blocks(t, d)
		want := filled('a', 3*page/sector)
		must(t, f.WriteAt(want, 0))
		if what, ok := d.Rot(); ok {
			t.Fatalf("what is not synced rots: %s", what)
		}
		must(t, f.Sync())
		must(t, f.WriteAt(want[:sector], page))
		what, ok := d.Rot()
		if !ok {
			continue // it looked at the page that is not synced only
		}
		places[what] = true
		got := make([]byte, len(want))
		must(t, f.ReadAt(got, 0))
		turned := 0
		for i := range got {
			n := bits.OnesCount8(got[i] ^ want[i])
			if turned += n; n > 0 && i/page == 1 {
				t.Errorf("%s: not synced", what)
			}
		}
		if turned != 1 {
			t.Errorf("%s: %d bits turned over", what, turned)
		}
	}
	if len(places) < 10 {
		t.Errorf("it rots in %d places", len(places))
	}
}

// TestCrashPoints: the operations that were recorded, redone on the copy from before, make the same disk, at each moment; and
// a crash in between leaves of an operation nothing, or all of it.
func TestCrashPoints(t *testing.T) {
	dir := t.TempDir()
	d := newDisk(1)
	must(t, d.Unpack(dir))
	f, s := blocks(t, d), segment(t, d, "s")
	must(t, Log{d}.SyncDir())
	note := func(text string) error { return os.WriteFile(filepath.Join(dir, "note"), []byte(text), 0o600) }
	must(t, d.Commit(func() error { return note("before") }))
	at, err := d.Record()
	must(t, err)
	var sums []uint64
	sum := func(err error) {
		t.Helper()
		must(t, err)
		c, err := d.Clone(nil)
		must(t, err)
		sums = append(sums, c.Sum())
	}
	sum(f.WriteAt(filled('a', 3), 100))
	sum(f.Sync())
	sum(s.WriteDurable(filled('b', 3), 0))
	sum(d.Commit(func() error { return note("after") }))
	sum(Log{d}.Rename("s", "t"))
	segment(t, d, "u")
	sum(nil)
	sum(Log{d}.SyncDir())
	sum(f.Punch(0, page))
	_, err = Volume{d}.Open("more", true)
	sum(err)
	sum(Log{d}.Remove("u"))
	sum(s.Truncate(100))
	ops := d.EndRecord()
	if len(ops) != len(sums) {
		t.Fatalf("%d operations recorded, %d done", len(ops), len(sums))
	}
	for i := range ops {
		c, err := at.Clone(nil)
		must(t, err)
		if c.Crash(&ops[i], Nothing); c.Sum() != sums[i] {
			t.Errorf("a kill within %v leaves another disk than it being done", &ops[i])
		}
		c, err = at.Clone(nil)
		must(t, err)
		e, err := at.Clone(nil)
		must(t, err)
		c.Crash(&ops[i], Everything)
		if e.Lose(Everything); c.Sum() != e.Sum() {
			t.Errorf("of %v something is left where everything is lost", &ops[i])
		}
		if at.Redo(&ops[i]); at.Sum() != sums[i] {
			t.Errorf("%v, redone, makes another disk", &ops[i])
		}
	}
	again := t.TempDir()
	must(t, at.Unpack(again))
	if b, err := os.ReadFile(filepath.Join(again, "note")); err != nil || string(b) != "after" {
		t.Errorf("the note on the host: %q, %v", b, err)
	}
}
