package device

import (
	"bytes"
	"encoding/binary"
	stderrors "errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"dfs/blockstore"
	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/internal/pagemem"
	"dfs/wal"
)

// everyCall makes one call of each kind; fill is the content that it leaves.
var everyCall = map[string]func(d *Device) error{
	"Apply": func(d *Device) error { return d.Apply(d.Applied()+1, whole(5, 16, 2, 3)) },
	"Read": func(d *Device) error {
		_, err := d.Read(wal.Span{VDisk: 5, Block: 16, Count: 4}, make([]byte, 4*blockSize), make([]byte, 1))
		return err
	},
	"Presence":   func(d *Device) error { return d.Presence(wal.Span{VDisk: 5, Block: 16, Count: 4}, make([]byte, 1)) },
	"SkipAbsent": func(d *Device) error { _, err := d.SkipAbsent(5, 0); return err },
	"Repair": func(d *Device) error {
		_, err := d.Repair(BadBlock{Addr: wal.Addr{VDisk: 5, Block: 16}, LastIndex: 1}, make([]byte, blockSize), true)
		return err
	},
	"Checkpoint": func(d *Device) error {
		_, finish, err := d.Checkpoint(nil)
		if err == nil {
			err = finish()
		}
		return err
	},
	"Chunks":    func(d *Device) error { _, err := d.Chunks(nil, 10); return err },
	"ReadChunk": func(d *Device) error { _, _, err := d.ReadChunk(chunkOf(5, 16)); return err },
	"ChunkHash": func(d *Device) error { _, _, err := d.ChunkHash(chunkOf(5, 16)); return err },
	"ScrubNext": func(d *Device) error { _, _, err := d.ScrubNext(nil, 10); return err },
	"Suspects":  func(d *Device) error { _, err := d.Suspects(10); return err },
	"Usage":     func(d *Device) error { _, err := d.Usage(); return err },
	"PutChunk": func(d *Device) error {
		return d.PutChunk(blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: chunkOf(6, 0)}, Present: []byte{1, 0}, Data: make([]byte, blockSize)})
	},
	"ResetTo": func(d *Device) error { return d.ResetTo(d.Applied()+1, nil) },
}

// TestClosed: every call of a closed device says so.
func TestClosed(t *testing.T) {
	for name, call := range everyCall {
		d := mustOpen(t, t.TempDir(), newFakeVolume(1))
		d.Close()
		if err := call(d); !errors.Is(err, errors.KindUnavailable) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s of a closed device: %v", name, err)
		}
	}
}

// TestEveryCallFails fails each I/O operation of each call in turn: the error comes back, and nothing that was wrong is taken for content. What the
// disk cannot read is damage; any other failure of a read is an error.
func TestEveryCallFails(t *testing.T) {
	errOdd := stderrors.New("an odd failure")
	for name, call := range everyCall {
		sites := 0
		for n := 1; ; n++ {
			vol := newFakeVolume(1)
			dir := t.TempDir()
			d := mustOpen(t, dir, vol)
			mustApply(t, d, whole(5, 16, 4, 9), whole(6, 0, 1, 1), whole(7, 300, 1, 1))
			mustCheckpoint(t, d, "")
			mustApply(t, d, whole(5, 19, 1, 9))
			if name == "Repair" || name == "Suspects" {
				vol.files[fileName(large, 0, "data")].pages[0][7] ^= 1
				d.suspects.add(chunkOf(5, 16), 0, 1)
			}
			d.Close()
			d = mustOpen(t, dir, vol) // nothing is in memory
			d.store = &faultMap{d.store, vol}
			vol.reads, vol.err, vol.ops, vol.fail = true, errOdd, 0, n
			err := call(d)
			if vol.site == "" {
				if err != nil {
					t.Errorf("%s fails by itself: %v", name, err)
				}
				break
			}
			sites++
			if err == nil {
				vol.fail = 0
				_, _, err = d.Checkpoint(nil) // of what was on its way
			}
			if !stderrors.Is(err, errOdd) {
				t.Errorf("%s with operation %d (%s) failed: %v", name, n, vol.site, err)
			}
		}
		if sites == 0 && name != "SkipAbsent" && name != "Chunks" && name != "Usage" && name != "Suspects" {
			t.Errorf("%s made no I/O", name)
		}
	}
}

