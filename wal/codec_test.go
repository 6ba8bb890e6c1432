package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fill returns n bytes that differ by seed.
func fill(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7)
	}
	return b
}

func sampleRecord() *Record {
	return &Record{
		Trims:      []Span{{VDisk: 17, Block: 3, Count: 9}, {VDisk: 1 << 40, Block: 0, Count: BlocksMax}},
		Zeros:      []Span{{VDisk: 17, Block: 4, Count: 2}},
		AllocDelta: -6,
		Ranges: []Range{
			{Addr: Addr{VDisk: 2, Block: 300}, Off: 16, Data: fill(24, 1)},
			{Addr: Addr{VDisk: 17, Block: 4}, Off: 4000, Data: fill(96, 2)},
			{Addr: Addr{VDisk: 17, Block: 5}, Off: 0, Data: fill(10, 3)},
			{Addr: Addr{VDisk: 17, Block: 5}, Off: 10, Data: fill(5, 4)},
			{Addr: Addr{VDisk: 17, Block: 5}, Off: 5, Data: fill(5, 5)},
		},
	}
}

// decode fails the test if b is no record, or a whole block comes without its sum or with a wrong one.
func decode(t testing.TB, b []byte) *Record {
	t.Helper()
	r, err := DecodeRecord(b)
	if err != nil {
		t.Fatalf("DecodeRecord: %v", err)
	}
	for i, g := range r.Ranges {
		if want := crc.Checksum(g.Data); len(g.Data) == BlockSize && g.Sum != want || len(g.Data) != BlockSize && g.Sum != 0 {
			t.Fatalf("range %d of %d bytes comes with the sum %08x, its own is %08x", i, len(g.Data), g.Sum, want)
		}
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	r := sampleRecord()
	b := r.AppendTo([]byte("before"))
	if string(b[:6]) != "before" {
		t.Fatal("AppendTo changed what was there")
	}
	b = b[6:]
	if len(b) != r.EncodedSize() {
		t.Fatalf("EncodedSize %d, encoded %d bytes", r.EncodedSize(), len(b))
	}
	got := decode(t, b)
	// The three ranges from 17/4/4000 to 17/5/14 were two blocks' worth of one extent.
	want := sampleRecord()
	want.Ranges[2].Data = append(want.Ranges[2].Data, want.Ranges[3].Data...)
	want.Ranges = append(want.Ranges[:3], want.Ranges[4])
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
	if again := got.AppendTo(nil); !bytes.Equal(again, b) {
		t.Fatal("encoding a decoded record gives other bytes")
	}
	empty := (&Record{}).AppendTo(nil)
	if got := decode(t, empty); !reflect.DeepEqual(got, &Record{}) || len(empty) != recordHeaderLen {
		t.Fatalf("empty record: %+v in %d bytes", got, len(empty))
	}
}

func TestRecordWholeBlocksAreCheap(t *testing.T) {
	r := &Record{}
	data := fill(127*BlockSize, 9)
	for i := range 127 {
		r.Ranges = append(r.Ranges, Range{Addr: Addr{VDisk: 5, Block: uint64(1000 + i)}, Data: data[i*BlockSize:][:BlockSize]})
	}
	b := r.AppendTo(nil)
	if over := len(b) - len(data); over > 48 {
		t.Fatalf("127 whole blocks cost %d bytes of headers", over)
	}
	got := decode(t, b)
	for i := range r.Ranges {
		r.Ranges[i].Sum = crc.Checksum(r.Ranges[i].Data)
	}
	if !reflect.DeepEqual(got.Ranges, r.Ranges) {
		t.Fatal("ranges differ")
	}
	if allocs := testing.AllocsPerRun(10, func() { _, _ = DecodeRecord(b) }); allocs > 3 {
		t.Fatalf("decoding takes %v allocations", allocs)
	}
	b[len(b)-1] ^= 1
	if &got.Ranges[126].Data[BlockSize-1] != &b[len(b)-1] {
		t.Fatal("decoded data does not alias the input")
	}
}

// reseal makes the checksum of a tampered record right, so that the checks behind it are reached.
func reseal(b []byte) []byte {
	if len(b) >= recordHeaderLen {
		binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[8:], crc.Checksum(b[12:]))
	}
	return b
}

