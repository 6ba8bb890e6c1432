package layout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/internal/errors"
	"dfs/wal"
)

// sampleInode has every field set.
func sampleInode() *Inode {
	return &Inode{
		Ino: 0x1234, Mode: syscall.S_IFREG | 0o4755, UID: 1000, GID: 1001, Nlink: 3, Rdev: 0, Flags: FlagInline | FlagTruncating,
		Size: 11, Blocks: 2, Atime: Time{1, 2}, Mtime: Time{3, 4}, Ctime: Time{-5, 999999999}, Btime: Time{7, 8},
		Change: 99, TrimFrom: 5, Inline: []byte("hello world"),
		xattrBytes: makeXattr("user.a", []byte("value"), -1),
	}
}

func TestInodeRoundTrip(t *testing.T) {
	dir := newDirInode()
	if err := OpenDir(dir, nil).Insert("name", 99, syscall.S_IFREG); err != nil {
		t.Fatal(err)
	}
	hashed := newDirInode()
	d := OpenDir(hashed, newMem(t))
	for i := range 500 {
		if err := d.Insert(fmt.Sprint(i), 99, syscall.S_IFREG); err != nil {
			t.Fatal(err)
		}
	}
	dev := &Inode{Ino: 20, Mode: syscall.S_IFBLK | 0o600, Nlink: 1, Rdev: 0x801}
	dying := []*Inode{newDirInode(), sampleInode(), {Ino: 9, Mode: syscall.S_IFLNK | 0o777}}
	for _, in := range dying { // being freed in steps
		in.Nlink, in.Size, in.Flags, in.TrimFrom = 0, 0, in.Flags|FlagOrphan|FlagTruncating, 0
	}
	for _, in := range append(dying, sampleInode(), dir, hashed, dev) {
		block := bytes.Repeat([]byte{0xaa}, BlockSize) // EncodeInto writes every byte
		in.EncodeInto(block)
		got, err := DecodeInode(in.Ino, block)
		if err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("%+v\n%+v\n%v", in, got, err)
		}
	}
	golden(t, "inode-file.golden", sampleInode().Encode())
	golden(t, "inode-dir.golden", dir.Encode())
}

