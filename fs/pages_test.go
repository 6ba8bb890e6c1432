package fs

import (
	"bytes"
	"math/rand"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/lockserver"
)

func (m *mount) open(ino Ino, flags uint32) (Handle, OpenInfo) {
	m.t.Helper()
	h, info, err := m.Open(ctx, root, ino, flags)
	m.must(err)
	return h, info
}

func (m *mount) nodeOf(ino Ino) *node {
	ss := m.Server.cur.Load()
	n := ss.node(uint64(ino))
	ss.put(n)
	return n
}

// mapsNothing is a kernel that cannot map files shared that are open past its page cache.
type mapsNothing struct{ *kernel }

func (mapsNothing) MapsDirect() bool { return false }

// TestSharedFileMapped: where the kernel could not map it otherwise, a file that two mounts write stays cached; to append it is opened past the cache.
func TestSharedFileMapped(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{Invalidator: mapsNothing{newKernel()}}), w.mount(Options{Invalidator: newKernel()})
	ino, ha := a.create(RootIno, "f")
	a.write(ha, "a", 0)
	hb := h0(t, b, "f")
	for range 3 {
		a.write(ha, "a", 0)
		b.write(hb, "b", 0)
	}
	if _, info := b.open(ino, syscall.O_RDWR); !info.DirectIO {
		t.Error("the file does not count as shared")
	}
	if _, info := a.open(ino, syscall.O_RDWR); info.DirectIO {
		t.Error("a shared file is opened so that it cannot be mapped")
	}
	if _, info := a.open(ino, syscall.O_RDWR|syscall.O_APPEND); !info.DirectIO {
		t.Error("a file to append to is opened for cached writes")
	}
}

// TestSharedFileIsDirect: a file that two mounts write in turn is opened for direct I/O, by both, until nobody else has asked for its
// lock for a while; one that a single mount uses keeps its pages.
func TestSharedFileIsDirect(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{Invalidator: newKernel()}), w.mount(Options{Invalidator: newKernel()})
	ino, ha := a.create(RootIno, "f")
	a.write(ha, "alone", 0)
	if _, info := a.open(ino, syscall.O_RDWR); info.DirectIO || !info.KeepCache {
		t.Errorf("alone, the file is opened with %+v", info)
	}
	hb := h0(t, b, "f")
	for range 3 {
		a.write(ha, "a", 0)
		b.write(hb, "b", 0)
	}
	for _, m := range []*mount{a, b} {
		if _, info := m.open(ino, syscall.O_RDONLY); !info.DirectIO {
			t.Error("a file that two mounts write is opened for cached reads")
		}
		n := m.nodeOf(ino)
		n.rv.mu.Lock()
		n.rv.handed[0] = n.rv.handed[0].Add(-sharingQuiet)
		n.rv.mu.Unlock()
		if _, info := m.open(ino, syscall.O_RDONLY); info.DirectIO {
			t.Error("long after the sharing the file is still opened for direct I/O")
		}
	}
	// A read past the pages asks for no more than Shared, and leaves none.
	b.write(hb, "b", 0)
	d, _ := a.open(ino, syscall.O_RDWR)
	if _, err := a.ReadIO(ctx, d, make([]byte, 1), 0, IODirect); err != nil {
		t.Fatal(err)
	}
	if mode := b.clerk.Held(lockserver.LockID(ino)); mode != lockserver.Shared || a.nodeOf(ino).kernelPages.Load() {
		t.Errorf("after a direct read the writer holds mode %d", mode)
	}
}

