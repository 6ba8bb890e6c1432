package fs

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

func TestFirstPath(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	_, h := m.create(RootIno, "hello")
	m.write(h, "hello, world", 0)
	if got := m.read(h, 100, 7); got != "world" {
		t.Errorf("read %q", got)
	}
	big := strings.Repeat("0123456789abcdef", 100_000)
	m.write(h, big, 5)
	if got := m.read(h, len(big)+10, 0); got != "hello"+big {
		t.Error("a large write reads back differently")
	}
	m.must(m.Fsync(ctx, h, false))
	m.must(m.Release(ctx, h))
	for i := range 500 {
		_, h := m.create(RootIno, fmt.Sprintf("f%d", i))
		m.must(m.Release(ctx, h))
	}
	if n := len(m.names(RootIno)); n != 501 {
		t.Errorf("%d names", n)
	}
	m.close()

	m2 := w.mount(Options{})
	if n := len(m2.names(RootIno)); n != 501 {
		t.Errorf("%d names after a new mount", n)
	}
	e := m2.lookup(RootIno, "hello")
	if e.Attr.Size != uint64(len(big)+5) {
		t.Errorf("size %d", e.Attr.Size)
	}
	h, _, err := m2.Open(ctx, root, e.Attr.Ino, syscall.O_RDONLY)
	m2.must(err)
	b := make([]byte, len(big)+5)
	_, err = m2.Read(ctx, h, b, 0)
	m2.must(err)
	if !bytes.Equal(b, []byte("hello"+big)) {
		t.Error("a new mount reads other bytes")
	}
	for i := range 500 {
		m2.must(m2.Unlink(ctx, root, RootIno, fmt.Sprintf("f%d", i)))
	}
	m2.must(m2.Release(ctx, h))
	m2.must(m2.Unlink(ctx, root, RootIno, "hello"))
	m2.close()
	if _, _, used := w.disk.Counts(); used != 2 {
		t.Errorf("%d blocks are left, want the superblock and the root", used)
	}
}