func TestInodeDecodeErrors(t *testing.T) {
	file, dir := sampleInode().Encode(), newDirInode().Encode()
	cases := []struct {
		name string
		base []byte
		off  int
		to   []byte
		want errors.Kind
	}{
		{"magic", file, 0, []byte("X"), errors.KindForeign},
		{"version", file, 4, []byte{2}, errors.KindTooNew},
		{"version 0", file, 4, []byte{0}, errors.KindCorrupt},
		{"flags", file, 7, []byte{1}, errors.KindTooNew},
		{"another's", file, 8, []byte{1}, errors.KindCorrupt},
		{"type", file, 16, []byte{0, 0}, errors.KindCorrupt},
		{"mode bits", file, 18, []byte{1}, errors.KindCorrupt},
		{"nlink", file, 31, []byte{0xff}, errors.KindCorrupt},
		{"size", file, 32, []byte{12}, errors.KindCorrupt},
		{"size huge", file, 39, []byte{0x20}, errors.KindCorrupt},
		{"inline length", file, 52, []byte{0xff, 0xff}, errors.KindCorrupt},
		{"xattr length", file, 54, []byte{0xff, 0x0f}, errors.KindCorrupt},
		{"ns", file, 91, []byte{0xff}, errors.KindCorrupt},
		{"reserved", file, 200, []byte{1}, errors.KindCorrupt},
		{"dir header in a file", file, 136, []byte{1}, errors.KindCorrupt},
		{"xattr", file, BlockSize - 19, []byte{0}, errors.KindCorrupt},
		{"no trim flag", file, 6, []byte{1}, errors.KindCorrupt},
		{"trim mark", file, 127, []byte{1}, errors.KindCorrupt},
		{"dir parent", dir, 112, []byte{0}, errors.KindCorrupt},
		{"dir entries", dir, 144, []byte{1}, errors.KindCorrupt},
		{"dir buckets", dir, 136, []byte{1}, errors.KindCorrupt},
		{"dir not inline", dir, 6, []byte{0}, errors.KindCorrupt},
		{"dir size", dir, 32, []byte{1}, errors.KindCorrupt},
		{"dir inline", dir, 52, []byte{24}, errors.KindCorrupt},
	}
	for _, c := range cases {
		b := bytes.Clone(c.base)
		copy(b[c.off:], c.to)
		if _, err := DecodeInode(binary.LittleEndian.Uint64(c.base[8:]), b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := DecodeInode(5, make([]byte, BlockSize)); !errors.Is(err, errors.KindNotExist) {
		t.Errorf("free inode: %v", err)
	}
	if _, err := DecodeInode(5, file[:100]); !errors.Is(err, errors.KindCorrupt) {
		t.Errorf("short: %v", err)
	}
}

func FuzzInode(f *testing.F) {
	f.Add(sampleInode().Encode())
	f.Add(newDirInode().Encode())
	link := &Inode{Ino: 0x1234, Mode: syscall.S_IFLNK | 0o777, Nlink: 1, Flags: FlagInline, Size: 1, Inline: []byte("x")}
	f.Add(link.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 16 {
			return
		}
		b = append(b, make([]byte, BlockSize)...)[:BlockSize]
		ino := binary.LittleEndian.Uint64(b[8:])
		in, err := DecodeInode(ino, b)
		if err != nil {
			return
		}
		again, err := DecodeInode(ino, in.Encode())
		if err != nil || !reflect.DeepEqual(in, again) {
			t.Fatalf("%+v\n%+v\n%v", in, again, err)
		}
		for _, n := range in.XattrNames() {
			if _, err := in.XattrGet(newMem(t), n); err != nil {
				t.Fatal(err)
			}
		}
		_ = in.XattrSet(newMem(t), "user.fuzz", []byte("v"), 0)
		if in.IsDir() && in.Flags&FlagInline != 0 {
			if err := OpenDir(in, nil).Iterate(0, func(Entry) bool { return true }); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAddr(t *testing.T) {
	for _, ino := range []uint64{1, 16, 1<<40 - 1, 1 << 40, 1<<40 + 5, MaxIno} {
		a := InodeAddr(ino)
		back, ok := InodeAt(a)
		if !ok || back != ino || KindOfVDisk(a.VDisk) != VDiskTable || KindOfVDisk(ino) != VDiskInode {
			t.Errorf("%d: %+v, %d %v", ino, a, back, ok)
		}
	}
	if a := OrphanAddr(7, 1); KindOfVDisk(a.VDisk) != VDiskOrphans || WriterOf(a.VDisk) != 7 {
		t.Errorf("%+v", a)
	}
	for _, v := range []uint64{0, 1<<61 + 1, 3 << 61, 1<<64 - 1} {
		if k := KindOfVDisk(v); k != VDiskUnknown {
			t.Errorf("%x is of kind %d", v, k)
		}
	}
	if _, ok := InodeAt(wal.Addr{VDisk: TableVDiskBit}); ok {
		t.Error("inode 0 has a place")
	}
	if InodeAddr(1<<40+5) != (wal.Addr{VDisk: 1<<63 | 1, Block: 5}) {
		t.Errorf("%+v", InodeAddr(1<<40+5))
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(1960, 1, 2, 3, 4, 5, 6, time.UTC)
	if got := TimeOf(now).Time(); !got.Equal(now) {
		t.Error(got)
	}
	for _, c := range [][3]Time{
		{{5, 5}, {5, 6}, {5, 6}}, {{5, 5}, {5, 5}, {5, 6}}, {{5, 5}, {4, 9}, {5, 6}}, {{5, 999999999}, {5, 0}, {6, 0}},
	} {
		if got := Later(c[0], c[1]); got != c[2] {
			t.Errorf("after %v at %v: %v", c[0], c[1], got)
		}
	}
}

// TestDiffRanges: the ranges make old into new, and are few and small.
func TestDiffRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	a := wal.Addr{VDisk: 3, Block: 4}
	for range 2000 {
		old := make([]byte, BlockSize)
		for i := range old {
			old[i] = byte(r.IntN(3))
		}
		now := bytes.Clone(old)
		changes := r.IntN(10)
		for range changes {
			off := r.IntN(BlockSize)
			for i := off; i < min(BlockSize, off+r.IntN(60)); i++ {
				now[i] = byte(r.IntN(3))
			}
		}
		base := old
		if r.IntN(4) == 0 {
			base, old = make([]byte, BlockSize), nil
		}
		got := bytes.Clone(base)
		end := -1
		for _, rg := range DiffRanges(a, old, now) {
			if rg.Addr != a || len(rg.Data) == 0 || int(rg.Off) <= end {
				t.Fatalf("range %d+%d after %d", rg.Off, len(rg.Data), end)
			}
			if int(rg.Off)-end <= diffGap && end >= 0 {
				t.Fatalf("ranges %d apart were not merged", int(rg.Off)-end)
			}
			end = int(rg.Off) + len(rg.Data)
			copy(got[rg.Off:], rg.Data)
		}
		if !bytes.Equal(got, now) {
			t.Fatal("the ranges do not make the new block")
		}
	}
	if n := len(DiffRanges(a, zeroBlock[:], make([]byte, BlockSize))); n != 0 {
		t.Errorf("%d ranges for no change", n)
	}
	if rs := DiffRanges(a, nil, make([]byte, BlockSize)); len(rs) != 1 || len(rs[0].Data) != 1 {
		t.Errorf("absent to zeros: %v", rs)
	}
	in := sampleInode()
	old := in.Encode()
	in.Mtime, in.Change, in.Size = Time{100, 5}, 100, 11
	if rs := DiffRanges(a, old, in.Encode()); len(rs) > 3 {
		t.Errorf("a touch makes %d ranges", len(rs))
	}
}

func TestSuper(t *testing.T) {
	s := &Super{UUID: [16]byte{1, 2, 3}, FeaturesOptional: 6, Made: Time{9, 10}, RootMade: true}
	b := s.Encode()
	if got, err := DecodeSuper(b); err != nil || *got != *s {
		t.Fatal(got, err)
	}
	golden(t, "super.golden", b)
	for _, c := range []struct {
		off  int
		want errors.Kind
	}{{0, errors.KindForeign}, {8, errors.KindTooNew}, {20, errors.KindCorrupt}, {3000, errors.KindCorrupt}, {4095, errors.KindCorrupt}} {
		d := bytes.Clone(b)
		d[c.off] ^= 0x42
		if _, err := DecodeSuper(d); !errors.Is(err, c.want) {
			t.Errorf("byte %d: %v", c.off, err)
		}
	}
	s.Features = 1 << 40
	if _, err := DecodeSuper(s.Encode()); !errors.Is(err, errors.KindTooNew) {
		t.Error(err)
	}
	if _, err := DecodeSuper(make([]byte, BlockSize)); !errors.Is(err, errors.KindNotExist) {
		t.Error(err)
	}
}

func FuzzSuper(f *testing.F) {
	f.Add((&Super{RootMade: true}).Encode())
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = DecodeSuper(b) })
}

func TestOrphans(t *testing.T) {
	page := NewOrphanPage(9)
	want := make([]Orphan, OrphanSlots)
	for _, s := range []int{0, 1, 77, OrphanSlots - 1} {
		want[s] = Orphan{MaxIno - uint64(s), OrphanKind(1 + s%2)}
		r := OrphanSet(9, 4, s, want[s])
		if r.Addr != OrphanAddr(9, 4) || int(r.Off)+len(r.Data) > BlockSize {
			t.Fatalf("%+v", r)
		}
		copy(page[r.Off:], r.Data)
	}
	got, err := DecodeOrphans(9, page)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatal(err, got)
	}
	golden(t, "orphans.golden", page)
	SetOrphan(page, 77, Orphan{})
	if got, _ := DecodeOrphans(9, page); got[77] != (Orphan{}) || got[1] != want[1] {
		t.Error("clearing a slot")
	}
	for _, c := range []struct {
		off  int
		to   byte
		want errors.Kind
	}{{0, 'x', errors.KindForeign}, {4, 9, errors.KindTooNew}, {8, 1, errors.KindCorrupt}, {32 + 8*5, 1, errors.KindCorrupt}, {32 + 8*5 + 7, 0x60, errors.KindCorrupt}} {
		d := bytes.Clone(page)
		d[c.off] = c.to
		if _, err := DecodeOrphans(9, d); !errors.Is(err, c.want) {
			t.Errorf("byte %d: %v", c.off, err)
		}
	}
	if _, err := DecodeOrphans(9, make([]byte, BlockSize)); !errors.Is(err, errors.KindNotExist) {
		t.Error(err)
	}
}

func FuzzOrphans(f *testing.F) {
	f.Add(NewOrphanPage(9))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = DecodeOrphans(9, b) })
}

