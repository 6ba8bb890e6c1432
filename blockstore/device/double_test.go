package device

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/internal/golden"
	"dfs/wal"
)

// part is a change of a few bytes of a block.
func part(vdisk, block uint64, off uint32, text string) *wal.Record {
	return &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: vdisk, Block: block}, Off: off, Data: []byte(text)}}}
}

func TestGoldenDouble(t *testing.T) {
	images := []image{{Addr: wal.Addr{VDisk: 1<<63 | 5, Block: 700}, entry: 0x01020304}, {Addr: wal.Addr{VDisk: 1, Block: 2}, entry: 7}}
	head := encodeDoubleHead([16]byte{0: 1, 15: 16}, 0x1122334455667788, 3, 99, images)
	golden.Check(t, "double-head-v1.hex", head[:128])
	if len(bytes.Trim(head[128:], "\x00")) > 0 {
		t.Error("there is something behind the images")
	}
}

func FuzzDoubleHead(f *testing.F) {
	f.Add(encodeDoubleHead([16]byte{1}, 2, 3, 4, []image{{Addr: wal.Addr{VDisk: 5, Block: 6}, entry: 7}}))
	f.Add(make([]byte, blockSize))
	f.Add([]byte(doubleMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == blockSize { // so that it comes past the checksum
			binary.LittleEndian.PutUint32(b[12:], crc.Checksum(b[16:]))
		}
		h, ok, err := decodeDoubleHead(b)
		if err != nil && errors.KindOf(err) != errors.KindTooNew || ok && err != nil {
			t.Fatal(ok, err)
		}
		if !ok {
			return
		}
		again := encodeDoubleHead(h.device, h.salt, h.frame, h.index, h.images)
		if n := doubleFixed + len(h.images)*doubleImageSize; !bytes.Equal(again[16:n], b[16:n]) {
			t.Fatal("a head that is not what was read")
		}
	})
}

// TestDoubleOnce: a block that is changed in part costs one image a checkpoint, one that the log has whole none, nor one of a new chunk.
func TestDoubleOnce(t *testing.T) {
	d := mustOpen(t, t.TempDir(), newFakeVolume(1))
	images := func(recs ...*wal.Record) int64 {
		t.Helper()
		before := d.double.end
		mustApply(t, d, recs...)
		if err := d.writeAll(); err != nil {
			t.Fatal(err)
		}
		return (d.double.end - before) / blockSize
	}
	if n := images(part(5, 1, 9, "a")); n != 0 {
		t.Errorf("%d blocks written for a change of a new chunk", n)
	}
	for i := range 3 {
		mustCheckpoint(t, d, "")
		if n := images(part(5, 1, 9, "b"), part(5, 2, 9, "b")); n != 3 {
			t.Errorf("round %d: %d blocks written, not a head and two images", i, n)
		}
		if n := images(part(5, 1, 99, "c"), part(5, 2, 0, "c")); n != 0 {
			t.Errorf("round %d: %d blocks written for blocks that are safe", i, n)
		}
		if n := images(whole(5, 3, 1, 7), part(5, 3, 0, "d")); n != 0 {
			t.Errorf("round %d: %d blocks written for a block that the log has whole", i, n)
		}
	}
	for _, f := range d.double.files {
		if n, err := f.size(); err != nil || n != 3*blockSize {
			t.Errorf("a file of the area has %d bytes (%v): its space is not used again", n, err)
		}
	}
	if d.CheckpointWanted() {
		t.Error("a checkpoint is wanted already")
	}
	d.double.bytes.Store(doubleFull)
	if !d.CheckpointWanted() {
		t.Error("no checkpoint is wanted by a large area")
	}
}

// TestDoubleOnSmallDisk: the area's measure is a share of a small disk, and nothing of the area is counted as space for blocks.
func TestDoubleOnSmallDisk(t *testing.T) {
	vol := newFakeVolume(1)
	vol.room = 128 << 20
	d := mustOpen(t, t.TempDir(), vol)
	if u := mustUse(t, d); u.Scratch != 0 || u.ScratchMax != 2*vol.room/32 {
		t.Errorf("at first: %+v", u)
	}
	const first, last = 256, 256 * 9
	mustApply(t, d, whole(5, first, last-first, 1))
	mustCheckpoint(t, d, "")
	before := mustUse(t, d)
	for b := uint64(first); !d.CheckpointWanted(); b++ {
		if b == last {
			t.Fatal("no checkpoint is wanted")
		}
		mustApply(t, d, part(5, b, 9, "x"))
	}
	if u := mustUse(t, d); u.Scratch < vol.room/32 || u.ScratchMax < u.Scratch || u.Used-u.Scratch != before.Used-before.Scratch {
		t.Errorf("with a full area: %+v, before it was %+v", u, before)
	}
}

