package device

import (
	"bytes"
	"syscall"
	"testing"

	"dfs/internal/errors"
	"dfs/wal"
)

// TestDamage flips a bit, swaps two blocks, and lets an entry of the sums rot; each is seen, told and repaired.
func TestDamage(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 16, 4, 9))
	_ = d.writeAll()
	f := vol.files[fileName(large, 0, "data")]
	f.pages[0][100] ^= 1
	f.pages[2], f.pages[3] = f.pages[3], f.pages[2] // the same bytes at the wrong address: the sums are not the same
	_, bad := mustRead(t, d, 5, 16, 4)
	if len(bad) != 1 || bad[0].Block != 16 || bad[0].Suspect || bad[0].LastIndex != 1 {
		t.Fatalf("bad %+v", bad)
	}
	scrubbed, next, err := d.ScrubNext(nil, 10)
	if err != nil || len(scrubbed) != 1 || next == nil {
		t.Fatal(scrubbed, next, err)
	}
	if _, next, err = d.ScrubNext(next, 10); next != nil || err != nil {
		t.Fatal(next, err)
	}
	c, listed, err := d.ReadChunk(chunkOf(5, 16))
	if err != nil || len(listed) != 1 || len(c.Data) != 3*blockSize || c.Present[0] != 0b1110 {
		t.Fatal(listed, c.Present, err)
	}
	if _, _, err := d.ChunkHash(chunkOf(5, 16)); !errors.Is(err, errors.KindCorrupt) {
		t.Fatal("hash of a damaged chunk:", err)
	}
	data := bytes.Repeat([]byte{9}, blockSize)
	if !d.Fits(bad[0], data) || d.Fits(bad[0], bytes.Repeat([]byte{8}, blockSize)) || d.Fits(bad[0], data[1:]) || d.Fits(bad[0], nil) {
		t.Fatal("what was there fits, and nothing else")
	}
	other := bad[0]
	if other.Block++; d.Fits(other, data) {
		t.Fatal("content of another block fits")
	}
	if d.Fits(BadBlock{Addr: bad[0].Addr}, data) {
		t.Fatal("content fits a checksum that is not known")
	}
	stale := bad[0]
	stale.LastIndex = 0
	if done, err := d.Repair(stale, data, true); done || err != nil {
		t.Fatal("repair over a change:", done, err)
	}
	if done, err := d.Repair(bad[0], data, true); !done || err != nil {
		t.Fatal(done, err)
	}
	if done, err := d.Repair(bad[0], data, true); done || err != nil {
		t.Fatal("repair of a good block:", done, err)
	}
	if dst, bad := mustRead(t, d, 5, 16, 4); len(bad) != 0 || !bytes.Equal(dst, bytes.Repeat([]byte{9}, 4*blockSize)) {
		t.Fatal(bad)
	}
}

// TestMisplaced writes one block's data and sum in another's place.
func TestMisplaced(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	d.cache.max = 0
	mustApply(t, d, whole(5, 16, 1, 9), whole(5, 17, 1, 8), whole(6, 0, 1, 1)) // the last one drives chunk 1 from the cache
	_ = d.writeAll()
	f, s := vol.files[fileName(large, 0, "data")], vol.files[fileName(large, 0, "sum")]
	f.pages[1] = f.pages[0]
	copy(s.pages[0][4:8], s.pages[0][0:4])
	_, bad := mustRead(t, d, 5, 16, 2)
	if len(bad) != 1 || bad[0].Block != 17 {
		t.Fatalf("bad %+v", bad)
	}
}

// TestPartOfDamaged changes a part of a damaged block: it stays bad (suspect) until it is rewritten.
func TestPartOfDamaged(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 9))
	_ = d.writeAll()
	vol.files[fileName(small, 0, "data")].pages[0][100] ^= 1
	part := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 5}, Off: 200, Data: []byte("x")}}}
	mustApply(t, d, part, part)
	mustCheckpoint(t, d, "")
	d.Close()
	if _, bad := mustRead(t, mustOpen(t, d.dir, vol), 5, 0, 1); len(bad) != 1 || !bad[0].Suspect || bad[0].LastIndex != 3 {
		t.Fatalf("bad %+v", bad)
	}
}

