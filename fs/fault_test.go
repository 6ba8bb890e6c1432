package fs

import (
	"bytes"
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

// TestNoSpace fills the store: ENOSPC at the write, what was acknowledged stays, freeing makes room.
func TestNoSpace(t *testing.T) {
	w := newWorld(t, 600)
	m := w.mount(Options{ReserveBatch: 128})
	_, h := m.create(RootIno, "f")
	chunk := make([]byte, 64<<10)
	size := uint64(0)
	var err error
	for size < 10<<20 {
		if _, err = m.Write(ctx, h, chunk, size, false); err != nil {
			break
		}
		size += uint64(len(chunk))
	}
	want(t, "a write to a full store", err, syscall.ENOSPC)
	if size < 500*4096 {
		t.Errorf("only %d bytes went in", size)
	}
	m.must(m.Fsync(ctx, h, false))
	if a := m.lookup(RootIno, "f").Attr; a.Size != size {
		t.Errorf("size %d after ENOSPC, want %d", a.Size, size)
	}
	for i := range 10 { // names need no space in a small directory; an inode block each
		if _, _, _, err = m.Create(ctx, root, RootIno, fmt.Sprintf("n%d", i), 0o644, syscall.O_RDWR); err != nil {
			break
		}
	}
	zero := uint64(0)
	_, err = m.SetAttr(ctx, root, m.lookup(RootIno, "f").Attr.Ino, 0, SetAttr{Size: &zero})
	m.must(err)
	_, err = m.Write(ctx, h, chunk, 0, false)
	want(t, "a write after truncation", err, 0)
	m.must(m.Release(ctx, h))
	m.close()
	w.fsck()
}

// TestOrphans unlinks open files here and elsewhere, and lets the servers crash.
func TestOrphans(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	_, h := a.create(RootIno, "open")
	a.write(h, string(bytes.Repeat([]byte("x"), 50_000)), 0)
	_, _, used := w.disk.Counts()
	a.must(b.Unlink(ctx, root, RootIno, "open")) // open on a, unlinked by b
	if got := a.read(h, 10, 40_000); got != "xxxxxxxxxx" {
		t.Errorf("an unlinked open file reads %q", got)
	}
	a.must(a.SyncAll(ctx))
	b.must(b.SyncAll(ctx))
	if _, _, now := w.disk.Counts(); now < used {
		t.Error("an open file was freed")
	}
	a.must(a.Release(ctx, h))
	a.Server.cur.Load().bg.Wait() // the last close frees it in the background
	b.must(b.Server.cur.Load().sweepOnce(ctx))
	for _, n := range []string{"one", "two"} { // open and unlinked on one server that crashes
		_, h := a.create(RootIno, n)
		a.write(h, string(bytes.Repeat([]byte("y"), 50_000)), 0)
		a.must(a.Unlink(ctx, root, RootIno, n))
	}
	_, _, _, err := a.Tmpfile(ctx, root, RootIno, 0o600, syscall.O_RDWR)
	a.must(err)
	a.must(a.SyncAll(ctx))
	a.clerk.End(errors.Of(errors.KindSessionEnded))
	b.must(b.Server.cur.Load().sweepOnce(ctx))
	b.must(b.SyncAll(ctx))
	if left, _ := b.store.Retired(ctx); len(left) != 0 {
		t.Errorf("writers %v still have an orphan list", left)
	}
	b.close()
	w.fsck()
	n := 0
	w.disk.Each(func(wal.Addr, []byte) { n++ })
	if n > 3 { // superblock, root, b's own orphan page
		t.Errorf("%d blocks are left", n)
	}
}

// TestLargeTruncate frees more than one record may: in steps, and again after a crash between them.
func TestLargeTruncate(t *testing.T) {
	for _, cut := range []int{-1, 0, 1} {
		w := newWorld(t, 1<<20)
		m := w.mount(Options{})
		ino, h := m.create(RootIno, "big")
		m.must(m.Allocate(ctx, h, 0, 300<<20, 0))
		m.write(h, "tail", 300<<20)
		m.must(m.SyncAll(ctx))
		w.disk.CutAfter(cut)
		size := uint64(5000)
		if cut >= 0 {
			m.must(m.SyncAll(ctx))
		}
		done := make(chan error, 1)
		go func() {
			_, err := m.SetAttr(ctx, root, ino, 0, SetAttr{Size: &size})
			done <- err
		}()
		if cut < 0 {
			m.must(<-done)
			if a := m.attr(ino); a.Size != size || a.Blocks != 2*8 {
				t.Errorf("size %d, %d sectors", a.Size, a.Blocks)
			}
		} else {
			<-done
			m.clerk.End(errors.Of(errors.KindSessionEnded))
			w.disk.Crash()
			m = w.mount(Options{})
			m.must(m.Server.cur.Load().sweepOnce(ctx))
			if a := m.attr(ino); a.Size != size && a.Size != 300<<20+4 {
				t.Errorf("cut %d: size %d", cut, a.Size)
			}
		}
		m.close()
		w.fsck()
	}
}

// TestSessionEnd loses a session with dirty data: EIO once per descriptor, then the mount goes on in a new session.
func TestSessionEnd(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	_, h := m.create(RootIno, "f")
	m.write(h, "saved", 0)
	m.must(m.Fsync(ctx, h, false))
	_, clean := m.create(RootIno, "clean")
	m.write(clean, "x", 0)
	m.must(m.Fsync(ctx, clean, false))
	m.must(m.SetLock(ctx, clean, FileLock{Owner: 1, Type: LockWrite, Flock: true}, false))
	m.store.Hold(true)
	m.write(h, "lost!", 0)
	var wg sync.WaitGroup
	wg.Go(func() { // waits over the gap
		if _, err := m.Lookup(ctx, root, RootIno, "f"); err != nil {
			t.Errorf("a lookup over the gap: %v", err)
		}
	})
	m.clerk.End(errors.Of(errors.KindSessionEnded))
	w.attach(m)
	wg.Wait()
	_, err := m.Write(ctx, h, []byte("x"), 10, false)
	want(t, "the first write after the loss", err, syscall.EIO)
	if got := m.read(h, 10, 0); got != "saved" {
		t.Errorf("read %q, want what was made durable", got)
	}
	want(t, "fsync, the loss having been told", m.Fsync(ctx, h, false), 0)
	_, err = m.Read(ctx, clean, make([]byte, 1), 0)
	want(t, "a descriptor that lost its file lock", err, syscall.EIO)
	m.write(h, "again", 0)
	m.must(m.Fsync(ctx, h, false))
}

// TestQuorumLost bounds the wait and keeps the data.
func TestQuorumLost(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{QuorumWait: 30 * time.Millisecond})
	_, h := m.create(RootIno, "f")
	m.must(m.Fsync(ctx, h, false))
	m.store.Hold(true)
	m.write(h, "kept", 0)
	want(t, "fsync without a quorum", m.Fsync(ctx, h, false), syscall.EIO)
	m.store.Hold(false)
	m.must(m.SyncAll(ctx))
	if got := m.read(h, 10, 0); got != "kept" {
		t.Errorf("read %q", got)
	}
}

