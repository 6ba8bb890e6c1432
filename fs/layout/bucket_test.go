package layout

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"dfs/internal/errors"
)

func TestBuckets(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := uint64(1); n < 70; n++ {
		pos, seen := uint64(0), map[uint64]bool{}
		for pos < positionLimit {
			b := bucketOf(pos, n)
			first, end := bucketInterval(b, n)
			if b >= n || seen[b] || first != pos || end <= pos {
				t.Fatalf("%d buckets, position %x: bucket %d, interval %x..%x", n, pos, b, first, end)
			}
			seen[b] = true
			for range 20 {
				if p := first + r.Uint64N(end-first); bucketOf(p, n) != b {
					t.Fatalf("%d buckets: position %x in bucket %d, not %d", n, p, bucketOf(p, n), b)
				}
			}
			pos = end
		}
		if uint64(len(seen)) != n {
			t.Fatalf("%d of %d buckets seen", len(seen), n)
		}
	}
}

// TestSipHash checks vectors of the reference implementation (key 00..0f, input 00, 01, …).
func TestSipHash(t *testing.T) {
	input := make([]byte, 16)
	for i := range input {
		input[i] = byte(i)
	}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		if got := sipHash(0x0706050403020100, 0x0f0e0d0c0b0a0908, string(input[:n])); got != want {
			t.Errorf("%d bytes: %x, not %x", n, got, want)
		}
	}
}

// TestEntryAt: each field of an entry that a reader relies on is checked.
func TestEntryAt(t *testing.T) {
	good := make([]byte, entrySize(5))
	writeEntry(good, "hello", 20, 1<<61, syscall.S_IFREG)
	if e := entryAt(append(good, 1, 2, 3)); e == nil || len(e) != len(good) || string(e.name()) != "hello" {
		t.Fatal(e)
	}
	for _, c := range []struct {
		name string
		off  int
		to   byte
	}{
		{"inode number", 7, 0x20}, {"position", 15, 0x40}, {"length past the end", 16, byte(len(good) + 4)},
		{"length not a multiple of 4", 16, byte(len(good) - 1)}, {"length less than the name's", 18, 9},
		{"length 0", 16, 0}, {"no name", 18, 0}, {"no type", 19, 0}, {"type", 19, 16},
	} {
		b := append(bytes.Clone(good), 0)[:len(good)]
		b[c.off] = c.to
		if entryAt(b) != nil {
			t.Errorf("%s: taken", c.name)
		}
	}
	odd := append(bytes.Clone(good), 0, 0, 0, 0)
	if odd[16]++; entryAt(odd) != nil {
		t.Error("length not aligned: taken")
	}
	if entryAt(good[:entryHeader-1]) != nil || entryAt(good[:len(good)-4]) != nil {
		t.Error("short: taken")
	}
}

// TestCheckBucket: each field of a bucket's header is checked.
func TestCheckBucket(t *testing.T) {
	good := newBucket(77, 3)
	good.add("hello", 20, 1<<61, syscall.S_IFREG)
	if _, err := checkBucket(77, 3, good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off  int
		to   byte
		want errors.Kind
	}{
		{0, 'x', errors.KindForeign}, {4, 2, errors.KindTooNew}, {4, 0, errors.KindCorrupt}, {8, 1, errors.KindCorrupt}, {16, 1, errors.KindCorrupt},
		{24, 1, errors.KindCorrupt}, {30, 0x10, errors.KindCorrupt}, {33, 0x11, errors.KindCorrupt}, {32, 1, errors.KindCorrupt},
		{34, 200, errors.KindCorrupt}, {6, 200, errors.KindCorrupt},
	} {
		b := bytes.Clone(good)
		b[c.off] = c.to
		if _, err := checkBucket(77, 3, b); !errors.Is(err, c.want) {
			t.Errorf("byte %d: %v", c.off, err)
		}
	}
	if _, err := checkBucket(77, 3, good[:100]); !errors.Is(err, errors.KindCorrupt) {
		t.Error(err)
	}
}

// TestBucketGolden: the bytes of a bucket never change by accident.
func TestBucketGolden(t *testing.T) {
	b := newBucket(0x1122334455667788, 9)
	b.setNext(OverflowBase + 5)
	b.add("hello", 0x10, 1<<61+2, syscall.S_IFREG)
	b.add("directory", 0x11, 1<<60+7, syscall.S_IFDIR)
	b.add("gone", 0x12, 5, syscall.S_IFLNK)
	b.remove(bucketHeader + entrySize(5))
	golden(t, "bucket.golden", b)
}

// golden compares b, zeros at its end cut off, with a file of testdata; DFS_GOLDEN=write makes the file.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	b = bytes.TrimRight(b, "\x00")
	if os.Getenv("DFS_GOLDEN") == "write" {
		if err := os.WriteFile("testdata/"+name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s: the format changed:\n% x\n% x", name, b, want)
	}
}

// FuzzDir reads and changes a directory whose blocks are garbage: errors, no panics.
func FuzzDir(f *testing.F) {
	b := newBucket(77, 0)
	b.add("a", 20, 99, syscall.S_IFREG)
	f.Add([]byte(b), uint64(1), uint64(1), uint64(40), uint64(0))
	b.setNext(OverflowBase)
	f.Add([]byte(b), uint64(3), uint64(9), uint64(5000), uint64(2))
	f.Fuzz(func(t *testing.T, block []byte, buckets, entries, live, overflows uint64) {
		block = append(block, make([]byte, BlockSize)...)[:BlockSize]
		in := newDirInode()
		in.Flags = 0
		in.Dir.Buckets, in.Dir.Entries, in.Dir.LiveBytes, in.Dir.Overflows = 1+buckets, entries, live, overflows
		in.Dir.NextOverflow = in.Dir.Overflows
		get := func() *Dir {
			c := *in
			return OpenDir(&c, fuzzBlocks{block})
		}
		_, _ = get().Lookup("a")
		_ = get().Insert("b", 20, syscall.S_IFREG)
		_ = get().Remove("a")
		_ = get().Replace("a", 21, syscall.S_IFREG)
		_ = get().Iterate(0, func(Entry) bool { return true })
		if buckets < 1<<40 {
			_ = get().Check(func(string) {}, func(Entry) {})
		}
	})
}

type fuzzBlocks struct{ block []byte }

func (f fuzzBlocks) Get(no uint64) ([]byte, error) {
	b := bytes.Clone(f.block)
	if no < OverflowBase {
		b[16] = byte(no)
	}
	return b, nil
}
func (f fuzzBlocks) Put(uint64, []byte) {}
func (f fuzzBlocks) Free(uint64)        {}

func BenchmarkDirInsert(b *testing.B) {
	in, m := newDirInode(), newMem(b)
	d := OpenDir(in, m)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := d.Insert(fmt.Sprintf("file-%09d", i), 20, syscall.S_IFREG); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(m.puts)/float64(i), "puts/op")
}

func BenchmarkDirLookup(b *testing.B) {
	in, m := newDirInode(), newMem(b)
	d := OpenDir(in, m)
	names := make([]string, 50000)
	for i := range names {
		names[i] = fmt.Sprintf("file-%09d", i)
		if err := d.Insert(names[i], 20, syscall.S_IFREG); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := d.Lookup(names[i%len(names)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