// TestRefused lists the arguments and options that cannot be.
func TestRefused(t *testing.T) {
	d := mustOpen(t, t.TempDir(), newFakeVolume(1))
	far := blockstore.ChunkID{VDisk: 1, Chunk: chunkMax + 1}
	block, bit := make([]byte, blockSize), make([]byte, 1)
	for name, err := range map[string]error{
		"a read beyond the last block": second(d.Read(wal.Span{Block: 1<<64 - 1, Count: 2}, make([]byte, 2*blockSize), bit)),
		"presence that does not fit":   d.Presence(wal.Span{Count: 9}, bit),
		"too much presence":            d.Presence(wal.Span{Count: PresenceMax + 1}, make([]byte, PresenceMax)),
		"a read into half a block":     second(d.Read(wal.Span{Count: 1}, make([]byte, blockSize+1), bit)),
		"no such chunk":                third(d.ReadChunk(far)),
		"putting no such chunk":        d.PutChunk(blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: far}}),
		"a chunk with less data":       d.PutChunk(blockstore.ChunkData{Present: []byte{3, 0}, Data: block}),
		"half a block of repair":       second(d.Repair(BadBlock{}, block[:100], true)),
		"no node id":                   (&Options{ClusterID: "c", Logger: quiet()}).Validate(),
		"a node id too long":           (&Options{NodeID: strings.Repeat("x", headerIDMax+1), ClusterID: "c", Logger: quiet()}).Validate(),
		"no logger":                    (&Options{NodeID: "n", ClusterID: "c"}).Validate(),
		"a negative cache":             (&Options{NodeID: "n", ClusterID: "c", Logger: slog.Default(), CacheChunks: -1}).Validate(),
	} {
		if !errors.Is(err, errors.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Apply(1, whole(1, 0, 1, 1)); err != nil {
		t.Error("after all of that:", err)
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// TestHeaderDamage: a header whose checksum fits and that makes no sense all the same.
func TestHeaderDamage(t *testing.T) {
	good := (&header{nodeID: "n1", clusterID: "c"}).encode()
	resum := func(b []byte) []byte {
		return append(binary.LittleEndian.AppendUint32(bytes.Clone(b[:12]), crc.Checksum(b[16:])), b[16:]...)
	}
	zero := bytes.Clone(good)
	clear(zero[8:12])
	long := resum(append(bytes.Clone(good), 1, 2, 3))
	short := resum(good[:headerFixed+1])
	huge := bytes.Clone(good)
	huge[headerFixed], huge[headerFixed+1] = 0xff, 0xff
	for name, b := range map[string][]byte{"version 0": zero, "bytes too many": long, "cut off": short, "a huge id": resum(huge)} {
		if _, err := decodeHeader(b); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeHeader(good); err != nil {
		t.Error(err)
	}
}

// TestHostErrors: what the host says of a file comes back with the file's name.
func TestHostErrors(t *testing.T) {
	v := &osVolume{dir: t.TempDir() + "/none", direct: true}
	if _, err := v.free(); !stderrors.Is(err, syscall.ENOENT) {
		t.Error("free of nothing:", err)
	}
	if _, err := v.open("f", true); !stderrors.Is(err, syscall.ENOENT) {
		t.Error("open in nothing:", err)
	}
	v.dir = t.TempDir()
	f, err := v.open("f", true)
	if err != nil {
		t.Fatal(err)
	}
	of := f.(*osFile)
	_ = f.close()
	for name, err := range map[string]error{
		"read": f.readAt(make([]byte, 10), 0), "write": f.writeAt([][]byte{{1}}, 0), "vector": f.writeAt([][]byte{{1}, {2}}, 0), "long": f.writeLong(pagemem.Make(blockSize), 0),
		"punch": f.punch(0, 10), "size": second(f.size()), "grow": f.grow(10), "sync": f.sync(), "used": second(f.used()), "medium": of.readMedium(pagemem.Make(blockSize), 0),
		"close": f.close(),
	} {
		if err == nil {
			t.Errorf("%s of a closed file succeeds", name)
		}
	}
}

// TestMissingFiles: a data file that is gone under a running device is an error of every call that needs it, not content.
func TestMissingFiles(t *testing.T) {
	part := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 5, Block: 17}, Off: 3, Data: []byte{1}}}}
	calls := map[string]func(d *Device) error{
		"Apply of a part": func(d *Device) error { return d.Apply(d.Applied()+1, part) },
		"Apply of a run":  func(d *Device) error { return d.Apply(d.Applied()+1, whole(5, 16, 4, 4)) },
		"Apply of a trim": func(d *Device) error {
			return d.Apply(d.Applied()+1, &wal.Record{Trims: []wal.Span{{VDisk: 5, Block: 16, Count: 1}}})
		},
		"Apply of zeros": func(d *Device) error {
			return d.Apply(d.Applied()+1, &wal.Record{Zeros: []wal.Span{{VDisk: 5, Block: 16, Count: 1}}})
		},
		"PutChunk": func(d *Device) error {
			return d.PutChunk(blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: chunkOf(5, 16)}, Present: append([]byte{1}, make([]byte, 29)...), Data: make([]byte, blockSize)})
		},
	}
	for _, name := range []string{"Read", "Repair", "ReadChunk", "ChunkHash", "ScrubNext"} {
		calls[name] = everyCall[name]
	}
	for name, call := range calls {
		for _, loaded := range []bool{false, true} {
			vol := newFakeVolume(1)
			dir := t.TempDir()
			d := mustOpen(t, dir, vol)
			mustApply(t, d, whole(5, 16, 4, 9))
			mustCheckpoint(t, d, "")
			if !loaded {
				d.Close()
				d = mustOpen(t, dir, vol)
			}
			d.files.pairs[large] = nil
			if err := call(d); !errors.Is(err, errors.KindCorrupt) || !strings.Contains(err.Error(), "large.0000.data is missing") {
				t.Errorf("%s (in memory: %v): %v", name, loaded, err)
			}
		}
	}
}

// TestMapDamage: entries of the chunk map that cannot be are told, with what to do.
func TestMapDamage(t *testing.T) {
	key := mapKey(blockstore.ChunkID{VDisk: 1, Chunk: 3})
	if _, _, err := decodeEntry(key, encodeEntry(key, entry{win: makeWindow(small, 1)})); !errors.Is(err, errors.KindCorrupt) {
		t.Error("a large chunk in a small window:", err)
	}
	good := encodeState(mapState{index: 7})
	good[0] ^= 1
	if _, err := decodeState(good); !errors.Is(err, errors.KindCorrupt) {
		t.Error("a state with a flipped bit:", err)
	}
	d := mustOpen(t, t.TempDir(), newFakeVolume(1))
	if err := d.markUsed(makeWindow(small, windowMax), "x"); !errors.Is(err, errors.KindCorrupt) {
		t.Error("a window beyond all:", err)
	}
}
