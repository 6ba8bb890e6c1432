package fs

import (
	"math/rand/v2"
	"testing"

	"dfs/wal"
)

// TestFrameTableAgainstAMap: it holds what a map would, in whatever order frames come and go.
func TestFrameTableAgainstAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	table, model := newFrameTable(), map[wal.Addr]*frame{}
	for i := range 200_000 {
		a := wal.Addr{VDisk: rnd.Uint64N(3), Block: rnd.Uint64N(100)}
		if rnd.IntN(50) == 0 {
			a.Block = wal.BlocksMax - 1 - a.Block
		}
		f := model[a]
		switch got := table.get(a); {
		case got != f:
			t.Fatalf("step %d: %v is %p, want %p", i, a, got, f)
		case f == nil && rnd.IntN(2) == 0:
			model[a] = &frame{addr: a}
			table.add(model[a])
		case f != nil && rnd.IntN(2) == 0:
			if !table.remove(f) || table.remove(f) {
				t.Fatalf("step %d: %v is not removed once", i, a)
			}
			delete(model, a)
		case f != nil && table.remove(&frame{addr: a}):
			t.Fatalf("step %d: another frame of %v is removed", i, a)
		}
		if table.n != len(model) {
			t.Fatalf("step %d: %d frames, want %d", i, table.n, len(model))
		}
	}
	for _, f := range model {
		table.remove(f)
	}
	if len(table.groups) != 0 || table.near != nil || table.far != nil {
		t.Fatalf("an empty table keeps %d groups", len(table.groups))
	}
}

// BenchmarkCachePutRun is a long write through a full cache, a step at a time.
func BenchmarkCachePutRun(b *testing.B) {
	c := newCache(64<<20/blockSize, func() wal.Gen { return 1 << 40 })
	defer c.close()
	data := make([]byte, writeStep)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for i := range b.N {
		c.putRun(wal.Addr{VDisk: 7, Block: uint64(i) * uint64(len(data)/blockSize)}, data, wal.Gen(i+1))
	}
}
