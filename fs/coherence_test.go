package fs

import (
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// TestTwoServers does the model's operations on two servers in turn: each sees all that the other has done.
func TestTwoServers(t *testing.T) {
	seed := testSeed(t)
	w := newWorld(t, 1<<20)
	w.disk.Lag()
	a, b := w.mount(Options{}), w.mount(Options{CacheBlocks: 1, CacheInodes: 2})
	d := newDriver(t, a, seed)
	for i := range 1500 {
		d.m = [2]*mount{a, b}[d.r.Intn(2)]
		d.step()
		if i%300 == 299 {
			d.m = a
			d.compare()
			d.m = b
			d.compare()
		}
	}
	if w.locks.Revokes() < 100 {
		t.Errorf("only %d revokes: the servers did not meet", w.locks.Revokes())
	}
	a.close()
	b.close()
	w.fsck()
}

// TestCounter has goroutines on several servers add to a counter in a file under an flock, and append to another
// with O_APPEND: no increment and no line is lost.
func TestCounter(t *testing.T) {
	w := newWorld(t, 1<<20)
	mounts := []*mount{w.mount(Options{}), w.mount(Options{}), w.mount(Options{})}
	_, h := mounts[0].create(RootIno, "counter")
	mounts[0].write(h, "000000", 0)
	mounts[0].create(RootIno, "log")
	const each = 30
	var wg sync.WaitGroup
	for i := range 6 {
		m := mounts[i%3]
		wg.Go(func() {
			e, err := m.Lookup(ctx, root, RootIno, "counter")
			if err != nil {
				t.Error(err)
				return
			}
			c, _, err := m.Open(ctx, root, e.Attr.Ino, syscall.O_RDWR)
			if err != nil {
				t.Error(err)
				return
			}
			l, err := m.Lookup(ctx, root, RootIno, "log")
			if err != nil {
				t.Error(err)
				return
			}
			lh, _, err := m.Open(ctx, root, l.Attr.Ino, syscall.O_WRONLY|syscall.O_APPEND)
			if err != nil {
				t.Error(err)
				return
			}
			for range each {
				lock := FileLock{Owner: uint64(i + 1), End: 1<<63 - 1, Type: LockWrite, Flock: true}
				if err := m.SetLock(ctx, c, lock, true); err != nil {
					t.Error(err)
					return
				}
				var buf [6]byte
				if _, err := m.Read(ctx, c, buf[:], 0); err != nil {
					t.Error(err)
				}
				n := 0
				_, _ = fmt.Sscanf(string(buf[:]), "%d", &n)
				if _, err := m.Write(ctx, c, fmt.Appendf(nil, "%06d", n+1), 0, false); err != nil {
					t.Error(err)
				}
				lock.Type = LockUnlock
				if err := m.SetLock(ctx, c, lock, false); err != nil {
					t.Error(err)
				}
				if _, err := m.Write(ctx, lh, []byte("0123456789"), 0, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := mounts[1].read(h0(t, mounts[1], "counter"), 6, 0); got != fmt.Sprintf("%06d", 6*each) {
		t.Errorf("the counter is %s, want %06d", got, 6*each)
	}
	if a := mounts[2].lookup(RootIno, "log").Attr; a.Size != 6*each*10 {
		t.Errorf("the log has %d bytes, want %d", a.Size, 6*each*10)
	}
}

func h0(t *testing.T, m *mount, name string) Handle {
	e, err := m.Lookup(ctx, root, RootIno, name)
	m.must(err)
	h, _, err := m.Open(ctx, root, e.Attr.Ino, syscall.O_RDWR)
	m.must(err)
	return h
}

// TestConcurrentTree has several servers do colliding operations at once: nothing but the expected
// errors, and a sound tree at the end.
func TestConcurrentTree(t *testing.T) {
	w := newWorld(t, 1<<20)
	w.disk.Lag()
	mounts := []*mount{w.mount(Options{}), w.mount(Options{CacheBlocks: 4, CacheInodes: 4})}
	var dirs []Ino
	for i := range 4 {
		e, err := mounts[0].Mkdir(ctx, root, RootIno, fmt.Sprintf("d%d", i), 0o755)
		mounts[0].must(err)
		dirs = append(dirs, e.Attr.Ino)
	}
	ok := map[errors.Kind]bool{errors.KindNotExist: true, errors.KindExist: true, errors.KindNotEmpty: true, errors.KindIsDir: true,
		errors.KindNotDir: true, errors.KindInvalid: true, errors.KindStale: true, errors.KindPermission: true}
	seed := testSeed(t)
	var wg sync.WaitGroup
	for i := range 6 {
		m, r := mounts[i%2], rand.New(rand.NewSource(seed*100+int64(i)))
		wg.Go(func() {
			for range 250 {
				dir, dir2 := dirs[r.Intn(4)], dirs[r.Intn(4)]
				n1, n2 := fmt.Sprintf("x%d", r.Intn(5)), fmt.Sprintf("x%d", r.Intn(5))
				var err error
				switch r.Intn(8) {
				case 0, 1:
					var h Handle
					if _, h, _, err = m.Create(ctx, root, dir, n1, 0o644, syscall.O_RDWR|syscall.O_CREAT); err == nil {
						_, err = m.Write(ctx, h, make([]byte, r.Intn(9000)), 0, false)
						_ = m.Release(ctx, h)
					}
				case 2:
					_, err = m.Mkdir(ctx, root, dir, n1, 0o755)
				case 3:
					err = m.Unlink(ctx, root, dir, n1)
				case 4:
					err = m.Rmdir(ctx, root, dir, n1)
				case 5, 6:
					err = m.Rename(ctx, root, dir, n1, dir2, n2, uint32(r.Intn(3)))
				case 7:
					var e Entry
					if e, err = m.Lookup(ctx, root, dir, n1); err == nil {
						_, err = m.Link(ctx, root, e.Attr.Ino, dir2, n2)
					}
				}
				if err != nil && !ok[errors.KindOf(err)] {
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, m := range mounts {
		m.must(m.Server.cur.Load().sweepOnce(ctx))
		m.Server.cur.Load().cache.checkInvariants()
	}
	if a, b := mounts[0].dump(), mounts[1].dump(); a != b {
		t.Errorf("the servers differ:\n%s", diffLines(a, b))
	}
	mounts[0].close()
	mounts[1].close()
	w.fsck()
}

// kernel is an Invalidator that behaves like a kernel: DropData waits for reads of those pages under way, DropNames for lookups in
// the directory under way.
type kernel struct {
	mu    sync.Mutex
	cond  *sync.Cond
	reads map[span]int
	names map[Ino]int
	drops int
}

func newKernel() *kernel {
	k := &kernel{reads: map[span]int{}, names: map[Ino]int{}}
	k.cond = sync.NewCond(&k.mu)
	return k
}

func (k *kernel) reading(s span, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads[s.pages()] += n
	k.cond.Broadcast()
}

func (k *kernel) looking(dir Ino, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names[dir] += n
	k.cond.Broadcast()
}

func (k *kernel) busy(off, length uint64) bool {
	for s, n := range k.reads {
		if n > 0 && s.to > off && (length == 0 || s.from < off+length) {
			return true
		}
	}
	return false
}

func (k *kernel) DropData(ino Ino, off, length uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drops++
	for k.busy(off, length) {
		k.cond.Wait()
	}
}
func (k *kernel) DropAttr(ino Ino) {}
func (k *kernel) DropNames(dir Ino) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drops++
	for k.names[dir] > 0 {
		k.cond.Wait()
	}
}

// TestRevokeWithKernel reads through writable handles, looks up and writes on two servers whose
// kernels wait for requests under way: nothing deadlocks. (Taking the admission of waiting requests out of revokeServing makes it hang.)
func TestRevokeWithKernel(t *testing.T) {
	w := newWorld(t, 1<<20)
	var mounts []*mount
	var kernels []*kernel
	for range 2 {
		k := newKernel()
		kernels = append(kernels, k)
		mounts = append(mounts, w.mount(Options{Invalidator: k}))
	}
	_, h := mounts[0].create(RootIno, "f")
	mounts[0].write(h, string(make([]byte, 100_000)), 0)
	var wg sync.WaitGroup
	for i := range 6 {
		m, k := mounts[i%2], kernels[i%2]
		hh := h0(t, m, "f")
		wg.Go(func() {
			buf := make([]byte, 5000)
			for j := range 150 {
				switch (i/2 + j) % 3 {
				case 0:
					at := span{uint64(j * 100), uint64(j*100 + len(buf))}
					k.reading(at, 1)
					_, err := m.Read(ctx, hh, buf, at.from)
					k.reading(at, -1)
					if err != nil {
						t.Error(err)
					}
				case 1:
					k.looking(RootIno, 1)
					_, err := m.Lookup(ctx, root, RootIno, "f")
					k.looking(RootIno, -1)
					if err != nil {
						t.Error(err)
					}
				case 2:
					if _, err := m.Write(ctx, hh, buf[:50], uint64(j*100), false); err != nil {
						t.Error(err)
					}
					n := fmt.Sprintf("n%d-%d", i, j)
					if _, hx, _, err := m.Create(ctx, root, RootIno, n, 0o644, syscall.O_RDWR); err != nil {
						t.Error(err)
					} else {
						_ = m.Release(ctx, hx)
					}
				}
			}
		})
	}
	wg.Wait()
	if kernels[0].drops == 0 {
		t.Error("no kernel cache was ever dropped")
	}
}

// TestLookupUncacheable looks at the promises of answers: what is told while a revoke is near may not be kept.
func TestLookupUncacheable(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	ino, _ := m.create(RootIno, "f")
	if e := m.lookup(RootIno, "f"); !e.AttrCacheable || !e.NameCacheable {
		t.Errorf("%+v is not cacheable, with both locks held", e)
	}
	if e, err := m.Lookup(ctx, root, RootIno, "absent"); !errors.Is(err, errors.KindNotExist) || !e.NameCacheable {
		t.Errorf("the absence of a name is not cacheable: %+v, %v", e, err)
	}
	m.PrepareRevoke(lockserver.LockID(RootIno), lockserver.None)
	if e, _ := m.Lookup(ctx, root, RootIno, "absent"); e.NameCacheable {
		t.Errorf("the absence of a name in a directory being revoked is cacheable")
	}
	if e := m.lookup(RootIno, "f"); !e.AttrCacheable || e.NameCacheable {
		t.Errorf("a name of a directory being revoked is cacheable")
	}
	m.PrepareRevoke(lockserver.LockID(ino), lockserver.None)
	if e := m.lookup(RootIno, "f"); e.AttrCacheable {
		t.Errorf("attributes of an inode being revoked are cacheable")
	}
}

// TestStrictListing lists, as a thin client does, a directory whose file another server has in memory: the attributes are the right ones.
func TestStrictListing(t *testing.T) {
	w := newWorld(t, 1<<20)
	w.disk.Lag()
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "f")
	d, err := b.OpenDir(ctx, &Caller{Check: true}, RootIno)
	b.must(err)
	for i := range 20 {
		a.write(h, "x", uint64(i*1000))
		b.must(b.ReadDir(ctx, d, 0, true, func(e DirEntry) bool {
			if e.Ino == ino && (e.Entry == nil || e.Entry.Attr.Size != uint64(i*1000+1)) {
				t.Errorf("listed as %+v after a write that ends at %d", e.Entry, i*1000+1)
			}
			return true
		}))
	}
}
