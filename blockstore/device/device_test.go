package device

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// whole returns a record that fills blocks [block, block+n) with the byte x.
func whole(vdisk, block uint64, n int, x byte) *wal.Record {
	rec := &wal.Record{}
	for i := range n {
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: vdisk, Block: block + uint64(i)}, Data: bytes.Repeat([]byte{x}, blockSize)})
	}
	return rec
}

func mustApply(t testing.TB, d *Device, recs ...*wal.Record) {
	t.Helper()
	for _, rec := range recs {
		if err := d.Apply(d.Applied()+1, rec); err != nil {
			t.Fatal(err)
		}
	}
}

func mustCheckpoint(t testing.TB, d *Device, meta string) {
	t.Helper()
	_, finish, err := d.Checkpoint([]byte(meta))
	if err == nil {
		err = finish()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, d *Device, vdisk, block uint64, n int) ([]byte, []BadBlock) {
	t.Helper()
	dst := make([]byte, n*blockSize)
	bad, err := d.Read(wal.Span{VDisk: vdisk, Block: block, Count: uint64(n)}, dst, make([]byte, (n+7)/8))
	if err != nil {
		t.Fatal(err)
	}
	return dst, bad
}

func wantKind(t *testing.T, err error, k errors.Kind, words ...string) {
	t.Helper()
	if !errors.Is(err, k) {
		t.Fatalf("error %v, want kind %d", err, k)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	opt := testOptions(nil)
	opt.Create = false
	_, err := Open(dir, opt)
	wantKind(t, err, errors.KindNotExist, dir)
	_, err = Open(filepath.Join(dir, "none"), opt)
	wantKind(t, err, errors.KindNotExist)

	d := mustOpen(t, dir, nil)
	_, err = Open(dir, testOptions(nil))
	wantKind(t, err, errors.KindBusy, fmt.Sprint(os.Getpid()))
	d.Close()

	opt = testOptions(nil)
	opt.NodeID = "n2"
	_, err = Open(dir, opt)
	wantKind(t, err, errors.KindForeign, `"n1"`, `"n2"`)
	opt = testOptions(nil)
	opt.ClusterID = "other"
	_, err = Open(dir, opt)
	wantKind(t, err, errors.KindForeign, `"other"`)

	path := filepath.Join(dir, headerName)
	good, _ := os.ReadFile(path)
	for _, c := range []struct {
		change func(b []byte) []byte
		kind   errors.Kind
	}{
		{func(b []byte) []byte { b[0]++; return b }, errors.KindForeign},
		{func(b []byte) []byte { b[8] = 9; return b }, errors.KindTooNew},
		{func(b []byte) []byte { b[20]++; return b }, errors.KindCorrupt},
		{func(b []byte) []byte { return b[:20] }, errors.KindCorrupt},
	} {
		os.WriteFile(path, c.change(bytes.Clone(good)), 0o600)
		_, err = Open(dir, testOptions(nil))
		wantKind(t, err, c.kind)
	}
	os.Remove(path)
	_, err = Open(dir, testOptions(nil)) // a lost header is not an empty directory
	wantKind(t, err, errors.KindCorrupt, headerName)
	os.WriteFile(path, good, 0o600)
	os.Rename(filepath.Join(dir, mapName), filepath.Join(dir, "x"))
	_, err = Open(dir, testOptions(nil))
	wantKind(t, err, errors.KindCorrupt, mapName)
	os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, mapNewName)) // creation's last step was missing
	mustOpen(t, dir, nil)
}

// TestOpenLostFiles takes away or cuts a data or checksum file.
func TestOpenLostFiles(t *testing.T) {
	for _, kind := range []string{"data", "sum"} {
		for _, size := range []int64{-1, 100} {
			dir := t.TempDir()
			d := mustOpen(t, dir, nil)
			mustApply(t, d, whole(1, 16, 3, 1))
			mustCheckpoint(t, d, "")
			d.Close()
			path := filepath.Join(dir, fileName(large, 0, kind))
			if size < 0 {
				os.Remove(path)
			} else {
				os.Truncate(path, size)
			}
			_, err := Open(dir, testOptions(nil))
			wantKind(t, err, errors.KindCorrupt)
		}
	}
}

