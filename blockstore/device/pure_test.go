package device

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// TestGeometry checks the arithmetic against the words of blockstore.ChunkID.
func TestGeometry(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 20000 {
		block := uint64(i)
		if i >= 5000 {
			block = rnd.Uint64() >> rnd.IntN(64)
		}
		c := chunkOf(3, block)
		first, n := chunkFirst(c.Chunk), uint64(chunkBlocks(c.Chunk))
		if c.VDisk != 3 || block < first || block-first >= n || c.Chunk > chunkMax {
			t.Fatalf("block %d is given to chunk %d: %d blocks from %d", block, c.Chunk, n, first)
		}
		if c.Chunk > 0 && chunkFirst(c.Chunk-1)+uint64(chunkBlocks(c.Chunk-1)) != first {
			t.Fatalf("chunk %d does not follow the one before", c.Chunk)
		}
	}
	if chunkFirst(2) != 256 || chunkBlocks(0) != 16 || chunkBlocks(1) != 240 || chunkFirst(5) != 4*256 || chunkOf(0, math.MaxUint64).Chunk != chunkMax {
		t.Fatal("not the geometry of the contract")
	}
}

// TestPieces checks that the pieces of a span are the span.
func TestPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		s := wal.Span{VDisk: 1, Block: rnd.Uint64N(2000), Count: 1 + rnd.Uint64N(2000)}
		if rnd.IntN(10) == 0 {
			s.Block += math.MaxUint64 - 5000
		}
		lo, hi := chunkSpan(s)
		next := s.Block
		for n := lo; n <= hi; n++ {
			p := pieceIn(s, n)
			if p.lo >= p.hi || p.hi > chunkBlocks(n) || chunkFirst(n)+uint64(p.lo) != next || p.whole() != (p.hi-p.lo == chunkBlocks(n)) {
				t.Fatalf("span %+v, chunk %d: %+v", s, n, p)
			}
			next += uint64(p.hi - p.lo)
		}
		if next != s.Block+s.Count {
			t.Fatalf("span %+v ends at %d", s, next)
		}
	}
}

func TestSums(t *testing.T) {
	a, b := make([]byte, blockSize), make([]byte, blockSize)
	b[7] = 1
	seen := map[uint32]bool{blockSum(1, 2, a): true, blockSum(2, 1, a): true, blockSum(1, 3, a): true, blockSum(1, 2, b): true}
	if len(seen) != 4 || seen[sumAbsent] || seen[suspectMask] {
		t.Fatal("sums do not tell content and address apart")
	}
	s := blockSum(1, 2, a)
	for _, c := range []struct {
		stored uint32
		want   fit
	}{{s, fits}, {s ^ suspectMask, fitsInPart}, {s ^ 1, unfit}} {
		if got := compareSum(c.stored, s); got != c.want {
			t.Errorf("%x: %d", c.stored, got)
		}
	}
}

func TestBitmap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 3))
	var b bitmap
	in := map[uint64]bool{}
	for range 5000 {
		if rnd.IntN(5) > 1 {
			n := b.take()
			for i := range n {
				if !in[i] {
					t.Fatalf("took %d with %d free", n, i)
				}
			}
			if in[n] {
				t.Fatalf("took %d twice", n)
			}
			in[n] = true
		} else if n := rnd.Uint64N(300); in[n] {
			b.release(n)
			delete(in, n)
		}
	}
	const end = 5000
	next := uint64(0)
	err := b.freeRuns(end, func(lo, hi uint64) error {
		for ; next < lo; next++ {
			if !in[next] {
				t.Fatalf("%d is not told free", next)
			}
		}
		for ; next < hi; next++ {
			if in[next] {
				t.Fatalf("%d is told free", next)
			}
		}
		return nil
	})
	if err != nil || next != end {
		t.Fatal(next, err)
	}
}

// TestPlaces checks that windows do not overlap across the borders of files.
func TestPlaces(t *testing.T) {
	for c := range classes {
		size := int64(c.blocks()) * blockSize
		per := uint64(fileBytesMax / size)
		for _, n := range []uint64{0, 1, per - 1, per, per + 1, 5*per + 3} {
			w := makeWindow(c, n)
			at := w.place()
			if w.class() != c || w.number() != n || at.file != int(n/per) || at.data != int64(n%per)*size || at.data+size > fileBytesMax || at.sum != at.data/blockSize*sumSize {
				t.Errorf("window %x lies at %+v", w, at)
			}
		}
	}
}

func FuzzHeader(f *testing.F) {
	h := &header{nodeID: "n1", clusterID: "c"}
	f.Add(h.encode())
	f.Add([]byte(headerMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			if k := errors.KindOf(err); k != errors.KindForeign && k != errors.KindCorrupt && k != errors.KindTooNew {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.encode(), b) {
			t.Fatal("a header that is not what was read")
		}
	})
}

func FuzzMapEntry(f *testing.F) {
	key := mapKey(blockstore.ChunkID{VDisk: 1, Chunk: 2})
	f.Add(key, encodeEntry(key, entry{win: makeWindow(large, 3), last: 4, present: 5}))
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, k, v []byte) {
		id, e, err := decodeEntry(k, v)
		if err == nil && (!bytes.Equal(mapKey(id), k) || !bytes.Equal(encodeEntry(k, e), v)) {
			t.Fatal("an entry that is not what was read")
		}
	})
}

func FuzzMapState(f *testing.F) {
	f.Add(encodeState(mapState{index: 1, incomplete: true, meta: []byte("m")}))
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err == nil && !bytes.Equal(encodeState(st), b) {
			t.Fatal("a state that is not what was read")
		}
	})
}
