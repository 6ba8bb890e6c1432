package seglog

import (
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
)

// fakeDisk is an FS in memory with this fault model, driven by a seed:
//
//   - Every call that changes something or syncs is an I/O site, numbered from 1. At
//     site crashAt the power fails within the call: of a write, any subset of its
//     512-byte sectors may have reached the disk; a sync, rename or removal may or may
//     not have been done. Every later call fails.
//   - Data written and not synced is lost or kept sector by sector (crash).
//   - WriteDurable is durable when it returns nil.
//   - Names change in order: of the changes since the last SyncDir a prefix survives. A file
//     whose removal survives is gone, one whose creation does not, too. A size set and not synced is kept or lost.
//   - At site failAt the call fails with errInjected without a crash; of a write, any
//     subset of sectors was written. What follows works again.
type fakeDisk struct {
	mu      sync.Mutex
	rng     *rand.Rand
	names   map[string]*fakeInode // as seen
	durable map[string]*fakeInode // as after the last SyncDir
	changes []func(map[string]*fakeInode)
	site    int
	crashAt int
	failAt  int
	down    bool
	opened  int   // files open
	size    int64 // 0: no limit that anyone is told
}

const fakeSector = 512

var (
	errPower    = stderrors.New("fake disk: power failed")
	errInjected = stderrors.New("fake disk: injected failure")
)

type fakeInode struct {
	seen, kept []byte       // as written; as on stable storage
	dirty      map[int]bool // sectors that differ
}

func newFakeDisk(seed uint64) *fakeDisk {
	return &fakeDisk{rng: rand.New(rand.NewPCG(seed, 77)), names: map[string]*fakeInode{}, durable: map[string]*fakeInode{}}
}

// crash turns the disk off and on: what was not durable is kept or lost.
func (d *fakeDisk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.changes[:d.rng.IntN(len(d.changes)+1)] {
		c(d.durable)
	}
	d.changes = nil
	d.names = map[string]*fakeInode{}
	for _, name := range slices.Sorted(mapKeys(d.durable)) {
		n := d.durable[name]
		if len(n.seen) != len(n.kept) && d.rng.IntN(2) == 0 {
			n.kept = resize(n.kept, len(n.seen))
		}
		for _, s := range slices.Sorted(mapKeys(n.dirty)) {
			if d.rng.IntN(2) == 0 && (s+1)*fakeSector <= len(n.kept) {
				copy(n.kept[s*fakeSector:], n.seen[s*fakeSector:(s+1)*fakeSector])
			}
		}
		n.seen, n.dirty = slices.Clone(n.kept), map[int]bool{}
		d.names[name] = n
	}
	d.down, d.crashAt, d.failAt = false, 0, 0
}

// restart is what is left when only the process died at crashAt: everything as it was seen, durable or not.
func (d *fakeDisk) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down, d.crashAt, d.failAt = false, 0, 0
}

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func resize(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

// step counts an I/O site. half: the call is to be done partly, then err returned.
func (d *fakeDisk) step() (half bool, err error) {
	if d.down {
		return false, errPower
	}
	d.site++
	switch d.site {
	case d.crashAt:
		d.down = true
		return true, errPower
	case d.failAt:
		return true, errInjected
	}
	return false, nil
}

func (d *fakeDisk) change(c func(map[string]*fakeInode)) error {
	half, err := d.step()
	if err != nil && (!half || d.rng.IntN(2) == 0) {
		return err
	}
	c(d.names)
	d.changes = append(d.changes, c)
	return err
}

func (d *fakeDisk) Open(name string, create bool) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	switch {
	case d.down:
		return nil, errPower
	case create && n != nil:
		return nil, os.ErrExist
	case !create && n == nil:
		return nil, os.ErrNotExist
	case create:
		n = &fakeInode{dirty: map[int]bool{}}
		if err := d.change(func(m map[string]*fakeInode) { m[name] = n }); err != nil {
			return nil, err
		}
	}
	d.opened++
	return &fakeFile{d: d, n: n}, nil
}

func (d *fakeDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[from] == nil || d.names[to] != nil {
		return fmt.Errorf("rename %s to %s: not there, or in the way", from, to)
	}
	return d.change(func(m map[string]*fakeInode) { m[to] = m[from]; delete(m, from) })
}

