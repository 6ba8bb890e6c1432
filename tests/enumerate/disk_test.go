package enumerate

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"dfs/blockstore/device"
	"dfs/blockstore/raftstore"
	"dfs/wal/seglog"
)

// The fault model is that of tests/sim and blockstore/raftstore: of a 512-byte sector written since the file's last sync any version may
// be on the disk; a durable write (O_DSYNC) is there when it returns, one under way is torn in any way; of the changes of names since the
// directory's last sync a prefix survives; bbolt's files, manifests and node.json change whole or not at all.
//
// Here every change is recorded besides, so that the disk at each moment can be made again from a copy of the disk before.
const (
	sector = 512
	page   = 4096
)

var errOff = errors.New("enumerate: the machine is off")

// kind is that of a change of the disk.
type kind uint8

const (
	evWrite   kind = iota // not durable before evSync
	evDurable             // durable when done
	evSync
	evGrow
	evPunch
	evCreate // a file of the log
	evBlocks // a file of the device, durable
	evRename // in the log's directory, as the next two
	evRemove
	evSyncDir
	evCommit // of the files that stay on the host
)

func (k kind) String() string {
	return [...]string{"write", "durable write", "sync", "grow", "punch", "create", "create", "rename", "remove", "sync of the directory", "commit"}[k]
}

// event is one change.
type event struct {
	kind  kind
	id    int // of the inode
	off   int64
	size  int64
	data  []byte
	name  string
	to    string
	files hostFiles // all of them, after the change
}

// String names it for people.
func (e *event) String() string {
	return fmt.Sprintf("%v inode %d %s%s at %d, %d bytes", e.kind, e.id, e.name, e.to, e.off, max(int64(len(e.data)), e.size))
}

// hostFiles are the files of a data directory that stay on the host.
type hostFiles map[string][]byte

// disk is a machine's disk.
type disk struct {
	mu      sync.Mutex
	dir     string // where the host's files are, while a process runs
	off     bool
	inodes  map[int]*inode
	names   map[string]int // of the log's directory, as seen
	durable map[string]int
	changes []event
	blocks  map[string]int // the device's
	files   hostFiles
	record  bool
	events  []event
}

// inode is a file's content. Pages are never changed in place.
type inode struct {
	pages    map[int64]*[page]byte
	length   int64
	versions map[int64][][sector]byte // what sectors written since the last sync held, from the synced content on
	lengths  []int64
}

var (
	_ seglog.FS       = logDir{}
	_ device.Volume   = volume{}
	_ raftstore.Power = (*disk)(nil)
)

var zeroPage = new([page]byte)

func newDisk() *disk {
	return &disk{inodes: map[int]*inode{}, names: map[string]int{}, durable: map[string]int{}, blocks: map[string]int{}, files: hostFiles{}}
}

// clone copies it; what is recorded is not copied.
func (d *disk) clone() *disk {
	c := &disk{inodes: map[int]*inode{}, names: maps.Clone(d.names), durable: maps.Clone(d.durable), changes: slices.Clone(d.changes),
		blocks: maps.Clone(d.blocks), files: d.files}
	for id, n := range d.inodes {
		m := &inode{pages: maps.Clone(n.pages), length: n.length, versions: map[int64][][sector]byte{}, lengths: slices.Clone(n.lengths)}
		for s, vs := range n.versions {
			m.versions[s] = slices.Clip(vs)
		}
		c.inodes[id] = m
	}
	return c
}

// do carries out one change, or begins it: within.
func (d *disk) do(e *event, within bool) {
	n := d.inodes[e.id]
	switch e.kind {
	case evWrite, evDurable:
		n.write(e.data, e.off, e.kind == evDurable && !within)
	case evSync:
		if !within {
			n.synced()
		}
	case evGrow:
		n.lengths = append(n.lengths, n.length)
		n.resize(e.size)
	case evPunch:
		n.punch(e.off, e.size)
	case evBlocks:
		d.inodes[e.id] = newInode()
		d.blocks[e.name] = e.id
	case evCreate, evRename, evRemove:
		if e.kind == evCreate {
			d.inodes[e.id] = newInode()
		}
		nameChange(d.names, e)
		d.changes = append(d.changes, *e)
	case evSyncDir:
		if !within {
			for i := range d.changes {
				nameChange(d.durable, &d.changes[i])
			}
			d.changes = nil
		}
	case evCommit:
		if !within {
			d.files = e.files
		}
	}
}