// TestFillsUnderExclusive: where pages can turn dirty without a word they are filled under Exclusive alone, whoever reads, and those from
// before are dropped when the file is opened so.
func TestFillsUnderExclusive(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{Invalidator: newKernel()}), w.mount(Options{Invalidator: newKernel()})
	ino, hb := b.create(RootIno, "f")
	b.write(hb, "hello", 0)
	b.must(b.Release(ctx, hb))
	ro, _ := a.open(a.lookup(RootIno, "f").Attr.Ino, syscall.O_RDONLY)
	a.read(ro, 5, 0)
	if mode := a.clerk.Held(lockserver.LockID(ino)); mode != lockserver.Shared {
		t.Fatalf("read only, held in mode %d", mode)
	}
	if _, info := a.open(ino, syscall.O_RDONLY); !info.KeepCache {
		t.Error("pages read under the lock that is held are dropped by an open to read")
	}
	if _, info := a.open(ino, syscall.O_RDWR); info.KeepCache {
		t.Error("pages read under Shared stay where a mapping can turn them dirty")
	}
	a.read(ro, 5, 0)
	if mode := a.clerk.Held(lockserver.LockID(ino)); mode != lockserver.Exclusive {
		t.Errorf("pages that a mapping can turn dirty were filled under mode %d", mode)
	}
}

// TestFillWaitsForWrite has a write and, after it, a read that fills its page wait for the lock: the page has the write's bytes.
// (Taking the wait out of lockFill makes it fail.)
func TestFillWaitsForWrite(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{Invalidator: newKernel()}), w.mount(Options{})
	ino, h := a.create(RootIno, "f")
	a.write(h, "\x00", 0)
	id := lockserver.LockID(ino)
	for i := range 100 {
		a.must(b.clerk.Acquire(ctx, lockserver.Request{ID: id, Mode: lockserver.Exclusive}))
		var wg sync.WaitGroup
		want := string([]byte{byte(i + 1)})
		wg.Go(func() { a.write(h, want, 0) })
		rv := &a.nodeOf(ino).rv
		waiting := func(n int) {
			for got := -1; got != n; {
				time.Sleep(50 * time.Microsecond)
				rv.mu.Lock()
				got = len(rv.waiters)
				rv.mu.Unlock()
			}
		}
		waiting(1)
		wg.Go(func() {
			if got := a.read(h, 1, 0); got != want {
				t.Errorf("round %d: a page filled after a write was sent has %q, want %q", i, got, want)
			}
		})
		waiting(2)
		b.clerk.Unpin(id)
		wg.Wait()
	}
}

// TestWriteDropsFreshPages: a direct write drops the pages that a read sent after it may have filled before it.
// (Taking fillsOn out of lockWrite makes it fail.)
func TestWriteDropsFreshPages(t *testing.T) {
	w := newWorld(t, 1<<20)
	k := &hook{f: func() {}}
	m := w.mount(Options{Invalidator: k})
	ino, h := m.create(RootIno, "f")
	m.write(h, "old", 0)
	d, info := m.open(ino, syscall.O_WRONLY|syscall.O_APPEND)
	if !info.DirectIO {
		t.Fatal("opened to append through the page cache")
	}
	m.read(h, 3, 0)
	drops := 0
	k.f = func() { drops++ }
	_, err := m.WriteIO(ctx, d, []byte("new"), 0, IODirect, false, false)
	m.must(err)
	if drops != 1 {
		t.Errorf("%d drops before a direct write of a page filled a moment ago", drops)
	}
	_, err = m.WriteIO(ctx, d, []byte("new"), 0, IODirect, false, false)
	m.must(err)
	if drops != 1 {
		t.Errorf("a direct write of a page that is not there dropped it")
	}
	m.read(h, 3, 0)
	m.write(h, "again", 0)
	if drops != 1 {
		t.Errorf("where nobody else uses the file, a write through the page cache dropped the page that it changed")
	}
}