// TestXattrModel sets and removes attributes of all sizes beside inline data, against a map.
func TestXattrModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 8))
		in := &Inode{Ino: 50, Mode: syscall.S_IFREG, Nlink: 1, Flags: FlagInline}
		in.Inline = bytes.Repeat([]byte("d"), r.IntN(in.InlineRoom()+1))
		in.Size = uint64(len(in.Inline))
		data := in.Inline
		if seed%3 == 0 {
			in = newDirInode()
			for i := range r.IntN(80) {
				if err := OpenDir(in, nil).Insert(fmt.Sprintf("n%d", i), 60, syscall.S_IFREG); err != nil {
					t.Fatal(err)
				}
			}
		}
		m, model := newMem(t), map[string]string{}
		names := in.Dir.Entries
		for range 300 {
			xattrStep(t, in, m, model, r)
			m.check(in)
			got, err := DecodeInode(in.Ino, in.Encode())
			if err != nil || !reflect.DeepEqual(got.xattrBytes, in.xattrBytes) && len(in.xattrBytes) > 0 {
				t.Fatal(err)
			}
		}
		if len(in.XattrNames()) != len(model) {
			t.Fatalf("%d names, model %d", len(in.XattrNames()), len(model))
		}
		for n, v := range model {
			if got, err := in.XattrGet(m, n); err != nil || string(got) != v {
				t.Fatalf("%q: %d bytes, not %d: %v", n, len(got), len(v), err)
			}
		}
		if in.IsDir() {
			if list := listAll(t, OpenDir(in, m), 1000, nil); uint64(len(list)) != names+2 {
				t.Fatalf("the directory lost names: %d of %d", len(list)-2, names)
			}
			continue
		}
		if in.Flags&FlagInline == 0 && len(data) > 0 && !bytes.Equal(m.blocks[0][:len(data)], data) {
			t.Fatal("the file's data was lost")
		}
		in.XattrFreeAll(m)
		m.check(in)
	}
}

