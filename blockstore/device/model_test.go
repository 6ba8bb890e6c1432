package device

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"testing"

	"dfs/wal"
)

// model is the simplest device: a map of present blocks, and what changed each chunk last.
type model struct {
	blocks map[wal.Addr]*[blockSize]byte
}

func newModel() *model { return &model{blocks: map[wal.Addr]*[blockSize]byte{}} }

func (m *model) apply(rec *wal.Record) {
	for _, s := range rec.Trims {
		for a := range m.blocks {
			if a.VDisk == s.VDisk && a.Block >= s.Block && a.Block-s.Block < s.Count {
				delete(m.blocks, a)
			}
		}
	}
	for _, s := range rec.Zeros {
		for i := range s.Count {
			m.blocks[wal.Addr{VDisk: s.VDisk, Block: s.Block + i}] = new([blockSize]byte)
		}
	}
	for _, r := range rec.Ranges {
		b := m.blocks[r.Addr]
		if b == nil {
			b = new([blockSize]byte)
			m.blocks[r.Addr] = b
		}
		copy(b[r.Off:], r.Data)
	}
}

// gen makes records over a few vdisks and the borders of chunks.
type gen struct{ r *rand.Rand }

var (
	genDisks  = []uint64{7, 8, 1 << 63}
	genStarts = []uint64{0, 3, 14, 16, 30, 254, 256, 300, 511, 1024, 200 * 256}
)

const genReach = 12 // blocks from a start on

// genSpans covers every block that gen can change.
var genSpans = []wal.Span{{Block: 0, Count: 50}, {Block: 250, Count: 75}, {Block: 505, Count: 30}, {Block: 1020, Count: 25}, {Block: 200*256 - 3, Count: 25}}

func (g *gen) addr() wal.Addr {
	return wal.Addr{VDisk: genDisks[g.r.IntN(len(genDisks))], Block: genStarts[g.r.IntN(len(genStarts))] + g.r.Uint64N(genReach)}
}

func (g *gen) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.r.Uint32())
	}
	return b
}

func (g *gen) record() *wal.Record {
	rec := &wal.Record{}
	if g.r.IntN(4) == 0 {
		a := g.addr()
		s := wal.Span{VDisk: a.VDisk, Block: a.Block, Count: g.r.Uint64N(20)}
		switch g.r.IntN(6) {
		case 0:
			s.Count = 1 << 52
		case 1:
			s.Block, s.Count = 0, 16+g.r.Uint64N(2)*240
		}
		rec.Trims = append(rec.Trims, s)
	}
	if g.r.IntN(8) == 0 {
		a := g.addr()
		rec.Zeros = append(rec.Zeros, wal.Span{VDisk: a.VDisk, Block: a.Block, Count: g.r.Uint64N(6)})
	}
	for range g.r.IntN(5) {
		a := g.addr()
		if g.r.IntN(3) == 0 { // a run of whole blocks
			for i := range g.r.Uint64N(5) + 1 {
				rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: a.VDisk, Block: a.Block + i}, Data: g.bytes(blockSize)})
			}
			continue
		}
		off := g.r.IntN(blockSize)
		n := 1 + g.r.IntN(min(blockSize-off, 1+g.r.IntN(2000)))
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: a, Off: uint32(off), Data: g.bytes(n)})
	}
	return rec
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testOptions(v volume) Options {
	return Options{NodeID: "n1", ClusterID: "c", Create: true, Logger: quiet(), CacheChunks: 4, volume: v, noSync: v != nil, behindMin: 2 * blockSize, lateMax: 3}
}