// TestLeaseAtAnswer lets the lease run out during an operation: nothing is answered until it is back.
func TestLeaseAtAnswer(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	m.write(h, "x", 0)
	var mu sync.Mutex
	live := false
	m.clerk.SetLease(func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if live {
			return time.Hour
		}
		return 0
	})
	calls := map[string]func() error{
		"getattr": func() error { _, err := m.GetAttr(ctx, root, ino); return err },
		"lookup":  func() error { _, err := m.Lookup(ctx, root, RootIno, "f"); return err },
		"missing": func() error {
			if _, err := m.Lookup(ctx, root, RootIno, "none"); !errors.Is(err, errors.KindNotExist) {
				return fmt.Errorf("lookup of a missing name: %w", err)
			}
			return nil
		},
		"refused rename": func() error {
			if err := m.Rename(ctx, root, RootIno, "none", RootIno, "other", 0); !errors.Is(err, errors.KindNotExist) {
				return fmt.Errorf("rename of a missing name: %w", err)
			}
			return nil
		},
		"refused unlink": func() error {
			if err := m.Unlink(ctx, root, RootIno, "none"); !errors.Is(err, errors.KindNotExist) {
				return fmt.Errorf("unlink of a missing name: %w", err)
			}
			return nil
		},
		"refused mkdir": func() error {
			if _, err := m.Mkdir(ctx, root, RootIno, "f", 0o755); !errors.Is(err, errors.KindExist) {
				return fmt.Errorf("mkdir over a file: %w", err)
			}
			return nil
		},
		"refused getxattr": func() error {
			if _, err := m.GetXattr(ctx, root, ino, "user.none"); !errors.Is(err, errors.KindNoAttr) {
				return fmt.Errorf("a missing xattr: %w", err)
			}
			return nil
		},
		"read":  func() error { _, err := m.Read(ctx, h, make([]byte, 1), 0); return err },
		"write": func() error { _, err := m.Write(ctx, h, []byte("y"), 0, false); return err },
		"mkdir": func() error { _, err := m.Mkdir(ctx, root, RootIno, "d", 0o755); return err },
	}
	done := make(chan string, len(calls))
	for name, f := range calls {
		go func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			done <- name
		}()
	}
	over, answered := time.After(50*time.Millisecond), 0
	for waiting := true; waiting; {
		select {
		case name := <-done:
			answered++
			t.Errorf("%s was answered without a lease", name)
		case <-over:
			waiting = false
		}
	}
	mu.Lock()
	live = true
	mu.Unlock()
	for ; answered < len(calls); answered++ {
		<-done
	}
}