func (d *fakeDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return os.ErrNotExist
	}
	return d.change(func(m map[string]*fakeInode) { delete(m, name) })
}

func (d *fakeDisk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, errPower
	}
	return slices.Sorted(mapKeys(d.names)), nil
}

func (d *fakeDisk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if half, err := d.step(); err != nil && (!half || d.rng.IntN(2) == 0) {
		return err
	} else if err != nil {
		d.applyNames()
		return err
	}
	d.applyNames()
	return nil
}

func (d *fakeDisk) applyNames() {
	for _, c := range d.changes {
		c(d.durable)
	}
	d.changes = nil
}

func (d *fakeDisk) FreeBytes() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.size == 0 {
		return 1 << 50, nil
	}
	free := d.size
	for _, i := range d.names {
		free -= int64(len(i.seen))
	}
	return free, nil
}

func (d *fakeDisk) Close() error { return nil }

// fakeFile is an open file.
type fakeFile struct {
	d      *fakeDisk
	n      *fakeInode
	closed bool
}

func (f *fakeFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	switch {
	case f.d.down:
		return 0, errPower
	case f.closed:
		return 0, os.ErrClosed
	case off%Block != 0 || len(p)%Block != 0:
		return 0, fmt.Errorf("unaligned read of %d at %d", len(p), off)
	case off+int64(len(p)) > int64(len(f.n.seen)):
		return 0, fmt.Errorf("read of %d at %d beyond the end %d", len(p), off, len(f.n.seen))
	}
	return copy(p, f.n.seen[off:]), nil
}

// write puts p, or any sectors of it, into the file.
func (f *fakeFile) write(p []byte, off int64, durable bool) error {
	if f.closed {
		return os.ErrClosed
	}
	if off%Block != 0 || len(p)%Block != 0 || len(p) == 0 {
		return fmt.Errorf("unaligned write of %d at %d", len(p), off)
	}
	half, err := f.d.step()
	if err != nil && !half {
		return err
	}
	n := f.n
	n.seen = resize(n.seen, max(len(n.seen), int(off)+len(p)))
	if durable && err == nil {
		n.kept = resize(n.kept, max(len(n.kept), len(n.seen)))
	}
	lossy := f.d.rng.IntN(4) // a torn write may be whole, or nothing, too
	for i := 0; i < len(p); i += fakeSector {
		if half && (lossy == 0 || lossy > 1 && f.d.rng.IntN(2) == 0) {
			continue
		}
		s := int(off)/fakeSector + i/fakeSector
		copy(n.seen[s*fakeSector:], p[i:i+fakeSector])
		n.dirty[s] = true
		if durable && err == nil {
			copy(n.kept[s*fakeSector:], p[i:i+fakeSector])
			delete(n.dirty, s)
		}
	}
	return err
}

func (f *fakeFile) WriteDurable(p []byte, off int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.write(p, off, true)
}

func (f *fakeFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return len(p), f.write(p, off, false)
}

func (f *fakeFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if half, err := f.d.step(); err != nil && (!half || f.d.rng.IntN(2) == 0) {
		return err
	} else if err != nil {
		f.n.kept, f.n.dirty = slices.Clone(f.n.seen), map[int]bool{}
		return err
	}
	f.n.kept = resize(f.n.kept, len(f.n.seen))
	for s := range f.n.dirty {
		copy(f.n.kept[s*fakeSector:(s+1)*fakeSector], f.n.seen[s*fakeSector:])
	}
	f.n.dirty = map[int]bool{}
	return nil
}

func (f *fakeFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if half, err := f.d.step(); err != nil && (!half || f.d.rng.IntN(2) == 0) {
		return err
	} else if err != nil {
		f.n.seen = resize(f.n.seen, int(size))
		return err
	}
	f.n.seen = resize(f.n.seen, int(size))
	return nil
}

func (f *fakeFile) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.down {
		return 0, errPower
	}
	return int64(len(f.n.seen)), nil
}

func (f *fakeFile) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if !f.closed {
		f.closed = true
		f.d.opened--
	}
	return nil
}