func mustOpen(t testing.TB, dir string, v volume) *Device {
	t.Helper()
	d, err := Open(dir, testOptions(v))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// differs compares d with m over all that gen can touch, except for blocks in skip. It returns the bad blocks.
func differs(d *Device, m *model, skip map[wal.Addr]bool) ([]BadBlock, error) {
	var all []BadBlock
	for _, v := range genDisks {
		for _, span := range genSpans {
			span.VDisk = v
			dst, present, only := bytes.Repeat([]byte{0xee}, int(span.Count*blockSize)), make([]byte, (span.Count+7)/8), make([]byte, (span.Count+7)/8)
			bad, err := d.Read(span, dst, present)
			if err != nil {
				return nil, err
			}
			if err := d.Presence(span, only); err != nil {
				return nil, err
			}
			if !bytes.Equal(present, only) {
				return nil, fmt.Errorf("Read and Presence differ about vdisk %d", v)
			}
			next, err := d.SkipAbsent(v, span.Block)
			if err != nil {
				return nil, err
			}
			for i := range span.Count {
				if span.Block+i < next && only[i/8]>>(i%8)&1 == 1 {
					return nil, fmt.Errorf("SkipAbsent goes from block %d to %d of vdisk %d, past %d", span.Block, next, v, span.Block+i)
				}
			}
			if next != math.MaxUint64 && chunkOf(v, next) != chunkOf(v, span.Block) && next != chunkFirst(chunkOf(v, next).Chunk) {
				return nil, fmt.Errorf("SkipAbsent stops within a chunk, at %d of vdisk %d", next, v)
			}
			all = append(all, bad...)
			isBad := map[uint64]bool{}
			for _, b := range bad {
				isBad[b.Block] = true
			}
			for i := range span.Count {
				a := wal.Addr{VDisk: v, Block: span.Block + i}
				if skip[a] || isBad[a.Block] {
					continue
				}
				want := m.blocks[a]
				if has := present[i/8]&(1<<(i%8)) != 0; has != (want != nil) {
					return nil, fmt.Errorf("%v: present %v, want %v", a, has, want != nil)
				}
				if want == nil {
					want = new([blockSize]byte)
				}
				if !bytes.Equal(dst[i*blockSize:(i+1)*blockSize], want[:]) {
					return nil, fmt.Errorf("%v: content differs", a)
				}
			}
		}
	}
	return all, nil
}

func mustEqual(t *testing.T, d *Device, m *model) {
	t.Helper()
	bad, err := differs(d, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(bad) > 0 {
		t.Fatalf("bad blocks: %v", bad)
	}
}

// checkInvariants checks the map against the cache and the windows in use.
func (d *Device) checkInvariants() error {
	list, err := d.list(chunkOf(0, 0), lastID, 1<<20)
	if err != nil {
		return err
	}
	owned := map[window]bool{}
	for _, l := range list {
		if owned[l.e.win] || !d.used[l.e.win.class()].has(l.e.win.number()) {
			return fmt.Errorf("window %x of %v is owned twice or free", l.e.win, l.id)
		}
		owned[l.e.win] = true
		c, err := d.lockShared(l.id)
		if err != nil {
			return err
		}
		f, at, err := d.files.sums(l.e.win)
		if err != nil {
			return err
		}
		disk := make([]byte, len(c.sums))
		if err := f.readAt(disk, at); err != nil {
			return err
		}
		for slot := range c.late.data {
			setSumAt(disk, slot, sumAt(c.sums, slot))
		}
		ok := c.entry.win == l.e.win && c.entry.last == l.e.last && bytes.Equal(disk, c.sums) && c.present == countPresent(disk)
		d.unlockShared(c)
		if !ok {
			return fmt.Errorf("chunk %v in memory is not what the disk holds", l.id)
		}
	}
	for _, w := range append(append([]window{}, d.freed...), d.freeing...) {
		if owned[w] {
			return fmt.Errorf("window %x in quarantine has an owner", w)
		}
		owned[w] = true
	}
	for c := range classes {
		n := 0
		for i := range uint64(len(d.used[c].words)) * 64 {
			if d.used[c].has(i) {
				n++
				if !owned[makeWindow(c, i)] {
					return fmt.Errorf("%v window %d is in use by nobody", c, i)
				}
			}
		}
	}
	return nil
}

// TestModel applies random records, with checkpoints and reopenings, on real files and on the fake.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var vol volume
			if seed%2 == 1 {
				vol = newFakeVolume(seed)
			}
			dir, g, m := t.TempDir(), &gen{rand.New(rand.NewPCG(seed, 2))}, newModel()
			d := mustOpen(t, dir, vol)
			var log []*wal.Record
			var finish func() error
			for step := range 400 {
				rec := g.record()
				log = append(log, rec)
				m.apply(rec)
				if err := d.Apply(uint64(len(log)), rec); err != nil {
					t.Fatal(err)
				}
				if g.r.IntN(10) == 0 && finish != nil {
					if err := finish(); err != nil {
						t.Fatal(err)
					}
					finish = nil
				}
				if g.r.IntN(20) == 0 {
					index, f, err := d.Checkpoint([]byte(fmt.Sprint(len(log))))
					if err != nil || index != uint64(len(log)) {
						t.Fatal(index, err)
					}
					finish = f
				}
				if g.r.IntN(50) == 0 {
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
					d, finish = mustOpen(t, dir, vol), nil
					index, meta := d.Meta()
					if index > 0 && string(meta) != fmt.Sprint(index) || d.Applied() != index {
						t.Fatalf("reopened at %d (applied %d) with meta %q", index, d.Applied(), meta)
					}
					for i, rec := range log[index:] {
						if err := d.Apply(index+uint64(i)+1, rec); err != nil {
							t.Fatal(err)
						}
					}
					d.EndRedo()
				}
				if step%40 == 0 {
					mustEqual(t, d, m)
					if err := d.checkInvariants(); err != nil {
						t.Fatal(err)
					}
				}
			}
			mustEqual(t, d, m)
		})
	}
}