func nameChange(names map[string]int, e *event) {
	switch e.kind {
	case evCreate:
		names[e.name] = e.id
	case evRename:
		names[e.to] = names[e.name]
		delete(names, e.name)
	case evRemove:
		delete(names, e.name)
	}
}

// change does and records one; mu is held.
func (d *disk) change(e event) error {
	if d.off {
		return errOff
	}
	d.do(&e, false)
	if d.record {
		d.events = append(d.events, e)
	}
	return nil
}

// loss says what a crash leaves of what was not synced.
type loss uint8

const (
	lossAll  loss = iota // nothing
	lossNone             // all: only the process died
	lossSome             // sectors, sizes and names as drawn
)

func (l loss) String() string { return [...]string{"all lost", "nothing lost", "torn"}[l] }

// crash makes of the disk what a loss of power leaves, within the change e.
func (d *disk) crash(e *event, l loss, rng *rand.Rand) {
	if e != nil && l != lossAll {
		d.do(e, l == lossSome)
	}
	if e != nil && l == lossSome && e.kind == evCommit && rng.IntN(2) == 0 {
		d.files = e.files
	}
	keep := 0
	switch l {
	case lossNone:
		keep = len(d.changes)
	case lossSome:
		keep = rng.IntN(len(d.changes) + 1)
	}
	for i := range d.changes[:keep] {
		nameChange(d.durable, &d.changes[i])
	}
	d.changes, d.names = nil, maps.Clone(d.durable)
	for _, id := range slices.Sorted(maps.Keys(d.inodes)) {
		d.inodes[id].crash(l, rng)
	}
}

func (n *inode) crash(l loss, rng *rand.Rand) {
	for _, s := range slices.Sorted(maps.Keys(n.versions)) {
		vs, i := n.versions[s], 0
		switch l {
		case lossNone:
			i = len(vs)
		case lossSome:
			i = rng.IntN(len(vs) + 1)
		}
		if i < len(vs) {
			n.put(vs[i][:], s*sector)
		}
	}
	if k := len(n.lengths); k > 0 && l != lossNone {
		i := 0
		if l == lossSome {
			i = rng.IntN(k + 1)
		}
		if i < k {
			n.resize(n.lengths[i])
		}
	}
	n.synced()
}

var hashSeed = maphash.MakeSeed()

