package device

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"

	"dfs/blockstore"
)

const (
	sector   = 512
	pageSize = 4096
)

// fakeVolume keeps files in memory and says what a crash may do to them: each 512-byte sector written since the
// file's last sync holds any of the versions it had since then. What was synced stays.
type fakeVolume struct {
	mu    sync.Mutex
	files map[string]*fakeFile
	ops   int   // I/O operations so far
	fail  int   // that operation fails (0: none)
	err   error // with this
	crash bool  // and all after it fail; a write has done a part
	rnd   *rand.Rand
	site  string // the operation that failed
	reads bool   // reads count as operations
	room  uint64 // what it says is free: a sixteenth of that may be spare windows
}

var (
	errCrash = errors.New("crash")
	errFault = fmt.Errorf("injected: %w", syscall.EIO)
)

func newFakeVolume(seed uint64) *fakeVolume {
	return &fakeVolume{room: 2 << 20, files: map[string]*fakeFile{}, rnd: rand.New(rand.NewPCG(seed, 1))}
}

// op counts an operation; the error if it is the one to fail.
func (v *fakeVolume) op(site string) error {
	v.ops++
	if v.fail != 0 && (v.ops == v.fail || v.crash && v.ops > v.fail) {
		if v.ops == v.fail {
			v.site = site
		}
		return v.err
	}
	return nil
}

type fakeFile struct {
	v        *fakeVolume
	name     string
	pages    map[int64]*[pageSize]byte
	length   int64
	versions map[int64][][sector]byte // unsynced sectors: what they held, from the synced content on
	lengths  []int64
}

func (v *fakeVolume) open(name string, create bool) (file, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f, ok := v.files[name]
	if !ok {
		if !create {
			return nil, os.ErrNotExist
		}
		if err := v.op("create " + name); err != nil {
			return nil, err
		}
		f = &fakeFile{v: v, name: name, pages: map[int64]*[pageSize]byte{}, versions: map[int64][][sector]byte{}}
		v.files[name] = f
	}
	return f, nil
}

func (v *fakeVolume) free() (uint64, error) { return v.room, nil }

// powerLoss leaves of every sector written since the last sync one of its versions;
// processDeath leaves what was written.
func (v *fakeVolume) powerLoss() {
	for _, f := range v.files {
		for s, vs := range f.versions {
			if i := v.rnd.IntN(len(vs) + 1); i < len(vs) {
				f.put(s*sector, vs[i][:])
			}
		}
		if n := len(f.lengths); n > 0 {
			if i := v.rnd.IntN(n + 1); i < n {
				f.length = f.lengths[i]
				for p := range f.pages {
					if p*pageSize >= f.length {
						delete(f.pages, p)
					}
				}
			}
		}
	}
	v.processDeath()
}

func (v *fakeVolume) processDeath() {
	for _, f := range v.files {
		clear(f.versions)
		f.lengths = nil
	}
	v.fail, v.ops, v.crash = 0, 0, false
}

func (f *fakeFile) put(off int64, p []byte) {
	for len(p) > 0 {
		n, at := off/pageSize, off%pageSize
		pg := f.pages[n]
		if pg == nil {
			pg = new([pageSize]byte)
			f.pages[n] = pg
		}
		k := copy(pg[at:], p)
		p, off = p[k:], off+int64(k)
	}
}

func (f *fakeFile) get(p []byte, off int64) {
	for len(p) > 0 {
		n, at := off/pageSize, off%pageSize
		k := min(len(p), int(pageSize-at))
		if pg := f.pages[n]; pg != nil {
			copy(p[:k], pg[at:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

// remember notes what the sectors of [off, off+n) hold.
func (f *fakeFile) remember(off, n int64) {
	for s := off / sector; s*sector < off+n; s++ {
		var old [sector]byte
		f.get(old[:], s*sector)
		f.versions[s] = append(f.versions[s], old)
	}
}

func (f *fakeFile) readAt(p []byte, off int64) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if f.v.reads {
		if err := f.v.op("read " + f.name); err != nil {
			return err
		}
	}
	f.get(p, off)
	return nil
}

func (f *fakeFile) readMedium(p []byte, off int64) error { return f.readAt(p, off) }

func (f *fakeFile) writeAt(bufs [][]byte, off int64) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	err := f.v.op("write " + f.name)
	if err != nil {
		if !f.v.crash || f.v.ops > f.v.fail {
			return err
		}
		all = all[:f.v.rnd.IntN(len(all)/4+1)*4]
	}
	f.remember(off, int64(len(all)))
	f.put(off, all)
	f.length = max(f.length, off+int64(len(all)))
	return err
}

func (f *fakeFile) writeLong(p []byte, off int64) error { return f.writeAt([][]byte{p}, off) }

func (f *fakeFile) punch(off, n int64) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if err := f.v.op("punch " + f.name); err != nil {
		return err
	}
	var hit []int64
	for pg := range f.pages {
		if lo, hi := max(off, pg*pageSize), min(off+n, (pg+1)*pageSize); lo < hi {
			f.remember(lo, hi-lo)
			hit = append(hit, pg)
		}
	}
	for _, pg := range hit {
		lo, hi := max(off, pg*pageSize), min(off+n, (pg+1)*pageSize)
		clear(f.pages[pg][lo-pg*pageSize : hi-pg*pageSize])
	}
	return nil
}

func (f *fakeFile) size() (int64, error) { return f.length, nil }

func (f *fakeFile) grow(size int64) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if err := f.v.op("grow " + f.name); err != nil {
		return err
	}
	f.lengths = append(f.lengths, f.length)
	f.length = size
	return nil
}

func (f *fakeFile) sync() error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if err := f.v.op("sync " + f.name); err != nil {
		return err
	}
	clear(f.versions)
	f.lengths = nil
	return nil
}

func (f *fakeFile) used() (uint64, error) { return uint64(len(f.pages)) * pageSize, nil }
func (f *fakeFile) close() error          { return nil }

// faultMap makes the chunk map's operations sites of the volume's faults. A commit that crashes was
// made or not.
type faultMap struct {
	chunkMap
	v *fakeVolume
}

func (m *faultMap) get(id blockstore.ChunkID) (entry, bool, error) {
	m.v.mu.Lock()
	if m.v.reads {
		if err := m.v.op("map get"); err != nil {
			m.v.mu.Unlock()
			return entry{}, false, err
		}
	}
	m.v.mu.Unlock()
	return m.chunkMap.get(id)
}

func (m *faultMap) commit(d *delta, st mapState) error {
	m.v.mu.Lock()
	err := m.v.op("map commit")
	done := err == nil || m.v.crash && m.v.ops == m.v.fail && m.v.rnd.IntN(2) == 0
	m.v.mu.Unlock()
	if done {
		if err := m.chunkMap.commit(d, st); err != nil {
			return err
		}
	}
	return err
}
