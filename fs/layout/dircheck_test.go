package layout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// checkDir runs Check and returns what it reported.
func checkDir(t *testing.T, d *Dir) string {
	t.Helper()
	var got []string
	if err := d.Check(func(s string) { got = append(got, s) }, func(Entry) {}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, "; ")
}

// TestDirCheck damages each aspect of a directory once: each is found, and a sound one has no problem.
func TestDirCheck(t *testing.T) {
	build := func() (*Dir, *memBlocks) {
		in, m := newDirInode(), newMem(t)
		d := OpenDir(in, m)
		for i := range 600 {
			if err := d.Insert(fmt.Sprintf("file%d", i), uint64(20+i), syscall.S_IFREG); err != nil {
				t.Fatal(err)
			}
		}
		for i := 0; in.Dir.Overflows == 0; i++ { // fill the bucket that is split last
			n := fmt.Sprintf("%s%d", strings.Repeat("l", 200), i)
			if b, _ := d.BlockOf(n); b == in.Dir.Buckets/2 {
				if err := d.insertHashed(n, 20, syscall.S_IFREG); err != nil {
					t.Fatal(err)
				}
			}
		}
		return d, m
	}
	d, _ := build()
	if s := checkDir(t, d); s != "" {
		t.Fatal(s)
	}
	chained := d.In.Dir.Buckets / 2
	inBlock := func(no uint64, f func(b bucketBlock)) func(*Dir, *memBlocks) {
		return func(_ *Dir, m *memBlocks) {
			b := bytes.Clone(m.blocks[no])
			f(b)
			m.blocks[no] = b
		}
	}
	first := func(b bucketBlock) entryView { return entryAt(b[bucketHeader:]) }
	cases := []struct {
		want   string
		damage func(*Dir, *memBlocks)
	}{
		{"counts 1 names", func(d *Dir, _ *memBlocks) { d.In.Dir.Entries = 1 }},
		{"bytes of entries", func(d *Dir, _ *memBlocks) { d.In.Dir.LiveBytes++ }},
		{"overflow blocks", func(d *Dir, _ *memBlocks) { d.In.Dir.Overflows++ }},
		{"beyond those ever given out", func(d *Dir, _ *memBlocks) { d.In.Dir.NextOverflow = 0 }},
		{"hash", func(d *Dir, _ *memBlocks) { d.In.Dir.Seed++ }},
		{"no directory block", func(_ *Dir, m *memBlocks) { m.Free(1) }},
		{"no directory block", inBlock(0, func(b bucketBlock) { b[0]++ })},
		{"format version", inBlock(0, func(b bucketBlock) { b[4] = 9 })},
		{"another's", inBlock(0, func(b bucketBlock) { b[8]++ })},
		{"another's", func(_ *Dir, m *memBlocks) { m.blocks[0] = m.blocks[1] }},
		{"leads out", inBlock(0, func(b bucketBlock) { b.setNext(5) })},
		{"counts out of range", inBlock(0, func(b bucketBlock) { binary.LittleEndian.PutUint16(b[32:], 9) })},
		{"it has", inBlock(0, func(b bucketBlock) { b.setCounts(b.count()-1, b.end(), b.live()) })},
		{"it has", inBlock(0, func(b bucketBlock) { b.setCounts(b.count(), b.end(), b.live()-4) })},
		{"those behind it are lost", inBlock(0, func(b bucketBlock) { first(b)[16]++ })},
		{"not lawful", inBlock(0, func(b bucketBlock) { first(b).name()[0] = '/' })},
		{"not lawful", inBlock(0, func(b bucketBlock) { first(b)[19] = 3 })},
		{"position of its hash", inBlock(0, func(b bucketBlock) { first(b)[10]++ })},
		{"chained twice", inBlock(chained, func(b bucketBlock) {})}, // see below

		{"no lookup finds it", func(d *Dir, m *memBlocks) {
			e := entryAt(m.blocks[0][bucketHeader:])
			inBlock(1, func(b bucketBlock) { b.add(string(e.name()), 20, e.position(), syscall.S_IFREG) })(d, m)
		}},
		{"is there twice", inBlock(0, func(b bucketBlock) {
			e := first(b)
			b.add(string(e.name()), 20, e.position()+1, syscall.S_IFREG)
		})},
		{"a position that another has", inBlock(0, func(b bucketBlock) {
			b.add("other", 20, first(b).position(), syscall.S_IFREG)
		})},
	}
	for i, c := range cases {
		d, m := build()
		if c.want == "chained twice" {
			over := bucketBlock(m.blocks[chained]).next()
			c.damage = inBlock(over, func(b bucketBlock) { b.setNext(over) })
		}
		c.damage(d, m)
		if s := checkDir(t, d); !strings.Contains(s, c.want) {
			t.Errorf("case %d: want %q, got %q", i, c.want, s[:min(len(s), 300)])
		}
	}
}