// TestWriteDropsOldPages: a direct write drops pages that may have been filled after it was sent, whatever its descriptor was opened with
// and however long it was on its way; and another to the same pages is not done before they are gone.
func TestWriteDropsOldPages(t *testing.T) {
	w := newWorld(t, 1<<20)
	began, goOn := make(chan struct{}), make(chan struct{})
	k := &hook{f: func() { close(began); <-goOn }}
	m := w.mount(Options{Invalidator: k})
	ino, h := m.create(RootIno, "f")
	m.write(h, "old", 0)
	m.read(h, 3, 0)
	rv := &m.nodeOf(ino).rv
	rv.fills[0].at = rv.fills[0].at.Add(-time.Hour)
	done := make(chan error, 2)
	write := func() {
		_, err := m.WriteIO(ctx, h, []byte("new"), 0, IODirect, false, false)
		done <- err
	}
	go write()
	select {
	case <-began:
	case <-done:
		t.Fatal("a direct write left the pages as they were")
	}
	k.f = func() { <-goOn }
	go write()
	select {
	case err := <-done:
		done <- err
		t.Error("a direct write was done while another still dropped pages filled before it")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	m.must(<-done)
	m.must(<-done)
	if got := rv.fillsOn(&pendingWrite{span: wholeFile}, true); got.to != 0 {
		t.Errorf("%v is still taken for filled", got)
	}
}

// TestNoVainDrop: a write through the page cache drops no page that was filled before the last request for which the kernel had the inode locked, as
// it was sent later: where that has dropped the page the write holds it itself. What was filled since is dropped.
func TestNoVainDrop(t *testing.T) {
	w := newWorld(t, 1<<20)
	k := &hook{f: func() {}}
	m := w.mount(Options{Invalidator: k})
	ino, h := m.create(RootIno, "f")
	m.write(h, strings.Repeat("x", 8192), 0)
	rv := &m.nodeOf(ino).rv
	rv.handed[0] = time.Now() // others use it
	drops := 0
	k.f = func() { drops++ }
	size := uint64(5000)
	for what, f := range map[string]func() error{
		"truncate": func() error { _, err := m.SetAttr(ctx, root, ino, h, SetAttr{Size: &size}); return err },
		"punch":    func() error { return m.Allocate(ctx, h, 0, 4096, fallocPunchHole|fallocKeepSize) },
		"write":    func() error { _, err := m.Write(ctx, h, []byte("y"), 100, false); return err },
	} {
		m.read(h, 100, 4096)
		m.must(f())
		drops = 0
		m.write(h, "new", 4200)
		if drops != 0 {
			t.Errorf("%s: a write looked %d times for what had been filled before that", what, drops)
		}
		m.read(h, 100, 4096)
		drops = 0
		m.write(h, "new", 4200)
		if drops != 1 {
			t.Errorf("%s: %d drops by a write of a page that was filled since", what, drops)
		}
	}
}

// pageKernel is an Invalidator with a page cache, of one file.
type pageKernel struct {
	locks [8]sync.Mutex // one of each page
	pages [8]struct {
		sync.Mutex
		data []byte // nil: not there
	}
}

func (k *pageKernel) drop(i int) {
	k.locks[i].Lock()
	defer k.locks[i].Unlock()
	k.set(i, nil)
}

func (k *pageKernel) get(i int) []byte {
	p := &k.pages[i]
	p.Lock()
	defer p.Unlock()
	return p.data
}

func (k *pageKernel) set(i int, data []byte) {
	p := &k.pages[i]
	p.Lock()
	defer p.Unlock()
	p.data = data
}

func (k *pageKernel) DropData(_ Ino, off, length uint64) {
	for i := range k.pages {
		if at := uint64(i) * blockSize; at+blockSize > off && (length == 0 || at < off+length) {
			k.drop(i)
		}
	}
}
func (k *pageKernel) DropAttr(Ino)  {}
func (k *pageKernel) DropNames(Ino) {}

// onItsWay is the time of a message between the kernel and the file server.
func onItsWay() { time.Sleep(time.Duration(rand.Intn(200)) * time.Microsecond) }

// read answers from page i, which it fills first if it is not there: locked.
func (k *pageKernel) read(m *mount, h Handle, i int) byte {
	data := k.get(i)
	if data != nil {
		return data[0]
	}
	k.locks[i].Lock()
	defer k.locks[i].Unlock()
	if data = k.get(i); data != nil {
		return data[0]
	}
	data = make([]byte, blockSize)
	_, err := m.ReadIO(ctx, h, data, uint64(i)*blockSize, IOPages)
	if err != nil {
		m.t.Error(err)
	}
	onItsWay()
	k.set(i, data)
	return data[0]
}

// TestDirectWritesBesideFills has two writers write pages past the page cache, as the kernel sends an asynchronous direct write, while others
// read the same pages through it and another server takes the lock away. What a writer reads then through the page cache is what it wrote.
// (A lockWrite that drops nothing makes it fail; a drop that does not leave out what waiting reads hold makes it hang.)
func TestDirectWritesBesideFills(t *testing.T) {
	w := newWorld(t, 1<<20)
	k := &pageKernel{}
	m, other := w.mount(Options{Invalidator: k}), w.mount(Options{})
	_, h := m.create(RootIno, "f")
	m.write(h, string(make([]byte, len(k.pages)*blockSize)), 0)
	ho := h0(t, other, "f")
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		r := rand.New(rand.NewSource(rand.Int63()))
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					i := r.Intn(len(k.pages))
					k.read(m, h, i)
					k.drop(i) // for want of memory
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				other.read(ho, 1, 0)
			}
		}
	})
	for i := range 2 {
		writers.Go(func() {
			mine := i * len(k.pages) / 2
			for v := range 100 {
				first := mine + v%3
				for i := range 2 {
					k.drop(first + i)
				}
				data := bytes.Repeat([]byte{byte(v)}, 2*blockSize)
				onItsWay()
				if _, err := m.WriteIO(ctx, h, data, uint64(first)*blockSize, IODirect, false, false); err != nil {
					t.Error(err)
				}
				for i := range 2 {
					if got := k.read(m, h, first+i); got != byte(v) {
						t.Errorf("page %d is of write %d after write %d", first+i, got, byte(v))
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// TestFillsAreKept: of random fills and drops, every page that was filled and not dropped since is known, and no more is kept than is bounded.
func TestFillsAreKept(t *testing.T) {
	const pages = 64
	r := rand.New(rand.NewSource(testSeed(t)))
	var rv revocation
	var filled [pages]bool
	for i := range 20_000 {
		from := uint64(r.Intn(pages))
		s := span{from * blockSize, (from + 1 + uint64(r.Intn(8))) * blockSize}
		s.to = min(s.to, pages*blockSize)
		if r.Intn(3) > 0 {
			rv.fillOrWait(s, true)
			for b := s.from / blockSize; b < s.to/blockSize; b++ {
				filled[b] = true
			}
			if r.Intn(2) == 0 {
				rv.fills[len(rv.fills)-1].at = time.Now().Add(-time.Minute)
			}
		} else {
			drop := rv.fillsOn(&pendingWrite{span: s}, true)
			rv.cutFills(drop)
			for b := drop.from / blockSize; b < drop.to/blockSize; b++ {
				filled[b] = false
			}
			for b := s.from / blockSize; b < s.to/blockSize; b++ {
				if filled[b] {
					t.Fatalf("step %d: page %d is left out of what fills have left of %v: %v", i, b, s, drop)
				}
			}
		}
		if len(rv.fills) > fillsMax {
			t.Fatalf("step %d: %d fills are kept", i, len(rv.fills))
		}
	}
}

// TestAdmittedWhenFirstPinned: an operation that was not let in under a revoke, because the mode that it needs was not known to be held,
// is told when that becomes known: the kernel's drop may wait for it. (A note that tells nobody leaves it waiting for the lock, and the lock
// for the drop: TestRevokeWithKernel hangs once in twenty runs.)
func TestAdmittedWhenFirstPinned(t *testing.T) {
	var rv revocation
	rv.beginServing()
	told := make(chan struct{})
	w := &waiter{use: use{mode: lockserver.Exclusive, io: span{0, blockSize}, kind: ioFill}, cancel: func() { close(told) }}
	if rv.admitOrWait(w) {
		t.Fatal("let in, although no pin was ever taken")
	}
	if held := rv.heldLocked(wholeFile); len(held) != 1 {
		t.Fatalf("the pages that it holds are not spared: %v", held)
	}
	rv.note(lockserver.Exclusive)
	if held := rv.heldLocked(wholeFile); len(held) != 0 {
		t.Fatalf("pages are spared for an operation that is served: %v", held)
	}
	select {
	case <-told:
	default:
		t.Fatal("it was not told that it is let in")
	}
	if !rv.stopWaiting(w) || !rv.admitOrWait(w) {
		t.Error("told, it is not let in")
	}
}
