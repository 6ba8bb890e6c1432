package fs

import (
	"context"
	"syscall"
	"testing"
	"time"

	"dfs/fs/layout"
)

// TestSparse: what is done to a file of the greatest size costs what its data costs.
func TestSparse(t *testing.T) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	w := newWorld(t, 1<<20)
	const far, mid = layout.MaxFileSize - 4096, 1 << 45
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	m.write(h, "data", far)
	m.write(h, "data", mid)
	for _, state := range []string{"pending", "cached", "new mount"} {
		seek := func(off uint64, whence int, wanted uint64) {
			t.Helper()
			if got, err := m.Seek(ctx, h, off, whence); err != nil || got != wanted {
				t.Errorf("%s: seek %d from %d: %d, %v, want %d", state, whence, off, got, err, wanted)
			}
		}
		seek(0, seekData, mid)
		seek(mid, seekHole, mid+4096)
		seek(mid+4096, seekData, far)
		switch state {
		case "pending":
			m.must(m.Fsync(ctx, h, false))
		case "cached":
			m.close()
			m = w.mount(Options{})
			var err error
			h, _, err = m.Open(ctx, root, ino, syscall.O_RDWR)
			m.must(err)
		}
	}
	want(t, "an allocation that cannot fit", m.Allocate(ctx, h, 0, 1<<50, 0), syscall.ENOSPC)
	want(t, "zeros that cannot fit", m.Allocate(ctx, h, 0, 1<<50, fallocZeroRange), syscall.ENOSPC)
	m.write(h, "data", 1<<33)
	m.must(m.Allocate(ctx, h, 100, far-200, fallocPunchHole|fallocKeepSize))
	if got, err := m.Seek(ctx, h, 0, seekData); err != nil || got != far {
		t.Errorf("after the punch: %d, %v", got, err)
	}
	if a := m.attr(ino); a.Blocks != 8 {
		t.Errorf("%d sectors after the punch", a.Blocks)
	}
	m.write(h, "data", mid)
	size := uint64(layout.MaxFileSize / 4)
	_, err := m.SetAttr(ctx, root, ino, h, SetAttr{Size: &size})
	m.must(err)
	if a := m.attr(ino); a.Blocks != 8 || a.Size != size {
		t.Errorf("%d sectors, %d bytes after the truncation", a.Blocks, a.Size)
	}
	m.must(m.Unlink(ctx, root, RootIno, "f"))
	m.must(m.Release(ctx, h))
	m.gone(ino)
}