func TestDecodeRecordRefuses(t *testing.T) {
	good := sampleRecord().AppendTo(nil)
	one := func(r Range) []byte { return (&Record{Ranges: []Range{r}}).AppendTo(nil) }
	tests := []struct {
		name string
		kind errors.Kind
		make func(b []byte) []byte
	}{
		{"nothing", errors.KindForeign, func(b []byte) []byte { return nil }},
		{"magic", errors.KindForeign, func(b []byte) []byte { b[0]++; return b }},
		{"newer", errors.KindTooNew, func(b []byte) []byte { b[4] = 2; return b }},
		{"version 0", errors.KindCorrupt, func(b []byte) []byte { b[4] = 0; return b }},
		{"reserved", errors.KindCorrupt, func(b []byte) []byte { b[6] = 1; return b }},
		{"checksum", errors.KindCorrupt, func(b []byte) []byte { b[8]++; return b }},
		{"body", errors.KindCorrupt, func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"short", errors.KindCorrupt, func(b []byte) []byte { return b[:len(b)-1] }},
		{"shorter than a header", errors.KindCorrupt, func(b []byte) []byte { return b[:20] }},
		{"trailing", errors.KindCorrupt, func(b []byte) []byte { return append(b, 0) }},
		{"trailing, sealed", errors.KindCorrupt, func(b []byte) []byte { return reseal(append(b, 0)) }},
		{"more extents", errors.KindCorrupt, func(b []byte) []byte { b[27] = 0xff; return reseal(b) }},
		{"fewer extents", errors.KindCorrupt, func(b []byte) []byte { b[24]--; return reseal(b) }},
		{"more trims", errors.KindCorrupt, func(b []byte) []byte { b[31] = 0xff; return reseal(b) }},
		{"more zeros", errors.KindCorrupt, func(b []byte) []byte { b[32]++; return reseal(b) }},
		{"fewer zeros", errors.KindCorrupt, func(b []byte) []byte { b[32]--; return reseal(b) }},
		{"too long", errors.KindCorrupt, func(b []byte) []byte { return reseal(append(b, make([]byte, RecordBytesMax)...)) }},
		{"offset 4096", errors.KindCorrupt, func([]byte) []byte {
			return reseal(one(Range{Addr: Addr{1, 1}, Off: BlockSize, Data: fill(1, 0)}))
		}},
		{"no bytes", errors.KindCorrupt, func([]byte) []byte { return one(Range{Addr: Addr{1, 1}}) }},
		{"block", errors.KindCorrupt, func([]byte) []byte { return one(Range{Addr: Addr{1, BlocksMax}, Data: fill(1, 0)}) }},
		{"beyond the vdisk", errors.KindCorrupt, func([]byte) []byte {
			return (&Record{Ranges: []Range{{Addr: Addr{1, BlocksMax - 1}, Data: fill(BlockSize, 0)}, {Addr: Addr{1, BlocksMax}, Data: fill(1, 0)}}}).AppendTo(nil)
		}},
		{"empty span", errors.KindCorrupt, func([]byte) []byte { return (&Record{Trims: []Span{{1, 2, 0}}}).AppendTo(nil) }},
		{"span beyond", errors.KindCorrupt, func([]byte) []byte { return (&Record{Zeros: []Span{{1, 2, BlocksMax}}}).AppendTo(nil) }},
		{"long uvarint", errors.KindCorrupt, func([]byte) []byte {
			b := (&Record{}).AppendTo(nil)
			b[28] = 1
			return reseal(append(b, 1, 2, 0x81, 0))
		}},
	}
	for _, tt := range tests {
		if _, err := DecodeRecord(tt.make(bytes.Clone(good))); !errors.Is(err, tt.kind) {
			t.Errorf("%s: error %v, want kind %d", tt.name, err, tt.kind)
		}
	}
}

// TestDecodeRecordEveryBit: no flipped bit goes unseen, wherever it is.
func TestDecodeRecordEveryBit(t *testing.T) {
	good := sampleRecord().AppendTo(nil)
	for i := range len(good) * 8 {
		good[i/8] ^= 1 << (i % 8)
		if _, err := DecodeRecord(good); err == nil {
			t.Fatalf("bit %d flipped, no error", i)
		}
		good[i/8] ^= 1 << (i % 8)
	}
}

