package sim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"

	"dfs/blockstore/device"
	"dfs/wal/seglog"
)

// The fault model of a disk. What a loss of power does to a machine's files:
//
//   - data and checksum files of the device: a 512-byte sector written since the file's last sync holds any one of the versions
//     that it had since then, so writes may be torn in any way, and later ones survive without earlier ones; a size likewise;
//   - segments of the Raft log: a durable write (O_DSYNC) is on the disk when it returns, one under way is torn in any way;
//     what was written otherwise as above; of the names made, renamed and removed since the last sync of the directory a prefix survives;
//   - term and vote, the chunk map (bbolt), manifests, node.json: changed whole or not at all, as those packages promise.
//
// A kill of the process alone loses nothing of this. A disk may also fail (EIO, and the process ends), hang for a while, or rot:
// a bit of what is synced turns over.
const (
	sector = 512
	page   = 4096
)

var errDisk = errors.New("sim: term and vote, the map or a manifest could not be written")

var errPower = errors.New("sim: the power failed")

// disk is a machine's disk.
type disk struct {
	mu      sync.Mutex
	rng     *rand.Rand
	off     bool   // nothing is done any more
	offIn   int    // the power fails within that operation from now; 0: not
	onOff   func() // called once when it does, with mu held
	failing int    // so many operations fail with EIO from now on
	doomed  bool   // one has that no process can do without
	ending  bool   // one has: the process must end, and says nothing more
	onEnd   func() // called once when it does, with mu held
	onFatal func() // called when it cannot note what it must, with mu held
	excuse  bool   // the process may end itself: its disk failed or hung

	names   map[string]*inode // of the log's directory, as seen
	durable map[string]*inode
	changes []func(map[string]*inode)
	blocks  map[string]*inode // the device's
	hang    hang
}

// inode is a file's content; its disk's mutex guards it.
type inode struct {
	d        *disk
	pages    map[int64]*[page]byte
	length   int64
	versions map[int64][][sector]byte // what sectors held, written since the last sync, from the synced content on
	lengths  []int64
}

var (
	_ seglog.FS     = logDir{}
	_ device.Volume = volume{}
)

func newDisk(rng *rand.Rand) *disk {
	return &disk{rng: rng, names: map[string]*inode{}, durable: map[string]*inode{}, blocks: map[string]*inode{}}
}

// step counts an operation; within: it begins, but the power fails before its end. mu is held.
func (d *disk) step() (within bool, err error) {
	if d.off {
		return false, errPower
	}
	if d.failing > 0 {
		d.failing--
		if !d.ending && d.onEnd != nil {
			d.onEnd()
		}
		d.ending = true
		return false, syscall.EIO
	}
	if d.offIn > 0 {
		if d.offIn--; d.offIn == 0 {
			d.off = true
			if d.onOff != nil {
				d.onOff()
			}
			return true, errPower
		}
	}
	return false, nil
}

// Commit changes a file of the host, whole or not at all: raftstore.Power's.
func (d *disk) Commit(change func() error) error {
	d.hang.wait()
	d.mu.Lock()
	within, err := d.step()
	made := err == nil || within && d.rng.IntN(2) == 0
	if err == syscall.EIO && d.onFatal != nil {
		d.doomed = true
		d.onFatal()
	}
	d.mu.Unlock()
	if made {
		if cerr := change(); cerr != nil {
			return cerr
		}
	}
	return err
}

// Off is raftstore.Power's.
func (d *disk) Off() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off || d.ending
}

// goesOn forgets an error after which the process did not end.
func (d *disk) goesOn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.ending && !d.off && !d.doomed
	d.ending = d.doomed
	return was
}

// powerLost tells whether it is the power that failed.
func (d *disk) powerLost() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// cut takes the disk from its process: nothing more is done.
func (d *disk) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	d.hang.end()
}

// armed tells whether the power is about to fail.
func (d *disk) armed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.offIn > 0
}

