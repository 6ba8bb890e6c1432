package device

import (
	"testing"

	"dfs/wal"
)

// TestSpares: a window that was given up is taken again as it is, reads as absent, and goes back to the host when its disk fills.
func TestSpares(t *testing.T) {
	vol := newFakeVolume(1)
	vol.room = 20 << 20 // for a large and four small ones
	d := mustOpen(t, t.TempDir(), vol)
	drop := func(vdisk uint64) {
		t.Helper()
		mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: vdisk, Count: 1 << 40}}})
		mustCheckpoint(t, d, "")
	}
	data := func() []byte {
		p := make([]byte, 2*blockSize)
		if err := vol.files[fileName(large, 0, "data")].readAt(p, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
	mustApply(t, d, whole(1, 256, 256, 9))
	drop(1)
	if p := data(); p[0] != 9 {
		t.Fatal("the window was given back, though there is room for a spare")
	}
	m := newModel()
	for _, r := range []*wal.Record{whole(7, 258, 1, 5), {Zeros: []wal.Span{{VDisk: 7, Block: 256, Count: 1}}}} {
		mustApply(t, d, r)
		m.apply(r)
		mustEqual(t, d, m) // what the window held before is not there
	}
	if p := data(); p[0] != 0 || p[blockSize] != 9 {
		t.Fatalf("the spare was not taken: %d %d", p[0], p[blockSize])
	}
	mustApply(t, d, whole(3, 256, 256, 8), whole(4, 0, 16, 8))
	drop(7)
	drop(3) // there is no room for a second one
	drop(4)
	if d.spare[large].n != 1 || d.spare[small].n != 1 {
		t.Fatalf("%d large and %d small spares", d.spare[large].n, d.spare[small].n)
	}
	vol.room = 0
	mustCheckpoint(t, d, "")
	if d.spare[large].n != 0 || d.spare[small].n != 0 {
		t.Fatalf("%d large and %d small spares on a full disk", d.spare[large].n, d.spare[small].n)
	}
	if p := data(); p[0] != 0 || p[blockSize] != 0 {
		t.Fatal("a spare that was given up still has its data")
	}
	if err := d.checkInvariants(); err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, whole(5, 256, 3, 7))
	if _, bad := mustRead(t, d, 5, 256, 3); len(bad) != 0 {
		t.Fatal(bad)
	}
}

// TestSparesAfterACrash: a restart gives spare windows back, whatever their data and sums were.
func TestSparesAfterACrash(t *testing.T) {
	for seed := range uint64(10) {
		vol := newFakeVolume(seed)
		vol.room = 20 << 20
		d := mustOpen(t, t.TempDir(), vol)
		mustApply(t, d, whole(8, 256, 256, 9))
		mustCheckpoint(t, d, "")
		mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 8, Count: 1 << 40}}})
		mustCheckpoint(t, d, "")
		mustApply(t, d, whole(7, 256, 3, 5)) // in the spare, and lost
		d.Close()
		vol.powerLoss()
		d = mustOpen(t, d.dir, vol)
		m := newModel()
		mustEqual(t, d, m)
		r := whole(8, 300, 2, 4)
		mustApply(t, d, r)
		m.apply(r)
		mustEqual(t, d, m)
	}
}