// TestFitsAfterPartOfRotten: a block that rotted and was then changed in parts is suspect, and what it ought to hold still fits it, in a
// replica that redid it. Nothing does where a change met the rotten bytes, nor where the redo was not over, nor after a restart.
func TestFitsAfterPartOfRotten(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	good := bytes.Repeat([]byte{9}, blockSize)
	change := func(block uint64, off uint32, text string) {
		t.Helper()
		mustApply(t, d, &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 5, Block: block}, Off: off, Data: []byte(text)}}})
	}
	fits := func(block uint64, data []byte) bool {
		t.Helper()
		_, bad := mustRead(t, d, 5, block, 1)
		if len(bad) != 1 || !bad[0].Suspect {
			t.Fatalf("block %d: bad %+v", block, bad)
		}
		return d.Fits(bad[0], data)
	}
	mustApply(t, d, whole(5, 0, 3, 9))
	_ = d.writeAll()
	for block := range 3 {
		vol.files[fileName(small, 0, "data")].pages[int64(block)][100] ^= 1
	}
	change(2, 200, "early")
	d.EndRedo()
	redone := bytes.Clone(good)
	copy(redone[200:], "early")
	if fits(2, redone) {
		t.Error("content fits a block that a redo changed while it was unfit: its checksum may have been ahead of it")
	}
	change(2, 300, "late")
	if copy(redone[300:], "late"); fits(2, redone) {
		t.Error("content fits such a block after another change")
	}
	change(1, 90, "over the rotten byte")
	over := bytes.Clone(good)
	if copy(over[90:], "over the rotten byte"); fits(1, over) {
		t.Error("content fits that cannot be told")
	}
	was := bytes.Clone(good)
	for i, text := range []string{"x", "and once more", "x"} {
		change(0, uint32(200+4*i), text)
		if copy(good[200+4*i:], text); !fits(0, good) {
			t.Fatalf("after change %d the right content does not fit", i)
		}
		rotten := bytes.Clone(good)
		rotten[100] ^= 1
		if fits(0, rotten) || fits(0, was) || fits(0, good[1:]) || fits(0, nil) {
			t.Fatal("other content fits")
		}
		was = bytes.Clone(good)
	}
	_, bad := mustRead(t, d, 5, 0, 1)
	mustCheckpoint(t, d, "")
	d.Close()
	again := mustOpen(t, d.dir, vol)
	if again.Fits(bad[0], good) {
		t.Error("after a restart nothing is known of it")
	}
	if done, err := again.Repair(bad[0], good, true); !done || err != nil {
		t.Fatal(done, err)
	}
	if dst, bad := mustRead(t, again, 5, 0, 1); len(bad) != 0 || !bytes.Equal(dst, good) {
		t.Fatal(bad)
	}
}

func TestRepairAbsent(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 9))
	_ = d.writeAll()
	vol.files[fileName(small, 0, "data")].pages[0][100] ^= 1
	_, bad := mustRead(t, d, 5, 0, 1)
	if done, err := d.Repair(bad[0], nil, false); !done || err != nil {
		t.Fatal(done, err)
	}
	if infos, err := d.Chunks(nil, 10); err != nil || len(infos) != 0 {
		t.Fatal(infos, err)
	}
	if err := d.checkInvariants(); err != nil {
		t.Fatal(err)
	}
}

// TestLostSums turns a sector of the checksum file to zeros: what it told of must not read as zeros, not even after
// the chunk was changed once more.
func TestLostSums(t *testing.T) {
	for _, lost := range []uint64{0, 1} { // so many blocks are absent on the other replica, too, that were present here
		vol := newFakeVolume(1)
		d := mustOpen(t, t.TempDir(), vol)
		mustApply(t, d, whole(5, 256, 20, 9), &wal.Record{Trims: []wal.Span{{VDisk: 5, Block: 266, Count: 2}}})
		mustCheckpoint(t, d, "")
		d.Close()
		clear(vol.files[fileName(large, 0, "sum")].pages[0][:512]) // slots 0 to 127
		d = mustOpen(t, d.dir, vol)
		d.EndRedo()
		mustApply(t, d, whole(5, 257, 1, 9))
		mustCheckpoint(t, d, "")
		d.Close()
		d = mustOpen(t, d.dir, vol)
		if _, bad, err := d.ReadChunk(chunkOf(5, 256)); err != nil || len(bad) != 255 {
			t.Fatal(len(bad), err)
		}
		wantKind(t, d.Presence(wal.Span{VDisk: 5, Block: 256, Count: 8}, make([]byte, 1)), errors.KindCorrupt)
		bad, _, err := d.ScrubNext(nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bad {
			is := b.Block < 276-lost && b.Block != 266 && b.Block != 267
			done, err := d.Repair(b, bytes.Repeat([]byte{9}, blockSize), is)
			if err != nil || is && !done {
				t.Fatal(b, done, err)
			}
		}
		for range 2 {
			c, bad, err := d.ReadChunk(chunkOf(5, 256))
			if err != nil || len(bad) != 0 || len(c.Data) != int(18-lost)*blockSize || c.LastIndex != 3 || bytes.Count(c.Data, []byte{9}) != len(c.Data) {
				t.Fatal(len(bad), len(c.Data), err)
			}
			mustCheckpoint(t, d, "")
			d.Close()
			d = mustOpen(t, d.dir, vol)
		}
	}
}

// TestLostSumsAndCopy: a chunk that lost checksum entries and is then copied whole from another replica is in doubt no more.
func TestLostSumsAndCopy(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 256, 20, 9))
	mustCheckpoint(t, d, "")
	in, _, err := d.ReadChunk(chunkOf(5, 256))
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	clear(vol.files[fileName(large, 0, "sum")].pages[0][:512])
	d = mustOpen(t, d.dir, vol)
	d.EndRedo()
	if _, bad, err := d.ReadChunk(in.ChunkID); err != nil || len(bad) != 256 {
		t.Fatal(len(bad), err)
	}
	in.LastIndex = 2
	if err := d.PutChunk(in); err != nil {
		t.Fatal(err)
	}
	if err := d.ResetTo(2, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, bad, err := d.ReadChunk(in.ChunkID)
		if err != nil || len(bad) != 0 || !bytes.Equal(c.Data, in.Data) {
			t.Fatalf("%d bad blocks, %d bytes, %v", len(bad), len(c.Data), err)
		}
		d.Close()
		d = mustOpen(t, d.dir, vol)
	}
}

