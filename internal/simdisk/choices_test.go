package simdisk

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"testing"

	"dfs/blockstore/device"
	"dfs/wal/seglog"
)

// machine is a disk as a script uses it.
type machine struct {
	device.Volume
	seglog.FS
	failIn func(n int)
	lose   func() // and restore
	rot    func() (string, bool)
}

// script does drawn operations on a machine's disk, lets its power fail within one of them, six times, and hashes what is
// left each time.
func script(m machine, seed uint64) string {
	rng, h := rand.New(rand.NewPCG(seed, 99)), sha256.New()
	data := func() []byte {
		b := make([]byte, []int{100, 512, 4096, 9000}[rng.IntN(4)])
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for round := range 6 {
		m.failIn(100 + rng.IntN(100))
		for n := 0; operate(m, rng, data, n) == nil; n++ {
		}
		m.lose()
		dump(m, h)
		what, ok := m.rot()
		fmt.Fprintln(h, round, what, ok)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// operate does the n-th operation.
func operate(m machine, rng *rand.Rand, data func() []byte, n int) error {
	name := fmt.Sprint("log", rng.IntN(4))
	blocks, err := m.Volume.Open(fmt.Sprint("blocks", rng.IntN(3)), true)
	if err != nil {
		return err
	}
	segment, err := m.FS.Open(name, false)
	if err != nil {
		segment, err = m.FS.Open(name, true)
	}
	if err != nil {
		return err
	}
	off := rng.Int64N(40000)
	switch rng.IntN(14) {
	case 0:
		return blocks.Sync()
	case 1:
		return blocks.Punch(off, rng.Int64N(20000))
	case 2:
		return blocks.Grow(rng.Int64N(80000))
	case 3:
		return segment.Sync()
	case 4:
		return m.SyncDir()
	case 5:
		return segment.Truncate(rng.Int64N(80000))
	case 6:
		if to := fmt.Sprint("log", rng.IntN(4)+4*n); to != name {
			return m.Rename(name, to)
		}
	case 7:
		return m.Remove(name)
	case 8:
		return m.CommitMap(func() error { return nil })
	case 9, 10:
		return segment.WriteDurable(data(), off)
	case 11:
		_, err = segment.WriteAt(data(), off)
		return err
	default:
		return blocks.WriteAt(data(), off)
	}
	return nil
}

// dump writes all that is on a disk, as its users see it.
func dump(m machine, h hash.Hash) {
	names, _ := m.List()
	for _, name := range names {
		f, err := m.FS.Open(name, false)
		if err != nil {
			panic(err)
		}
		size, _ := f.Size()
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			panic(err)
		}
		fmt.Fprintln(h, name, size)
		h.Write(b)
	}
	for i := range 3 {
		f, err := m.Volume.Open(fmt.Sprint("blocks", i), false)
		if err != nil {
			continue
		}
		size, _ := f.Size()
		used, _ := f.Used()
		b := make([]byte, size)
		_ = f.ReadAt(b, 0)
		fmt.Fprintln(h, i, size, used)
		h.Write(b)
	}
}

// TestKeptChoices: what a seed draws is what it always drew. Kept seeds of tests/sim replay what they found only as long as that is so.
func TestKeptChoices(t *testing.T) {
	for seed, want := range map[uint64]string{1: "06dd58de5f03376b", 2: "f77433723c20bd00", 311: "e5817d351fcb717b"} {
		for range 2 {
			p := NewPower(rand.New(rand.NewPCG(seed, 'a')))
			d := New(p)
			m := machine{Volume: Volume{d}, FS: Log{d}, failIn: p.FailIn, rot: d.Rot, lose: func() { d.Lose(Torn); p.Restore() }}
			if got := script(m, seed); got != want {
				t.Errorf("seed %d: %s is left, it was %s", seed, got, want)
			}
		}
	}
}
