package device

import (
	"bytes"
	"testing"

	"dfs/wal"
)

// TestLateIsWrittenOnce: a block that changes again and again is written by the checkpoint, once, and read as it is meanwhile.
func TestLateIsWrittenOnce(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	want := make([]byte, blockSize)
	mustApply(t, d, whole(5, 0, 1, 0))
	vol.ops = 0
	for i := range 100 {
		part := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 5}, Off: uint32(i), Data: []byte{byte(i)}}}}
		mustApply(t, d, part)
		want[i] = byte(i)
		if dst, bad := mustRead(t, d, 5, 0, 1); len(bad) > 0 || !bytes.Equal(dst, want) {
			t.Fatalf("after change %d: bad %v, %x", i, bad, dst[:100])
		}
	}
	if vol.ops != 0 {
		t.Errorf("%d operations on the files before the checkpoint", vol.ops)
	}
	mustCheckpoint(t, d, "")
	d.Close()
	d = mustOpen(t, d.dir, vol)
	if dst, bad := mustRead(t, d, 5, 0, 1); len(bad) > 0 || !bytes.Equal(dst, want) {
		t.Fatalf("after the checkpoint: bad %v, %x", bad, dst[:100])
	}
}

// TestLateIsBounded: what was changed longest ago is written when more is late than may be, and leaves nothing pinned.
func TestLateIsBounded(t *testing.T) {
	d := mustOpen(t, t.TempDir(), newFakeVolume(1))
	for i := range uint64(20) {
		mustApply(t, d, whole(i, 0, 1, byte(i)))
		if d.late.blocks > d.late.max {
			t.Fatalf("%d blocks are late, of %d", d.late.blocks, d.late.max)
		}
	}
	if c := d.cache.pin(chunkOf(19, 0)); c.late.elem == nil || d.late.chunks.Front().Value != c.id {
		t.Error("what was changed last is not late")
	}
	d.cache.unpin(d.cache.m[chunkOf(19, 0)])
	if len(d.cache.m) > d.cache.max+d.late.max {
		t.Errorf("%d chunks in memory", len(d.cache.m))
	}
	if err := d.writeAll(); err != nil || d.late.blocks != 0 || d.late.chunks.Len() != 0 {
		t.Fatal(err, d.late.blocks, d.late.chunks.Len())
	}
	for _, c := range d.cache.m {
		if c.pins != 0 {
			t.Errorf("chunk %v is pinned %d times", c.id, c.pins)
		}
	}
}

// TestLateAndOthers: every other change of a block drops what is late of it, and leaves the other late blocks of its chunk.
func TestLateAndOthers(t *testing.T) {
	part := wal.Range{Addr: wal.Addr{VDisk: 5, Block: 4}, Off: 7, Data: []byte("part")}
	mixed := whole(5, 0, 4, 7)
	mixed.Ranges = append(mixed.Ranges, part)
	for name, c := range map[string]struct {
		rec  *wal.Record
		late int // blocks 2 and 13 are before
	}{
		"a long run over it": {whole(5, 0, 4, 7), 1},
		"a long run beside":  {whole(5, 8, 4, 7), 2},
		"a run and a part":   {mixed, 2},
		"trim":               {&wal.Record{Trims: []wal.Span{{VDisk: 5, Block: 2, Count: 1}}}, 1},
		"trim of the chunk":  {&wal.Record{Trims: []wal.Span{{VDisk: 5, Block: 0, Count: 16}}}, 0},
		"zeros":              {&wal.Record{Zeros: []wal.Span{{VDisk: 5, Block: 2, Count: 1}}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d, m := mustOpen(t, t.TempDir(), newFakeVolume(1)), newModel()
			for _, r := range []*wal.Record{whole(5, 2, 1, 9), whole(5, 13, 1, 9), c.rec} {
				mustApply(t, d, r)
				m.apply(r)
				mustEqual(t, d, m)
			}
			if n := d.late.blocks; n != c.late {
				t.Errorf("%d blocks are late, not %d", n, c.late)
			}
			mustCheckpoint(t, d, "")
			mustEqual(t, d, m)
			if err := d.checkInvariants(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLateOfARecord: a record that changes parts of many chunks does not make more late than may be, not even for a moment, nor for ever.
func TestLateOfARecord(t *testing.T) {
	d, m := mustOpen(t, t.TempDir(), newFakeVolume(1)), newModel()
	rec := &wal.Record{}
	for i := range uint64(100) {
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: genDisks[0], Block: 256 * (i + 1)}, Off: 9, Data: []byte("x")})
	}
	mustApply(t, d, rec)
	m.apply(rec)
	if n := d.late.blocks + len(d.late.free); n > d.late.max+largeBlocks || n > 10 {
		t.Errorf("%d buffers of late blocks; %d may be late", n, d.late.max)
	}
	mustEqual(t, d, m)
}