// TestCheckpointIsWanted by what is given up, until it is made.
func TestCheckpointIsWanted(t *testing.T) {
	d := mustOpen(t, t.TempDir(), newFakeVolume(1))
	const chunks = quarantineFull / (largeBlocks * blockSize)
	for i := range uint64(chunks) {
		mustApply(t, d, whole(5, 256*(i+1), 1, 1))
	}
	drop := func(count uint64) {
		mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 5, Count: count}}})
	}
	drop(256 * chunks)
	if d.CheckpointWanted() {
		t.Error("wanted with a chunk less than it takes")
	}
	drop(256 * (chunks + 1))
	if !d.CheckpointWanted() {
		t.Errorf("not wanted with %d bytes given up", d.quarantine.Load())
	}
	mustCheckpoint(t, d, "")
	if n := d.quarantine.Load(); d.CheckpointWanted() || n != 0 {
		t.Errorf("%d bytes after it", n)
	}
}

// TestQuarantine checks that a window that a checkpoint names is given to nobody before the next one is finished.
func TestQuarantine(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	mustApply(t, d, whole(1, 16, 1, 1))
	mustCheckpoint(t, d, "")
	drop := &wal.Record{Trims: []wal.Span{{VDisk: 1, Count: 1 << 52}}}
	_, finish, err := d.Checkpoint(nil) // begun before the trim: names the window
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, drop)
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, whole(2, 16, 1, 2))
	if e, _, _ := d.lookup(chunkOf(2, 16)); e.win.number() != 1 {
		t.Fatalf("got window %d, not a new one", e.win.number())
	}
	if n := len(d.freed) + len(d.freeing); n != 1 {
		t.Fatalf("%d windows to give back", n)
	}
	mustCheckpoint(t, d, "")
	if n := len(d.freed) + len(d.freeing) + len(d.delta.entries); n != 0 || d.frozen != nil {
		t.Fatalf("%d changes wait after a checkpoint", n)
	}
	mustApply(t, d, whole(3, 16, 1, 3))
	if e, _, _ := d.lookup(chunkOf(3, 16)); e.win.number() != 0 {
		t.Fatalf("got window %d, not the one given back", e.win.number())
	}
	if _, bad := mustRead(t, d, 3, 16, 240); len(bad) != 0 {
		t.Fatal(bad)
	}
}

