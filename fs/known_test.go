package fs

import (
	"syscall"
	"testing"
	"time"
)

// TestKnownToKernel: what a kernel still knows can be looked at and opened without its name, until the kernel forgets it.
func TestKnownToKernel(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	kernel := &Caller{Kernel: true}
	_, _, before := w.disk.Counts()
	for _, way := range []string{"rename", "rmdir"} {
		var ino Ino
		if way == "rmdir" {
			e, err := m.Mkdir(ctx, kernel, RootIno, "x", 0o755)
			m.must(err)
			ino = e.Attr.Ino
			m.must(m.Rmdir(ctx, kernel, RootIno, "x"))
		} else {
			var h Handle
			ino, h = m.create(RootIno, "x")
			m.write(h, "content", 0)
			m.must(m.Release(ctx, h))
			_, h = m.create(RootIno, "y")
			m.must(m.Release(ctx, h))
			m.must(m.Rename(ctx, kernel, RootIno, "y", RootIno, "x", 0))
			m.must(m.Unlink(ctx, kernel, RootIno, "x"))
		}
		if a := m.attr(ino); a.Nlink != 0 {
			t.Errorf("%s: %d links", way, a.Nlink)
		}
		if way != "rmdir" {
			h, _, err := m.Open(ctx, kernel, ino, syscall.O_RDONLY)
			m.must(err)
			if got := m.read(h, 10, 0); got != "content" {
				t.Errorf("%s: reads %q", way, got)
			}
			m.must(m.Release(ctx, h))
		}
		m.Forgotten(ino)
		m.gone(ino)
	}
	m.close()
	if _, _, after := w.disk.Counts(); after > before+2 { // an orphan page, and what the writer's session takes
		t.Errorf("%d blocks in use, %d before", after, before)
	}
}

// gone waits until an inode is freed.
func (m *mount) gone(ino Ino) {
	m.t.Helper()
	for range 500 {
		if _, err := m.GetAttr(ctx, root, ino); err != nil {
			want(m.t, "a freed inode", err, syscall.ESTALE)
			return
		}
		time.Sleep(time.Millisecond)
	}
	m.t.Errorf("inode %d is not freed", ino)
}

// ignorant is a kernel that has nothing.
type ignorant struct{}

func (ignorant) DropData(Ino, uint64, uint64) {}
func (ignorant) DropAttr(Ino)                 {}
func (ignorant) DropNames(Ino)                {}
func (ignorant) Knows(Ino) bool               { return false }

// TestUnknownToKernel: an inode that the kernel never knew, so never forgets, is freed by the sweep.
func TestUnknownToKernel(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{Invalidator: ignorant{}})
	ino, h := m.create(RootIno, "x")
	m.create(RootIno, "y")
	m.must(m.Rename(ctx, &Caller{Kernel: true}, RootIno, "y", RootIno, "x", 0))
	m.must(m.cur.Load().sweepOnce(ctx))
	m.attr(ino) // open, so it stays
	m.must(m.Release(ctx, h))
	m.must(m.cur.Load().sweepOnce(ctx))
	m.gone(ino)
}