// sum is a checksum of all that is on the disk.
func (d *disk) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	inodeSum := func(name string, id int) {
		n := d.inodes[id]
		fmt.Fprintf(&h, "%s %d\n", name, n.length)
		for _, pg := range slices.Sorted(maps.Keys(n.pages)) {
			if p := n.pages[pg]; p != zeroPage {
				fmt.Fprintf(&h, "%d", pg)
				h.Write(p[:])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		inodeSum(name, d.names[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.blocks)) {
		inodeSum(name, d.blocks[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		h.WriteString(name)
		h.Write(d.files[name])
	}
	return h.Sum64()
}

func newInode() *inode {
	return &inode{pages: map[int64]*[page]byte{}, versions: map[int64][][sector]byte{}}
}

func (n *inode) synced() {
	clear(n.versions)
	n.lengths = nil
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
		pg := new([page]byte)
		if old := n.pages[i]; old != nil {
			*pg = *old
		}
		k := copy(pg[at:], p)
		if *pg == *zeroPage {
			pg = zeroPage
		}
		n.pages[i] = pg
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

func (n *inode) write(p []byte, off int64, durable bool) {
	if !durable {
		n.remember(off, int64(len(p)))
	}
	n.put(p, off)
	if end := off + int64(len(p)); end > n.length {
		if !durable {
			n.lengths = append(n.lengths, n.length)
		}
		n.length = end
	}
	if durable {
		for s := off / sector; s*sector < off+int64(len(p)); s++ {
			delete(n.versions, s)
		}
		n.lengths = nil
	}
}

func (n *inode) punch(off, size int64) {
	for _, pg := range slices.Sorted(maps.Keys(n.pages)) {
		lo, hi := max(off, pg*page), min(off+size, (pg+1)*page)
		if lo >= hi {
			continue
		}
		n.remember(lo, hi-lo)
		if hi-lo == page {
			delete(n.pages, pg)
			continue
		}
		n.put(make([]byte, hi-lo), lo)
	}
}

// handle is an open file.
type handle struct {
	d  *disk
	id int
}

func (h handle) change(e event) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	e.id = h.id
	return h.d.change(e)
}

func (h handle) Sync() error            { return h.change(event{kind: evSync}) }
func (h handle) Grow(size int64) error  { return h.change(event{kind: evGrow, size: size}) }
func (h handle) Close() error           { return nil }
func (h handle) read(p []byte, o int64) { h.d.inodes[h.id].get(p, o) }

func (h handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return h.d.inodes[h.id].length, nil
}

// blockFile is a file of the device.
type blockFile struct{ handle }

func (f blockFile) WriteAt(p []byte, off int64) error {
	return f.change(event{kind: evWrite, off: off, data: slices.Clone(p)})
}

func (f blockFile) Punch(off, n int64) error {
	return f.change(event{kind: evPunch, off: off, size: n})
}

func (f blockFile) ReadAt(p []byte, off int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.read(p, off)
	return nil
}

func (f blockFile) Used() (uint64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return uint64(len(f.d.inodes[f.id].pages)) * page, nil
}

// volume is the device's part of the disk.
type volume struct{ *disk }

func (v volume) Open(name string, create bool) (device.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.blocks[name]
	if !ok {
		if !create {
			return nil, os.ErrNotExist
		}
		id = len(v.inodes) + 1
		if err := v.change(event{kind: evBlocks, id: id, name: name}); err != nil {
			return nil, err
		}
	}
	return blockFile{handle{v.disk, id}}, nil
}

func (v volume) Free() (uint64, error)               { return 1 << 40, nil }
func (v volume) CommitMap(commit func() error) error { return v.Commit(commit) }

// Commit changes files of the host, whole or not at all.
func (d *disk) Commit(change func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errOff
	}
	if err := change(); err != nil || !d.record {
		return err
	}
	files, err := readFiles(d.dir)
	if err != nil {
		return err
	}
	return d.change(event{kind: evCommit, files: files})
}

// Off is raftstore.Power's.
func (d *disk) Off() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

func readFiles(dir string) (hostFiles, error) {
	files := hostFiles{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[name], err = os.ReadFile(path)
		return err
	})
	return files, err
}

func (f hostFiles) write(dir string) error {
	for name, data := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// logDir is the Raft log's part of the disk.
type logDir struct{ *disk }

// logFile is a file of the log.
type logFile struct{ handle }

func (f logFile) WriteDurable(p []byte, off int64) error {
	return f.change(event{kind: evDurable, off: off, data: slices.Clone(p)})
}

func (f logFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.change(event{kind: evWrite, off: off, data: slices.Clone(p)})
}

func (f logFile) Truncate(size int64) error { return f.Grow(size) }

func (f logFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off+int64(len(p)) > f.d.inodes[f.id].length {
		return 0, io.ErrUnexpectedEOF
	}
	f.read(p, off)
	return len(p), nil
}

func (d logDir) Open(name string, create bool) (seglog.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, there := d.names[name]
	switch {
	case create && there:
		return nil, os.ErrExist
	case !create && !there:
		return nil, os.ErrNotExist
	case create:
		id = len(d.inodes) + 1
		if err := d.change(event{kind: evCreate, id: id, name: name}); err != nil {
			return nil, err
		}
	}
	return logFile{handle{d.disk, id}}, nil
}

func (d logDir) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.names[from]; !there {
		return os.ErrNotExist
	}
	if _, there := d.names[to]; there {
		return os.ErrExist
	}
	return d.change(event{kind: evRename, name: from, to: to})
}

func (d logDir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.names[name]; !there {
		return os.ErrNotExist
	}
	return d.change(event{kind: evRemove, name: name})
}

func (d logDir) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d logDir) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.change(event{kind: evSyncDir})
}

func (d logDir) Close() error { return nil }