// TestNoSpace fills the host's disk: told as such, and final.
func TestNoSpace(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 9))
	vol.ops, vol.fail, vol.err = 0, 1, syscall.ENOSPC
	wantKind(t, d.Apply(2, whole(5, 1, 2, 9)), errors.KindNoSpace, "log entry 2")
	wantKind(t, d.Apply(3, &wal.Record{}), errors.KindNoSpace)
	if d.Applied() != 1 {
		t.Fatal(d.Applied())
	}
}

// TestPunchIsSynced loses power after a checkpoint whose only change of the data file was a hole.
func TestPunchIsSynced(t *testing.T) {
	for seed := range uint64(8) {
		vol := newFakeVolume(seed)
		d := mustOpen(t, t.TempDir(), vol)
		mustApply(t, d, whole(1, 0, 4, 1))
		mustCheckpoint(t, d, "")
		mustApply(t, d, &wal.Record{Zeros: []wal.Span{{VDisk: 1, Block: 1, Count: 2}}})
		mustCheckpoint(t, d, "")
		d.Close()
		vol.powerLoss()
		if _, bad := mustRead(t, mustOpen(t, d.dir, vol), 1, 0, 4); len(bad) > 0 {
			t.Fatal(bad)
		}
	}
}

// TestZeroOverLeftovers: a block whose sum was lost in a crash but not its data is absent and not empty on the disk. A
// Zero must empty it.
func TestZeroOverLeftovers(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(1, 0, 1, 1))
	mustCheckpoint(t, d, "")
	d.Close()
	vol.files[fileName(small, 0, "data")].put(blockSize, []byte("left over"))
	d = mustOpen(t, d.dir, vol)
	mustApply(t, d, &wal.Record{Zeros: []wal.Span{{VDisk: 1, Block: 1, Count: 1}}})
	if _, bad := mustRead(t, d, 1, 0, 2); len(bad) > 0 {
		t.Fatal(bad)
	}
}

// TestInventedSum lets a checksum entry of an absent block become one: once the others have said that there is none,
// nothing of the chunk is in doubt any more, also after a restart.
func TestInventedSum(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 256, 20, 9))
	mustCheckpoint(t, d, "")
	d.Close()
	vol.files[fileName(large, 0, "sum")].pages[0][30*sumSize] = 0x55
	d = mustOpen(t, d.dir, vol)
	d.EndRedo()
	span, present := wal.Span{VDisk: 5, Block: 256, Count: 256}, make([]byte, 32)
	for pass := range 2 {
		bad, _, err := d.ScrubNext(nil, 10)
		if err != nil || (pass == 0) != (len(bad) > 0) {
			t.Fatalf("pass %d: %d bad blocks, %v", pass, len(bad), err)
		}
		for _, b := range bad {
			if _, err := d.Repair(b, nil, false); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Presence(span, present); err != nil || countBits(present) != 20 {
			t.Fatalf("pass %d: %d blocks are present, %v", pass, countBits(present), err)
		}
		if err := d.checkInvariants(); err != nil {
			t.Fatal(err)
		}
	}
	mustCheckpoint(t, d, "")
	d.Close()
	d = mustOpen(t, d.dir, vol)
	if err := d.Presence(span, present); err != nil {
		t.Fatal("after a restart:", err)
	}
}