// TestCheckpointGivenUp begins a checkpoint and never finishes it.
func TestCheckpointGivenUp(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	mustApply(t, d, whole(1, 0, 1, 1))
	_, old, err := d.Checkpoint([]byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, whole(2, 0, 1, 1))
	_, finish, err := d.Checkpoint([]byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{0, 2} {
		if err := old(); !errors.Is(err, errors.KindInvalid) {
			t.Fatal("a checkpoint given up was finished:", err)
		}
		if index, _ := d.Meta(); index != want {
			t.Fatal(index)
		}
		if want == 0 {
			err = finish()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	d = mustOpen(t, d.dir, nil)
	if index, meta := d.Meta(); index != 2 || string(meta) != "new" {
		t.Fatal(index, meta)
	}
	if infos, _ := d.Chunks(nil, 10); len(infos) != 2 {
		t.Fatal(infos)
	}
}

// TestCatchUp copies a device to another that differs, with a restart in between.
func TestCatchUp(t *testing.T) {
	src, dst := mustOpen(t, t.TempDir(), nil), mustOpen(t, t.TempDir(), nil)
	g, m := &gen{rand.New(rand.NewPCG(9, 9))}, newModel()
	for range 200 {
		rec := g.record()
		m.apply(rec)
		mustApply(t, src, rec)
		mustApply(t, dst, g.record())
	}
	mustCheckpoint(t, dst, "before")
	_, late, err := dst.Checkpoint(nil)
	if err != nil {
		t.Fatal(err)
	}
	copyAll := func() {
		have, err := dst.Chunks(nil, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range have {
			c, _, err := src.ReadChunk(h.ChunkID)
			if err == nil {
				err = dst.PutChunk(c)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		var after *blockstore.ChunkID
		for {
			page, err := src.Chunks(after, 3)
			if err != nil {
				t.Fatal(err)
			}
			for i := range page {
				if after != nil && !less(*after, page[i].ChunkID) {
					t.Fatal("chunks out of order")
				}
				after = &page[i].ChunkID
				c, bad, err := src.ReadChunk(*after)
				if err != nil || len(bad) > 0 || c.LastIndex != page[i].LastIndex {
					t.Fatal(c.LastIndex, bad, err)
				}
				if err := dst.PutChunk(c); err != nil {
					t.Fatal(err)
				}
			}
			if len(page) == 0 {
				return
			}
		}
	}
	copyAll()
	if err := late(); err == nil {
		t.Fatal("a checkpoint was finished over a catch-up")
	}
	dst.Close()
	dst = mustOpen(t, dst.dir, nil)
	if index, meta := dst.Meta(); !dst.Incomplete() || index != 200 || string(meta) != "before" {
		t.Fatal("after a restart in a catch-up:", dst.Incomplete(), index, string(meta))
	}
	if _, err := differs(dst, m, nil); !errors.Is(err, errors.KindUnavailable) {
		t.Fatal("an incomplete device serves reads:", err)
	}
	if err := dst.Apply(1000, &wal.Record{}); err == nil {
		t.Fatal("an incomplete device applies")
	}
	copyAll()
	if err := dst.ResetTo(200, []byte("after")); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, dst, m)
	dst.Close()
	dst = mustOpen(t, dst.dir, nil)
	if index, meta := dst.Meta(); dst.Incomplete() || index != 200 || dst.Applied() != 200 || string(meta) != "after" {
		t.Fatal(dst.Incomplete(), index, string(meta))
	}
	mustEqual(t, dst, m)
	if err := dst.checkInvariants(); err != nil {
		t.Fatal(err)
	}
	infos, _ := src.Chunks(nil, 1000)
	theirs, _ := dst.Chunks(nil, 1000)
	if len(infos) == 0 || fmt.Sprint(infos) != fmt.Sprint(theirs) {
		t.Fatal("listings differ")
	}
	for _, c := range infos {
		a, _, err := src.ChunkHash(c.ChunkID)
		b, _, err2 := dst.ChunkHash(c.ChunkID)
		if err != nil || err2 != nil || a != b {
			t.Fatal("hashes differ", err, err2)
		}
	}
}

// TestCopiedThenRedone: a copy ends at 10 with chunks as of 20, the redo from 10 on begins to change them back, and the process dies; or another catch-up
// begins, and it dies then. The chunks' last indices do not say any more that they are as of 20.
func TestCopiedThenRedone(t *testing.T) {
	for _, again := range []bool{false, true} {
		vol := newFakeVolume(1)
		d := mustOpen(t, t.TempDir(), vol)
		put := func(d *Device, vdisk, last uint64) {
			t.Helper()
			in := blockstore.ChunkData{Present: []byte{1, 0}, Data: bytes.Repeat([]byte{7}, blockSize)}
			in.ChunkID, in.LastIndex = chunkOf(vdisk, 0), last
			if err := d.PutChunk(in); err != nil {
				t.Fatal(err)
			}
		}
		lasts := func(d *Device) (list []uint64) {
			t.Helper()
			infos, err := d.Chunks(nil, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				list = append(list, info.LastIndex)
			}
			return list
		}
		put(d, 5, 20)
		put(d, 6, 9)
		if err := d.ResetTo(10, nil); err != nil {
			t.Fatal(err)
		}
		if got := lasts(d); !slices.Equal(got, []uint64{20, 9}) {
			t.Errorf("after the copy: last indices %v", got)
		}
		d.EndRedo()
		if err := d.Apply(11, part(5, 0, 0, "old")); err != nil {
			t.Fatal(err)
		}
		if again {
			put(d, 7, 21)
		}
		vol.mu.Lock()
		vol.err, vol.fail, vol.crash = errCrash, vol.ops+1, true
		vol.mu.Unlock()
		d.Close()
		vol.processDeath()
		d = mustOpen(t, d.dir, vol)
		if got := lasts(d); again != d.Incomplete() || len(got) < 2 || got[0] == 20 || got[1] != 9 {
			t.Errorf("after the death (again %v): last indices %v, incomplete %v", again, got, d.Incomplete())
		}
		if again {
			continue
		}
		for i := uint64(11); i <= 20; i++ {
			if err := d.Apply(i, part(5, 0, 0, "old")); err != nil {
				t.Fatal(err)
			}
		}
		if got := lasts(d); !slices.Equal(got, []uint64{20, 9}) {
			t.Errorf("after the redo: last indices %v", got)
		}
	}
}

// TestCatchUpAfterApplies: a catch-up that dies goes on by the chunks' last indices. So what was applied just before it began must be on the disk with them.
func TestCatchUpAfterApplies(t *testing.T) {
	vol := newFakeVolume(1)
	d := mustOpen(t, t.TempDir(), vol)
	mustApply(t, d, whole(5, 0, 1, 1), whole(5, 256, 8, 1))
	mustCheckpoint(t, d, "")
	mustApply(t, d, part(5, 0, 9, "late"), whole(5, 256, 8, 2)) // the second is gathered
	want, _ := mustRead(t, d, 5, 0, 1)
	for i := range uint64(putsPerCommit) {
		in := blockstore.ChunkData{Present: []byte{1, 0}, Data: make([]byte, blockSize)}
		in.ChunkID, in.LastIndex = chunkOf(100+i, 0), 4
		if err := d.PutChunk(in); err != nil {
			t.Fatal(err)
		}
	}
	vol.mu.Lock()
	vol.err, vol.fail, vol.crash = errCrash, vol.ops+1, true // it dies
	vol.mu.Unlock()
	d.Close()
	vol.processDeath()
	d = mustOpen(t, d.dir, vol)
	infos, err := d.Chunks(nil, 2)
	if err != nil || len(infos) != 2 || !d.Incomplete() {
		t.Fatal(infos, err, d.Incomplete())
	}
	if infos[0].LastIndex != 3 || infos[1].LastIndex != 4 {
		t.Fatal("nothing was made durable on the way:", infos)
	}
	if err := d.ResetTo(4, nil); err != nil { // they are taken for the same as the source's
		t.Fatal(err)
	}
	if dst, bad := mustRead(t, d, 5, 0, 1); len(bad) != 0 || !bytes.Equal(dst, want) {
		t.Errorf("a block is as it was before its last change: bad %v", bad)
	}
	if dst, bad := mustRead(t, d, 5, 256, 8); len(bad) != 0 || dst[0] != 2 {
		t.Errorf("a run is as it was before its last change: bad %v", bad)
	}
}

// TestReadersSeeWholeBlocks reads while blocks, runs, trims and reuse of windows go on: each block read has one byte
// throughout, and that of one of its versions; never a bad sum.
func TestReadersSeeWholeBlocks(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			dst, present := make([]byte, 80*blockSize), make([]byte, 10)
			for n := uint64(r); !stop.Load(); n++ {
				span := wal.Span{VDisk: n % 3, Block: 8, Count: 80}
				bad, err := d.Read(span, dst, present)
				if err != nil || len(bad) > 0 {
					t.Error(bad, err)
					return
				}
				for i := 0; i < len(dst); i += blockSize {
					b := dst[i : i+blockSize]
					if bytes.Count(b, b[:1]) != blockSize {
						t.Error("torn block")
						return
					}
				}
				if _, _, err := d.ScrubNext(nil, 3); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		v := rnd.Uint64N(3)
		switch rnd.IntN(4) {
		case 0:
			mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: v, Block: rnd.Uint64N(20), Count: 1 << rnd.IntN(40)}}})
		case 1:
			mustApply(t, d, whole(v, 8+rnd.Uint64N(70), 1, byte(i)))
		default:
			mustApply(t, d, whole(v, 10, 70, byte(i)))
		}
		if i%10 == 0 { // finished beside the Applies
			_, finish, err := d.Checkpoint(nil)
			if errors.Is(err, errors.KindBusy) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := finish(); err != nil && !errors.Is(err, errors.KindInvalid) {
					t.Error(err)
				}
			}()
		}
	}
	stop.Store(true)
	wg.Wait()
}