// disarm lets it stay on.
func (d *disk) disarm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offIn = 0
}

// calm takes back what was to come.
func (d *disk) calm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offIn, d.failing = 0, 0
	d.hang.end()
}

// restart gives it to the next one; lost: the power was lost between.
func (d *disk) restart(lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if lost {
		d.lose()
	}
	d.off, d.ending, d.doomed, d.offIn, d.failing, d.excuse = false, false, false, 0, 0, false
	d.onOff, d.onEnd, d.onFatal = nil, nil, nil
}

// lose makes of the disk what a loss of power leaves.
func (d *disk) lose() {
	for _, c := range d.changes[:d.rng.IntN(len(d.changes)+1)] {
		c(d.durable)
	}
	d.changes, d.names = nil, map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(d.durable)) {
		d.names[name] = d.durable[name]
		d.names[name].lose()
	}
	for _, name := range slices.Sorted(maps.Keys(d.blocks)) {
		d.blocks[name].lose()
	}
}

func (n *inode) lose() {
	rng := n.d.rng
	all := rng.IntN(6) // now and then everything of a file is lost, or nothing: a host writes back in bursts
	for _, s := range slices.Sorted(maps.Keys(n.versions)) {
		vs := n.versions[s]
		i := rng.IntN(len(vs) + 1)
		switch all {
		case 0:
			i = 0
		case 1:
			i = len(vs)
		}
		if i < len(vs) {
			n.put(vs[i][:], s*sector)
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

// rot turns over a bit of a page of the device's files that is synced; false: there is none.
func (d *disk) rot() (what string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range 20 {
		names := slices.Sorted(maps.Keys(d.blocks))
		if len(names) == 0 {
			return "", false
		}
		name := names[d.rng.IntN(len(names))]
		n := d.blocks[name]
		pages := slices.Sorted(maps.Keys(n.pages))
		if len(pages) == 0 {
			continue
		}
		pg := pages[d.rng.IntN(len(pages))]
		if slices.ContainsFunc(n.versionSectors(), func(s int64) bool { return s*sector/page == pg }) {
			continue
		}
		at := d.rng.IntN(page)
		n.pages[pg][at] ^= 1 << d.rng.IntN(8)
		return fmt.Sprintf("%s, byte %d", name, pg*page+int64(at)), true
	}
	return "", false
}

func (n *inode) versionSectors() []int64 { return slices.Collect(maps.Keys(n.versions)) }

func (d *disk) newInode() *inode {
	return &inode{d: d, pages: map[int64]*[page]byte{}, versions: map[int64][][sector]byte{}}
}

func (n *inode) resize(size int64) {
	n.length = size
	for pg := range n.pages {
		if pg*page >= size {
			delete(n.pages, pg)
		}
	}
}

func (n *inode) put(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/page, off%page
		pg := n.pages[i]
		if pg == nil {
			pg = new([page]byte)
			n.pages[i] = pg
		}
		k := copy(pg[at:], p)
		p, off = p[k:], off+int64(k)
	}
}

func (n *inode) get(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/page, off%page
		k := min(len(p), int(page-at))
		if pg := n.pages[i]; pg != nil {
			copy(p[:k], pg[at:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

func (n *inode) remember(off, size int64) {
	for s := off / sector; s*sector < off+size; s++ {
		var old [sector]byte
		n.get(old[:], s*sector)
		n.versions[s] = append(n.versions[s], old)
	}
}

// write writes p; durable: it is on the disk when it returns nil.
func (n *inode) write(p []byte, off int64, durable bool) error {
	n.d.hang.wait()
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	within, err := n.d.step()
	if err != nil && !within {
		return err
	}
	if !durable || within {
		n.remember(off, int64(len(p)))
	}
	n.put(p, off)
	if end := off + int64(len(p)); end > n.length {
		if !durable || within {
			n.lengths = append(n.lengths, n.length)
		}
		n.length = end
	}
	if durable && err == nil {
		for s := off / sector; s*sector < off+int64(len(p)); s++ {
			delete(n.versions, s)
		}
		n.lengths = nil
	}
	return err
}

func (n *inode) Sync() error {
	n.d.hang.wait()
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if _, err := n.d.step(); err != nil {
		return err // what reached the disk is up to lose
	}
	clear(n.versions)
	n.lengths = nil
	return nil
}

func (n *inode) Grow(size int64) error {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	within, err := n.d.step()
	if err != nil && !within {
		return err
	}
	n.lengths = append(n.lengths, n.length)
	n.resize(size)
	return err
}

func (n *inode) Size() (int64, error) {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	return n.length, nil
}

func (n *inode) Close() error { return nil }

// blockFile is a file of the device.
type blockFile struct{ *inode }

func (f blockFile) WriteAt(p []byte, off int64) error { return f.write(p, off, false) }

func (f blockFile) ReadAt(p []byte, off int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.get(p, off)
	return nil
}

func (f blockFile) Punch(off, size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	within, err := f.d.step()
	if err != nil && !within {
		return err
	}
	for _, pg := range slices.Sorted(maps.Keys(f.pages)) {
		data := f.pages[pg]
		lo, hi := max(off, pg*page), min(off+size, (pg+1)*page)
		if lo >= hi {
			continue
		}
		f.remember(lo, hi-lo)
		if clear(data[lo-pg*page : hi-pg*page]); hi-lo == page {
			delete(f.pages, pg)
		}
	}
	return err
}

func (f blockFile) Used() (uint64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return uint64(len(f.pages)) * page, nil
}

// volume is the device's part of the disk.
type volume struct{ *disk }

func (v volume) Open(name string, create bool) (device.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.blocks[name]
	if n == nil {
		if !create {
			return nil, os.ErrNotExist
		}
		if _, err := v.step(); err != nil {
			return nil, err
		}
		n = v.newInode()
		v.blocks[name] = n
	}
	return blockFile{n}, nil
}

func (v volume) Free() (uint64, error)               { return 1 << 40, nil }
func (v volume) CommitMap(commit func() error) error { return v.Commit(commit) }

// logDir is the Raft log's part of the disk.
type logDir struct{ *disk }

// logFile is a file of the log.
type logFile struct{ *inode }

func (f logFile) WriteDurable(p []byte, off int64) error { return f.write(p, off, true) }
func (f logFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.write(p, off, false)
}
func (f logFile) Truncate(size int64) error { return f.Grow(size) }

func (f logFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off+int64(len(p)) > f.length {
		return 0, io.ErrUnexpectedEOF
	}
	f.get(p, off)
	return len(p), nil
}

func (d logDir) Open(name string, create bool) (seglog.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	switch {
	case create && n != nil:
		return nil, os.ErrExist
	case !create && n == nil:
		return nil, os.ErrNotExist
	case create:
		n = d.newInode()
		if err := d.change(func(m map[string]*inode) { m[name] = n }); err != nil {
			return nil, err
		}
	}
	return logFile{n}, nil
}

// change is one of names.
func (d logDir) change(c func(map[string]*inode)) error {
	within, err := d.step()
	if err != nil && !within {
		return err
	}
	c(d.names)
	d.disk.changes = append(d.disk.changes, c)
	return err
}

func (d logDir) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[from] == nil || d.names[to] != nil {
		return fmt.Errorf("rename %s to %s: not there, or in the way", from, to)
	}
	return d.change(func(m map[string]*inode) { m[to] = m[from]; delete(m, from) })
}

func (d logDir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return os.ErrNotExist
	}
	return d.change(func(m map[string]*inode) { delete(m, name) })
}

func (d logDir) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d logDir) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step(); err != nil {
		return err
	}
	for _, c := range d.disk.changes {
		c(d.durable)
	}
	d.disk.changes = nil
	return nil
}

func (d logDir) Close() error { return nil }