func TestValidate(t *testing.T) {
	bad := []Record{
		{Ranges: []Range{{Addr: Addr{1, 1}}}},
		{Ranges: []Range{{Addr: Addr{1, 1}, Off: 4095, Data: fill(2, 0)}}},
		{Ranges: []Range{{Addr: Addr{1, 1}, Off: 1<<32 - 1, Data: fill(2, 0)}}},
		{Ranges: []Range{{Addr: Addr{1, BlocksMax}, Data: fill(2, 0)}}},
		{Trims: []Span{{1, 1, 0}}},
		{Zeros: []Span{{1, 1, BlocksMax}}},
	}
	for i := range bad {
		if err := bad[i].Validate(); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	big := Record{}
	for i := range 128 {
		big.Ranges = append(big.Ranges, Range{Addr: Addr{1, uint64(i)}, Data: fill(BlockSize, 0)})
	}
	if err := big.Validate(); !errors.Is(err, errors.KindTooBig) {
		t.Errorf("128 blocks: %v", err)
	}
	if err := sampleRecord().Validate(); err != nil {
		t.Error(err)
	}
}

// golden compares b with the file, as hex, so that a change of format cannot go unseen.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != strings.TrimSpace(hex.Dump(b)) {
		t.Errorf("%s: the format changed; raise its version.\ngot\n%s", name, hex.Dump(b))
	}
}

func TestRecordGolden(t *testing.T) {
	golden(t, "record-v1.hex", sampleRecord().AppendTo(nil))
}

func randomRecord(r *rand.Rand) *Record {
	rec := &Record{AllocDelta: int64(r.Uint64())}
	for range r.IntN(6) {
		rec.Trims = append(rec.Trims, Span{r.Uint64() >> r.IntN(64), uint64(r.IntN(1 << 30)), 1 + uint64(r.IntN(1<<20))})
	}
	for range r.IntN(6) {
		rec.Zeros = append(rec.Zeros, Span{r.Uint64() >> r.IntN(64), uint64(r.IntN(1 << 30)), 1 + uint64(r.IntN(1<<20))})
	}
	at := Addr{3, 7}
	for range r.IntN(20) {
		off := r.IntN(BlockSize)
		n := 1 + r.IntN(BlockSize-off)
		if r.IntN(2) == 0 {
			off, n = 0, BlockSize
		}
		rec.Ranges = append(rec.Ranges, Range{Addr: at, Off: uint32(off), Data: fill(n, byte(r.Uint32()))})
		at = Addr{r.Uint64() >> r.IntN(64), r.Uint64() % BlocksMax}
		if r.IntN(3) > 0 {
			at = rec.Ranges[len(rec.Ranges)-1].Addr
			at.Block = (at.Block + 1) % BlocksMax
		}
	}
	return rec
}

func TestRecordRandomRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		rec := randomRecord(r)
		b := rec.AppendTo(nil)
		if len(b) != rec.EncodedSize() {
			t.Fatalf("%d: EncodedSize %d, encoded %d", i, rec.EncodedSize(), len(b))
		}
		got := decode(t, b)
		if again := got.AppendTo(nil); !bytes.Equal(again, b) {
			t.Fatalf("%d: encode(decode(b)) != b", i)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(sampleRecord().AppendTo(nil))
	f.Add((&Record{}).AppendTo(nil))
	f.Add([]byte("dfsR\x02\x00"))
	r := rand.New(rand.NewPCG(3, 4))
	for range 8 {
		f.Add(randomRecord(r).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodeRecord(b)
		rec, err := DecodeRecord(reseal(bytes.Clone(b)))
		if err != nil {
			return
		}
		if err := rec.Validate(); err != nil && !errors.Is(err, errors.KindTooBig) {
			t.Fatalf("decoded an invalid record: %v", err)
		}
		again, err := DecodeRecord(rec.AppendTo(nil))
		if err != nil || !reflect.DeepEqual(again.Trims, rec.Trims) || !reflect.DeepEqual(again.Zeros, rec.Zeros) || again.AllocDelta != rec.AllocDelta {
			t.Fatalf("decode(encode(r)) differs: %v", err)
		}
	})
}