// TestHugeTrim trims 2^52 blocks of a vdisk with a few chunks, and of one with none.
func TestHugeTrim(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	for i := range uint64(50) {
		mustApply(t, d, whole(1, i*1_000_000, 1, 1))
		if i == 25 {
			mustCheckpoint(t, d, "")
		}
	}
	mustApply(t, d, whole(2, 0, 1, 2))
	mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 1, Block: 1_000_000, Count: 1 << 52}, {VDisk: 9, Count: 1 << 52}}})
	infos, err := d.Chunks(nil, 100)
	if err != nil || len(infos) != 2 || infos[0].VDisk != 1 || infos[0].Chunk != 0 || infos[1].VDisk != 2 {
		t.Fatal(infos, err)
	}
}

func mustUse(t *testing.T, d *Device) blockstore.DeviceUsage {
	t.Helper()
	u, err := d.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestSpaceComesBack checks that trims give the host its space, but for a spare window, which a reopening gives back.
func TestSpaceComesBack(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	mustApply(t, d, whole(1, 256, 256, 1), whole(1, 512, 256, 1))
	mustCheckpoint(t, d, "")
	full := mustUse(t, d)
	if full.Used < 2<<20 || full.Free == 0 || full.ScratchMax == 0 {
		t.Fatalf("%+v", full)
	}
	mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 1, Block: 256, Count: 255}, {VDisk: 1, Block: 512, Count: 256}}})
	mustCheckpoint(t, d, "")
	if u := mustUse(t, d); u.Used > full.Used-250*blockSize {
		t.Fatalf("%d of %d bytes still used", u.Used, full.Used)
	}
	mustApply(t, d, whole(1, 768, 256, 1)) // not in a checkpoint: belongs to nobody after a restart
	d.Close()
	d = mustOpen(t, d.dir, nil)
	if u := mustUse(t, d); u.Used > full.Used-500*blockSize {
		t.Fatalf("%d of %d bytes still used after a restart", u.Used, full.Used)
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, rec := range []*wal.Record{
		{Trims: []wal.Span{{Block: 5, Count: ^uint64(0)}}},
		{Zeros: []wal.Span{{Block: 5, Count: ^uint64(0)}}},
		{Ranges: []wal.Range{{Off: 1, Data: make([]byte, blockSize)}}},
		{Ranges: []wal.Range{{Off: ^uint32(0), Data: make([]byte, 1)}}},
		{Ranges: []wal.Range{{}}},
	} {
		d := mustOpen(t, t.TempDir(), nil)
		wantKind(t, d.Apply(1, rec), errors.KindInvalid)
	}
	d := mustOpen(t, t.TempDir(), nil)
	d.Advance(5)
	wantKind(t, d.Apply(5, &wal.Record{}), errors.KindInvalid)
}

