package fs

import (
	"bytes"
	"context"
	"syscall"
	"testing"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// TestFreedInodeStaysFreed is the guard of node.in: an inode freed by a record that the store does not have yet is gone.
func TestFreedInodeStaysFreed(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	m.must(m.Release(ctx, h))
	m.must(m.SyncAll(ctx))
	m.store.Hold(true)
	m.must(m.Unlink(ctx, root, RootIno, "f"))
	_, err := m.GetAttr(ctx, root, ino)
	want(t, "stat of a freed inode", err, syscall.ESTALE)
	m.store.Hold(false)
}

// TestTruncateUnknownChunk is the guard of trimFrom: after a truncation that is not durable the
// store still says that the blocks are there.
func TestTruncateUnknownChunk(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	_, h := m.create(RootIno, "f")
	m.write(h, string(bytes.Repeat([]byte("x"), 100*blockSize)), 0)
	m.close()
	m.must(m.clerk.Close(ctx))
	m = w.mount(Options{})
	h = h0(t, m, "f")
	size := uint64(50 * blockSize)
	m.store.Hold(true)
	_, err := m.SetAttr(ctx, root, m.lookup(RootIno, "f").Attr.Ino, h, SetAttr{Size: &size})
	m.must(err)
	m.write(h, "y", 70*blockSize+10)
	if got := m.read(h, 12, 70*blockSize); got != "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00y" {
		t.Errorf("read %q behind a truncation", got)
	}
	m.store.Hold(false)
	m.must(m.Release(ctx, h))
	m.close()
	w.fsck()
}

// hook is an Invalidator that runs a function in DropData.
type hook struct{ f func() }

func (k *hook) DropData(Ino, uint64, uint64) { k.f() }
func (k *hook) DropAttr(Ino)                 {}
func (k *hook) DropNames(Ino)                {}

// TestReadInsideDropData is the guard of section 7: while the kernel's pages are dropped, the reads that it has to wait for are
// served, although another server's request for the lock stands before theirs.
func TestReadInsideDropData(t *testing.T) {
	w := newWorld(t, 1<<20)
	k := &hook{f: func() {}}
	a, b := w.mount(Options{Invalidator: k}), w.mount(Options{})
	_, h := b.create(RootIno, "f")
	b.write(h, "hello", 0)
	e := a.lookup(RootIno, "f")
	ro, _, err := a.Open(ctx, root, e.Attr.Ino, syscall.O_RDONLY)
	a.must(err)
	a.read(ro, 5, 0)
	rw := h0(t, a, "f")
	if mode := a.clerk.Held(lockserver.LockID(e.Attr.Ino)); mode != lockserver.Shared {
		t.Fatalf("the lock is held in mode %d", mode)
	}
	dropped := false
	k.f = func() {
		if dropped {
			return
		}
		dropped = true
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if _, err := a.Read(short, rw, make([]byte, 5), 0); err != nil {
			t.Errorf("a read inside DropData: %v", err)
		}
	}
	b.write(h, "HELLO", 0)
	if !dropped {
		t.Error("the pages were not dropped")
	}
	if got := a.read(ro, 5, 0); got != "HELLO" {
		t.Errorf("read %q", got)
	}
}

// TestRevokeDropsBlocks is the guard of the cache: what was cached under a lock goes with it.
func TestRevokeDropsBlocks(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	_, ha := a.create(RootIno, "f")
	data := string(bytes.Repeat([]byte("a"), 10*blockSize))
	a.write(ha, data, 0)
	if a.read(ha, len(data), 0) != data {
		t.Fatal("reads back differently")
	}
	hb := h0(t, b, "f")
	b.write(hb, string(bytes.Repeat([]byte("b"), 10*blockSize)), 0)
	if got := a.read(ha, 5*blockSize, 0); got != string(bytes.Repeat([]byte("b"), 5*blockSize)) {
		t.Errorf("reads old bytes %q", got[:10])
	}
}

// TestRevokeDropsWrittenPages: what was written, and never read, stands in the kernel's page cache, too.
func TestRevokeDropsWrittenPages(t *testing.T) {
	w := newWorld(t, 1<<20)
	drops := 0
	a, b := w.mount(Options{Invalidator: &hook{f: func() { drops++ }}}), w.mount(Options{})
	_, ha := a.create(RootIno, "f")
	hb := h0(t, b, "f")
	for range 3 {
		a.write(ha, "a", 0)
		before := drops
		b.write(hb, "b", 0)
		if drops == before {
			t.Fatal("another server wrote, and the pages of this one's write were not dropped")
		}
	}
}

// namesHook counts what the kernel is told to drop.
type namesHook struct{ data, names int }

func (k *namesHook) DropData(Ino, uint64, uint64) { k.data++ }
func (k *namesHook) DropAttr(Ino)                 {}
func (k *namesHook) DropNames(Ino)                { k.names++ }

// TestRevokeGoesFurther: a revoke that was prepared to leave the lock shared ends with nothing left, because another one came
// between. The kernel keeps neither names nor pages.
func TestRevokeGoesFurther(t *testing.T) {
	w := newWorld(t, 1<<20)
	k := &namesHook{}
	m := w.mount(Options{Invalidator: k})
	ino, h := m.create(RootIno, "f")
	m.write(h, "x", 0)
	m.read(h, 1, 0)
	if _, err := m.Lookup(ctx, root, RootIno, "absent"); !errors.Is(err, errors.KindNotExist) {
		t.Fatal(err)
	}
	m.must(m.Release(ctx, h))
	for _, id := range []Ino{RootIno, ino} {
		m.PrepareRevoke(lockserver.LockID(id), lockserver.Shared)
		if _, _, err := m.Revoke(lockserver.LockID(id), lockserver.None); err != nil {
			t.Fatal(err)
		}
	}
	if k.names == 0 {
		t.Error("the kernel was not told to drop the directory's names")
	}
	if k.data == 0 {
		t.Error("the kernel was not told to drop the file's pages")
	}
}
