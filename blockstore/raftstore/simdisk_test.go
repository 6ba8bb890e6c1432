package raftstore

import (
	stderrors "errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"

	"dfs/blockstore/device"
	"dfs/wal/seglog"
)

// What a loss of power does, to all nodes at once, is this:
//
//   - Every write, sync, rename, removal, and every commit of a bbolt file or of a snapshot, is an operation, numbered over all
//     nodes. Within operation power.offAt the power fails; every later one fails.
//   - A 512-byte sector written since the file's last sync holds any one of the versions that it had since then. So a write
//     may be torn in any way, and later writes may survive without earlier ones. A file's size likewise.
//   - A durable write of the log (O_DSYNC) is on the disk when it returns; one that the power failed in is torn in any way.
//   - Names in the log's directory change in order: of the changes since its last sync a prefix survives.
//   - The device's files are created durably. What is in bbolt (term and vote, the chunk map) and the manifests change atomically:
//     a commit that the power fails in was made or not; those packages are trusted to do so. node.json and catchup.json, written
//     through a rename with syncs on both sides, likewise.
//
// A disk can be full besides: a write that needs a page that the file has not fails with ENOSPC and does nothing.

const (
	simSector = 512
	simPage   = 4096
)

var errPower = stderrors.New("the power failed")

// power is the switch of all disks of a run.
type power struct {
	mu    sync.Mutex
	rng   *rand.Rand
	ops   int
	offAt int // 0: never
	off   bool
	lost  chan struct{} // closed when the power fails
	errAt int           // that operation fails with EIO, and no other does; 0: none
	erred bool          // it has
	site  string        // what the operation was that the fault hit
}

func newPower(seed uint64) *power {
	return &power{rng: rand.New(rand.NewPCG(seed, 5)), lost: make(chan struct{})}
}

// failWithin lets the power fail within the n-th operation from now; 0: never.
func (p *power) failWithin(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops, p.offAt = 0, n
}

// cut lets the power fail now.
func (p *power) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail()
}

func (p *power) fail() {
	if !p.off {
		p.off = true
		close(p.lost)
	}
}

func (p *power) isOff() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}

// restore is called when nothing runs any more but, perhaps, a last heartbeat.
func (p *power) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off, p.offAt, p.ops, p.lost = false, 0, 0, make(chan struct{})
	p.errAt, p.erred, p.site = 0, false, ""
}

// errorAt lets the n-th operation from now fail, and no other.
func (p *power) errorAt(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops, p.errAt = 0, n
}

// hit tells whether the fault that was asked for has come, and where.
func (p *power) hit() (site string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.site, p.off || p.erred
}

// step counts an operation; within: it begins, but the power fails before its end. mu is held.
func (p *power) step(site string) (within bool, err error) {
	if p.off {
		return false, errPower
	}
	switch p.ops++; p.ops {
	case p.offAt:
		p.site = site
		p.fail()
		return true, errPower
	case p.errAt:
		p.erred, p.site = true, site
		return false, syscall.EIO
	}
	return false, nil
}

var _ Power = (*power)(nil)

// Off is Power's.
func (p *power) Off() bool { return p.isOff() }

// Commit is an atomic change of what is not on a simulated disk.
func (p *power) Commit(f func() error) error {
	p.mu.Lock()
	within, err := p.step("commit")
	made := err == nil || within && p.rng.IntN(2) == 0
	p.mu.Unlock()
	if made {
		if ferr := f(); ferr != nil {
			return ferr
		}
	}
	return err
}

// simInode is a file's content. The power's mutex guards it.
type simInode struct {
	d        *simDisk
	pages    map[int64]*[simPage]byte
	length   int64
	versions map[int64][][simSector]byte // sectors written since the last sync: what they held before, from the synced content on
	lengths  []int64
}

// simDisk is a node's disk: the directory of its log, and the files of its device.
type simDisk struct {
	p       *power
	names   map[string]*simInode // the log's, as seen
	durable map[string]*simInode
	changes []func(map[string]*simInode)
	blocks  map[string]*simInode // the device's
	used    int                  // pages
	full    int                  // no more than so many; 0: any
}

var (
	_ seglog.FS     = simLogDir{}
	_ device.Volume = simVolume{}
)