// TestFsx does random reads, writes, truncations and mappings of holes on one file, with hardly any cache and with some.
func TestFsx(t *testing.T) {
	for _, blocks := range []int{1, 64, 100000} {
		w := newWorld(t, 1<<20)
		m := w.mount(Options{CacheBlocks: blocks})
		r := rand.New(rand.NewSource(testSeed(t)))
		ino, h := m.create(RootIno, "f")
		model := &mnode{}
		for i := range 600 {
			off := r.Intn(1 << 20)
			n := 1 + r.Intn([...]int{100, 5000, 300_000}[r.Intn(3)])
			switch r.Intn(6) {
			case 0, 1:
				data := make([]byte, n)
				r.Read(data)
				_, err := m.Write(ctx, h, data, uint64(off), false)
				m.must(err)
				model.grow(off + n)
				copy(model.data[off:], data)
			case 2, 3:
				got := m.read(h, n, uint64(off))
				lo, hi := min(off, len(model.data)), min(off+n, len(model.data))
				if got != string(model.data[lo:hi]) {
					t.Fatalf("cache %d, step %d: read %d+%d differs", blocks, i, off, n)
				}
			case 4:
				size := uint64(off)
				_, err := m.SetAttr(ctx, root, ino, h, SetAttr{Size: &size})
				m.must(err)
				model.grow(off)
				model.data = model.data[:off:off]
			case 5:
				mode := [...]uint32{0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange}[r.Intn(4)]
				m.must(m.Allocate(ctx, h, uint64(off), uint64(n), mode))
				if mode&fallocKeepSize == 0 {
					model.grow(off + n)
				}
				if mode&(fallocPunchHole|fallocZeroRange) != 0 && off < len(model.data) {
					clear(model.data[off:min(len(model.data), off+n)])
				}
			}
		}
		if total, _ := m.Server.cur.Load().cache.usage(); total > max(blocks, 1)+64 {
			m.must(m.SyncAll(ctx))
			m.Server.cur.Load().cache.shrinkNow()
			if total, _ = m.Server.cur.Load().cache.usage(); total > blocks {
				t.Errorf("%d frames in a cache of %d", total, blocks)
			}
		}
		m.must(m.Release(ctx, h))
		m.close()
		w.fsck()
	}
}

// TestDirtyFrameIsKept is the guard of the cache: a block is not evicted before it is durable, or it would read back old.
func TestDirtyFrameIsKept(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{CacheBlocks: 1})
	_, h := m.create(RootIno, "f")
	m.write(h, string(bytes.Repeat([]byte("a"), 40<<10)), 0)
	m.must(m.SyncAll(ctx))
	m.store.Hold(true)
	m.write(h, string(bytes.Repeat([]byte("b"), 40<<10)), 0)
	if got := m.read(h, 40<<10, 0); got != string(bytes.Repeat([]byte("b"), 40<<10)) {
		t.Error("reads old bytes of blocks that are not durable yet")
	}
	m.store.Hold(false)
}

// TestRevokeFlushes is the guard of R1: a lock goes only when the records of its inode are durable.
func TestRevokeFlushes(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	m.must(m.SyncAll(ctx))
	m.store.Hold(true)
	m.write(h, "new", 0)
	done := make(chan uint64)
	go func() {
		index, _, err := m.Revoke(lockserver.LockID(ino), lockserver.Shared)
		if err != nil {
			t.Error(err)
		}
		done <- index
	}()
	select {
	case <-done:
		t.Error("the lock was given up before the data was durable")
		return
	case <-time.After(30 * time.Millisecond):
	}
	m.store.Hold(false)
	if index := <-done; index < m.store.LastIndex() {
		t.Errorf("released with index %d, the last record has %d", index, m.store.LastIndex())
	}
}