// TestDoubleShrinks: what a file of the area takes beyond its measure goes back to the host once a checkpoint makes its images needless, also after a restart.
func TestDoubleShrinks(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	const blocks = 100
	for i := range uint64(blocks) {
		mustApply(t, d, whole(5, 256+i, 1, 1))
	}
	mustCheckpoint(t, d, "")
	used := func() uint64 {
		t.Helper()
		n, err := d.double.used()
		if err != nil {
			t.Fatal(err)
		}
		live := uint64(0) // the fake file counts pages that hold zeros
		for i := range d.double.files {
			for _, p := range vol.files[doubleName(i)].pages {
				if *p != [pageSize]byte{} {
					live += pageSize
				}
			}
		}
		return min(n, live)
	}
	grow := func() {
		t.Helper()
		for i := range uint64(blocks) {
			mustApply(t, d, part(5, 256+i, 9, "x"))
		}
		if n := used(); n < blocks*blockSize {
			t.Fatalf("only %d bytes used", n)
		}
	}
	const keep = 4 * blockSize
	d.double.keep = keep
	for range 2 {
		grow()
		mustCheckpoint(t, d, "")
		if n := used(); n > 2*keep {
			t.Errorf("%d bytes used after a checkpoint", n)
		}
	}
	grow()
	d.Close()
	d = mustOpen(t, d.dir, vol)
	d.double.keep = keep
	for range 2 { // the second file may be the one
		mustCheckpoint(t, d, "")
	}
	if n := used(); n > 2*keep {
		t.Errorf("%d bytes used after a restart and checkpoints", n)
	}
}

// TestDoubleOfOtherContent: once the device's content is another replica's, no image of what it was is put back, though its index be the higher one.
func TestDoubleOfOtherContent(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 1))
	mustCheckpoint(t, d, "")
	mustApply(t, d, part(5, 0, 9, "of the past"))
	if err := d.writeAll(); err != nil || d.double.end == 0 {
		t.Fatal(err, d.double.end)
	}
	if err := d.ResetTo(1, nil); err != nil {
		t.Fatal(err)
	}
	d.Close()
	vol.files["small.0000.data"].put(100, []byte("rotten"))
	d = mustOpen(t, d.dir, vol)
	if _, bad := mustRead(t, d, 5, 0, 1); len(bad) != 1 || d.double.restored != 0 {
		t.Fatalf("%d blocks restored; bad %v", d.double.restored, bad)
	}
}

// TestDoubleTooNew: an area of a later format is not passed over.
func TestDoubleTooNew(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 1))
	mustCheckpoint(t, d, "")
	mustApply(t, d, part(5, 0, 9, "x"))
	if err := d.writeAll(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	f := vol.files[doubleName(d.double.cur)]
	head := make([]byte, blockSize)
	f.get(head, 0)
	binary.LittleEndian.PutUint32(head[8:], doubleVersion+1)
	f.put(0, head)
	_, err := Open(d.dir, testOptions(vol))
	wantKind(t, err, errors.KindTooNew, "double-write", "newer dfs")
}

// TestDoubleOfSuspect: where the area has images of a block as it was suspect and as it was after its repair, a torn block becomes what was repaired.
func TestDoubleOfSuspect(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	place := vol.files["small.0000.data"]
	rot := func() {
		if place = vol.files["small.0000.data"]; place == nil {
			t.Fatal("no data file")
		}
		place.put(100, []byte("rotten"))
	}
	settle := func() {
		t.Helper()
		if err := d.writeAll(); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, d, whole(5, 0, 1, 1))
	mustCheckpoint(t, d, "")
	d.EndRedo()
	rot()
	log := []*wal.Record{part(5, 0, 9, "one"), part(5, 0, 20, "two")}
	mustApply(t, d, log[0])
	settle()
	_, bad := mustRead(t, d, 5, 0, 1)
	if len(bad) != 1 || !bad[0].Suspect {
		t.Fatalf("bad %+v", bad)
	}
	good := bytes.Repeat([]byte{1}, blockSize)
	copy(good[9:], "one")
	if done, err := d.Repair(bad[0], good, true); !done || err != nil {
		t.Fatal(done, err)
	}
	mustApply(t, d, log[1])
	copy(good[20:], "two")
	settle()
	d.Close()
	rot() // torn
	d = mustOpen(t, d.dir, vol)
	mustApply(t, d, log...)
	d.EndRedo()
	if dst, bad := mustRead(t, d, 5, 0, 1); len(bad) != 0 || !bytes.Equal(dst, good) {
		t.Fatalf("bad %+v", bad)
	}
}

// tapFile calls once before the first write to it.
type tapFile struct {
	file
	once func()
}

func (f *tapFile) writeAt(bufs [][]byte, off int64) error {
	if once := f.once; once != nil {
		f.once = nil
		once()
	}
	return f.file.writeAt(bufs, off)
}

// TestDoubleBesideRepair: a repair that comes between the making of an image and its sync leaves the block without one that is of it.
func TestDoubleBesideRepair(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 1))
	mustCheckpoint(t, d, "")
	d.EndRedo()
	vol.files["small.0000.data"].put(100, []byte("rotten"))
	mustApply(t, d, part(5, 0, 9, "one"))
	_, bad := mustRead(t, d, 5, 0, 1)
	if len(bad) != 1 || !bad[0].Suspect {
		t.Fatalf("bad %+v", bad)
	}
	good := bytes.Repeat([]byte{1}, blockSize)
	copy(good[9:], "one")
	c := d.cache.pin(chunkOf(5, 0))
	defer d.cache.unpin(c)
	repaired := make(chan error, 1)
	d.double.files[d.double.cur] = &tapFile{d.double.files[d.double.cur], func() {
		go func() {
			done, err := d.Repair(bad[0], good, true)
			if err == nil && !done {
				err = errors.New(errors.KindInvalid, "the block was not bad")
			}
			repaired <- err
		}()
		for c.mu.TryLock() { // until the repair has the chunk
			c.mu.Unlock()
			runtime.Gosched()
		}
	}}
	if err := d.writeAll(); err != nil {
		t.Fatal(err)
	}
	if err := <-repaired; err != nil {
		t.Fatal(err)
	}
	if d.safe(c, 0) {
		t.Error("the block is taken for safe, with an image of what was bad")
	}
}
