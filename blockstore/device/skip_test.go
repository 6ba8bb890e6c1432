package device

import (
	"math"
	"testing"

	"dfs/wal"
)

// TestSkipAbsent: what is absent is skipped at any size, before a checkpoint and after.
func TestSkipAbsent(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	const far = 1 << 48
	rec := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 7, Block: far + 5}, Data: make([]byte, blockSize)}, {Addr: wal.Addr{VDisk: 8, Block: 3}, Data: make([]byte, blockSize)}}}
	if err := d.Apply(1, rec); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, c := range []struct{ vdisk, block, want uint64 }{
			{7, 0, far}, {7, far + 2, far + 2}, {7, far + 5, far + 5}, {7, far + largeBlocks, math.MaxUint64}, {8, 0, 0}, {8, 5000, math.MaxUint64}, {9, 0, math.MaxUint64}, {6, 0, math.MaxUint64},
		} {
			if got, err := d.SkipAbsent(c.vdisk, c.block); err != nil || got != c.want {
				t.Errorf("vdisk %d from %d: %d, %v, want %d", c.vdisk, c.block, got, err, c.want)
			}
		}
		if _, finish, err := d.Checkpoint(nil); err != nil || finish() != nil {
			t.Fatal(err)
		}
	}
}