func newSimDisk(p *power) *simDisk {
	return &simDisk{p: p, names: map[string]*simInode{}, durable: map[string]*simInode{}, blocks: map[string]*simInode{}}
}

func (d *simDisk) newInode() *simInode {
	return &simInode{d: d, pages: map[int64]*[simPage]byte{}, versions: map[int64][][simSector]byte{}}
}

// setFull lets the disk have room for spare more pages; negative: for any number.
func (d *simDisk) setFull(spare int) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	d.full = 0
	if spare >= 0 {
		d.full = d.used + spare
	}
}

// lose makes of the disk what a loss of power leaves.
func (d *simDisk) lose() {
	for _, c := range d.changes[:d.p.rng.IntN(len(d.changes)+1)] {
		c(d.durable)
	}
	d.changes, d.names = nil, map[string]*simInode{}
	for _, name := range slices.Sorted(keysOf(d.durable)) {
		d.names[name] = d.durable[name]
		d.names[name].lose()
	}
	for _, name := range slices.Sorted(keysOf(d.blocks)) {
		d.blocks[name].lose()
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (n *simInode) lose() {
	rng := n.d.p.rng
	// Now and then everything of a file is lost, or nothing: a host writes back in bursts.
	all := rng.IntN(6)
	sectors := make([]int64, 0, len(n.versions))
	for s := range n.versions {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	for _, s := range sectors {
		vs := n.versions[s]
		i := rng.IntN(len(vs) + 1)
		switch all {
		case 0:
			i = 0
		case 1:
			i = len(vs)
		}
		if i < len(vs) {
			n.put(vs[i][:], s*simSector)
		}
	}
	if k := len(n.lengths); k > 0 {
		if i := rng.IntN(k + 1); i < k {
			n.resize(n.lengths[i])
		}
	}
	clear(n.versions)
	n.lengths = nil
}

func (n *simInode) resize(size int64) {
	n.length = size
	for pg := range n.pages {
		if pg*simPage >= size {
			delete(n.pages, pg)
			n.d.used--
		}
	}
}

func (n *simInode) put(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/simPage, off%simPage
		pg := n.pages[i]
		if pg == nil {
			pg = new([simPage]byte)
			n.pages[i] = pg
			n.d.used++
		}
		k := copy(pg[at:], p)
		p, off = p[k:], off+int64(k)
	}
}

func (n *simInode) get(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/simPage, off%simPage
		k := min(len(p), int(simPage-at))
		if pg := n.pages[i]; pg != nil {
			copy(p[:k], pg[at:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

func (n *simInode) remember(off, size int64) {
	for s := off / simSector; s*simSector < off+size; s++ {
		var old [simSector]byte
		n.get(old[:], s*simSector)
		n.versions[s] = append(n.versions[s], old)
	}
}

// write writes p; durable: it is on the disk when it returns nil.
func (n *simInode) write(p []byte, off int64, durable bool) error {
	n.d.p.mu.Lock()
	defer n.d.p.mu.Unlock()
	site := "write"
	if durable {
		site = "durable write"
	}
	within, err := n.d.p.step(site)
	if err != nil && !within {
		return err
	}
	fresh := 0
	for pg := off / simPage; pg*simPage < off+int64(len(p)); pg++ {
		if n.pages[pg] == nil {
			fresh++
		}
	}
	if n.d.full > 0 && n.d.used+fresh > n.d.full {
		return syscall.ENOSPC
	}
	n.remember(off, int64(len(p)))
	n.put(p, off)
	if end := off + int64(len(p)); end > n.length {
		n.lengths = append(n.lengths, n.length)
		n.length = end
	}
	if durable && err == nil {
		for s := off / simSector; s*simSector < off+int64(len(p)); s++ {
			delete(n.versions, s)
		}
		n.lengths = nil
	}
	return err
}

func (n *simInode) Sync() error {
	n.d.p.mu.Lock()
	defer n.d.p.mu.Unlock()
	if _, err := n.d.p.step("sync"); err != nil {
		return err // what reached the disk is up to lose
	}
	clear(n.versions)
	n.lengths = nil
	return nil
}

func (n *simInode) Grow(size int64) error {
	n.d.p.mu.Lock()
	defer n.d.p.mu.Unlock()
	within, err := n.d.p.step("grow")
	if err != nil && !within {
		return err
	}
	n.lengths = append(n.lengths, n.length)
	n.resize(size)
	return err
}

func (n *simInode) Size() (int64, error) {
	n.d.p.mu.Lock()
	defer n.d.p.mu.Unlock()
	return n.length, nil
}

func (n *simInode) Close() error { return nil }

// simBlocks is a file of the device.
type simBlocks struct{ *simInode }

func (f simBlocks) WriteAt(p []byte, off int64) error { return f.write(p, off, false) }

func (f simBlocks) ReadAt(p []byte, off int64) error {
	f.d.p.mu.Lock()
	defer f.d.p.mu.Unlock()
	f.get(p, off)
	return nil
}

func (f simBlocks) Punch(off, size int64) error {
	f.d.p.mu.Lock()
	defer f.d.p.mu.Unlock()
	within, err := f.d.p.step("punch")
	if err != nil && !within {
		return err
	}
	for pg, page := range f.pages {
		lo, hi := max(off, pg*simPage), min(off+size, (pg+1)*simPage)
		if lo >= hi {
			continue
		}
		f.remember(lo, hi-lo)
		if clear(page[lo-pg*simPage : hi-pg*simPage]); hi-lo == simPage {
			delete(f.pages, pg)
			f.d.used--
		}
	}
	return err
}

func (f simBlocks) Used() (uint64, error) {
	f.d.p.mu.Lock()
	defer f.d.p.mu.Unlock()
	return uint64(len(f.pages)) * simPage, nil
}

// simVolume is the device's part of the disk.
type simVolume struct{ *simDisk }

func (v simVolume) Open(name string, create bool) (device.File, error) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	n := v.blocks[name]
	if n == nil {
		if !create {
			return nil, os.ErrNotExist
		}
		if _, err := v.p.step("create"); err != nil {
			return nil, err
		}
		n = v.newInode()
		v.blocks[name] = n
	}
	return simBlocks{n}, nil
}

func (v simVolume) Free() (uint64, error)               { return 1 << 40, nil }
func (v simVolume) CommitMap(commit func() error) error { return v.p.Commit(commit) }

// simLogDir is the log's part of the disk.
type simLogDir struct{ *simDisk }

// simLogFile is a file of the log.
type simLogFile struct{ *simInode }

func (f simLogFile) WriteDurable(p []byte, off int64) error { return f.write(p, off, true) }
func (f simLogFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.write(p, off, false)
}
func (f simLogFile) Truncate(size int64) error { return f.Grow(size) }

func (f simLogFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.p.mu.Lock()
	defer f.d.p.mu.Unlock()
	if off+int64(len(p)) > f.length {
		return 0, io.ErrUnexpectedEOF
	}
	f.get(p, off)
	return len(p), nil
}

func (d simLogDir) Open(name string, create bool) (seglog.File, error) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	n := d.names[name]
	switch {
	case create && n != nil:
		return nil, os.ErrExist
	case !create && n == nil:
		return nil, os.ErrNotExist
	case create:
		n = d.newInode()
		if err := d.change(func(m map[string]*simInode) { m[name] = n }); err != nil {
			return nil, err
		}
	}
	return simLogFile{n}, nil
}

// change is one of names.
func (d simLogDir) change(c func(map[string]*simInode)) error {
	within, err := d.p.step("change of a name")
	if err != nil && !within {
		return err
	}
	c(d.names)
	d.simDisk.changes = append(d.simDisk.changes, c)
	return err
}

func (d simLogDir) Rename(from, to string) error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if d.names[from] == nil || d.names[to] != nil {
		return fmt.Errorf("rename %s to %s: not there, or in the way", from, to)
	}
	return d.change(func(m map[string]*simInode) { m[to] = m[from]; delete(m, from) })
}

func (d simLogDir) Remove(name string) error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return os.ErrNotExist
	}
	err := d.change(func(m map[string]*simInode) { delete(m, name) })
	if err == nil {
		d.simDisk.used -= len(n.pages)
	}
	return err
}

func (d simLogDir) List() ([]string, error) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	return slices.Sorted(keysOf(d.names)), nil
}

func (d simLogDir) SyncDir() error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if _, err := d.p.step("sync of the directory"); err != nil {
		return err
	}
	for _, c := range d.simDisk.changes {
		c(d.durable)
	}
	d.simDisk.changes = nil
	return nil
}

func (d simLogDir) Close() error { return nil }
