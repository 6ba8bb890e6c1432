package fs

import (
	"fmt"
	"syscall"
	"testing"
)

// BenchmarkCreateSmall makes files of 2 KiB, 100 to a directory, as unpacking an archive does.
func BenchmarkCreateSmall(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{})
	data := make([]byte, 2048)
	dir := RootIno
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			e, err := m.Mkdir(ctx, root, RootIno, fmt.Sprintf("d%d", i), 0o755)
			m.must(err)
			dir = e.Attr.Ino
		}
		_, h, _, err := m.Create(ctx, root, dir, fmt.Sprintf("some-file-%d.go", i), 0o644, syscall.O_RDWR)
		m.must(err)
		_, err = m.Write(ctx, h, data, 0, false)
		m.must(err)
		m.must(m.Flush(ctx, h, 1))
		m.must(m.Release(ctx, h))
	}
}

func BenchmarkCreateOneDir(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{})
	for i := 0; b.Loop(); i++ {
		_, h, _, err := m.Create(ctx, root, RootIno, fmt.Sprintf("some-file-%d.go", i), 0o644, syscall.O_RDWR)
		m.must(err)
		m.must(m.Release(ctx, h))
	}
}

func BenchmarkWriteLarge(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{CacheBytes: 64 << 20})
	_, h := m.create(RootIno, "big")
	data := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for i := 0; b.Loop(); i++ {
		_, err := m.Write(ctx, h, data, uint64(i%512)<<20, false)
		m.must(err)
	}
}

func BenchmarkReadHit(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{})
	_, h := m.create(RootIno, "big")
	data := make([]byte, 1<<20)
	_, err := m.Write(ctx, h, data, 0, false)
	m.must(err)
	b.SetBytes(128 << 10)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := m.Read(ctx, h, data[:128<<10], uint64(i%8)*(128<<10))
		m.must(err)
	}
}

func BenchmarkGetAttr(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{})
	ino, _ := m.create(RootIno, "f")
	b.ReportAllocs()
	for b.Loop() {
		_, err := m.GetAttr(ctx, root, ino)
		m.must(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	w := newWorld(b, 1<<30)
	m := w.mount(Options{})
	m.create(RootIno, "f")
	b.ReportAllocs()
	for b.Loop() {
		_, err := m.Lookup(ctx, root, RootIno, "f")
		m.must(err)
	}
}