func TestCacheBounded(t *testing.T) {
	d := mustOpen(t, t.TempDir(), nil)
	for i := range uint64(200) {
		mustApply(t, d, whole(i, 0, 1, 1))
	}
	if n := len(d.cache.m); n > d.cache.max+1 {
		t.Fatalf("%d chunks in a cache of %d", n, d.cache.max)
	}
}

// TestForeignMap puts another device's map in the place of this one's, and one that gives a window to two chunks.
func TestForeignMap(t *testing.T) {
	a, b := mustOpen(t, t.TempDir(), nil), mustOpen(t, t.TempDir(), nil)
	mustApply(t, b, whole(1, 0, 1, 1))
	dl := newDelta()
	e := entry{win: makeWindow(small, 0), last: 1, present: 1}
	dl.set(chunkOf(1, 0), e)
	dl.set(chunkOf(2, 0), e)
	if err := b.store.commit(dl, mapState{deviceID: b.deviceID}); err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Close()
	_, err := Open(b.dir, testOptions(nil))
	wantKind(t, err, errors.KindCorrupt, "another chunk")
	if err := os.Rename(filepath.Join(b.dir, mapName), filepath.Join(a.dir, mapName)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(a.dir, testOptions(nil))
	wantKind(t, err, errors.KindForeign, mapName)
}