// xattrStep does one random operation.
func xattrStep(t *testing.T, in *Inode, m *memBlocks, model map[string]string, r *rand.Rand) {
	t.Helper()
	name := fmt.Sprintf("user.%d%s", r.IntN(12), strings.Repeat("n", []int{0, 100, 200}[r.IntN(3)]))
	_, there := model[name]
	if r.IntN(4) == 0 {
		if err := in.XattrRemove(m, name); there != (err == nil) || err != nil && !errors.Is(err, errors.KindNoAttr) {
			t.Fatal(name, err)
		}
		delete(model, name)
		return
	}
	value := make([]byte, []int{0, 10, 500, 1024, 1025, 4096, 9000, XattrValueMax}[r.IntN(8)])
	for i := range value {
		value[i] = byte(r.Uint32())
	}
	flags := r.IntN(3)
	before := *in
	err := in.XattrSet(m, name, value, flags)
	switch {
	case flags == 1 && there:
		if !errors.Is(err, errors.KindExist) {
			t.Fatal(err)
		}
	case flags == 2 && !there:
		if !errors.Is(err, errors.KindNoAttr) {
			t.Fatal(err)
		}
	case errors.Is(err, errors.KindNoSpace):
		if !reflect.DeepEqual(before, *in) {
			t.Fatal("a refused change changed the inode")
		}
	case err != nil:
		t.Fatal(err)
	default:
		model[name] = string(value)
	}
	if n, ok := in.XattrSize(name); ok && n != len(model[name]) {
		t.Fatalf("size %d, not %d", n, len(model[name]))
	}
}

// TestXattrDecode: attributes that do not fit together are refused.
func TestXattrDecode(t *testing.T) {
	here, spilled := makeXattr("user.a", []byte("v"), -1), makeXattr("user.b", make([]byte, 5000), 3)
	with := func(areas ...[]byte) error {
		in := sampleInode()
		in.xattrBytes = bytes.Join(areas, nil)
		_, err := DecodeInode(in.Ino, in.Encode())
		return err
	}
	if err := with(here, spilled); err != nil {
		t.Fatal(err)
	}
	set := func(x []byte, off int, to byte) []byte {
		x = bytes.Clone(x)
		x[off] = to
		return x
	}
	for i, err := range []error{
		with(here, here), with(spilled, makeXattr("user.c", make([]byte, 5000), 3)), with(here, []byte{1}),
		with(set(here, 0, 0)), with(set(here, 0, 100)), with(set(here, 1, 2)), with(set(here, 2, 1)), with(set(here, 4, 9)),
		with(set(spilled, 6, 9)), with(makeXattr("user.b", nil, 3)),
	} {
		if !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("case %d: %v", i, err)
		}
	}
}

func TestXattrLimits(t *testing.T) {
	in := &Inode{Ino: 50, Mode: syscall.S_IFREG, Nlink: 1, Flags: FlagInline}
	m := newMem(t)
	for _, c := range []struct {
		name string
		size int
		want errors.Kind
	}{{"", 1, errors.KindInvalid}, {strings.Repeat("n", 256), 1, errors.KindRange}, {"user.x", XattrValueMax + 1, errors.KindTooBig}} {
		if err := in.XattrSet(m, c.name, make([]byte, c.size), 0); !errors.Is(err, c.want) {
			t.Errorf("%d-byte name, %d-byte value: %v", len(c.name), c.size, err)
		}
	}
	if _, err := in.XattrGet(m, "user.none"); !errors.Is(err, errors.KindNoAttr) {
		t.Error(err)
	}
}
