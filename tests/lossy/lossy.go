// Package lossy is a directory below a FUSE file system that can do what a bad disk does: at a loss of power it forgets or tears what
// was not synced, and it can fail every write and sync with EIO.
//
// Everything is done at once in a directory of the host, and what is undone at a loss of power is remembered beside it:
//
//   - The content of each block of 4 KiB as it was when the file was last synced (fsync, fdatasync, or a write through a descriptor
//     with O_DSYNC or O_SYNC, which syncs what it writes), and the file's size then. Each sector of 512 bytes of such a block is either
//     as then or as now. O_DIRECT makes nothing durable: a disk has a cache of its own.
//   - Names made, renamed and removed since a directory or a file whose size changed was last synced, in order: a prefix of them survives,
//     as in a file system with a journal.
package lossy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// blockSize is what is remembered at once, sectorSize what is whole or not at all.
const (
	blockSize  = 4096
	sectorSize = 512
)

// Disk is such a directory.
type Disk struct {
	dir     string // where it is mounted
	backing string // where it is kept
	removed string // where removed files are kept until that is durable
	server  *fuse.Server
	failing atomic.Bool

	mu    sync.Mutex
	files map[uint64]*state // by inode number
	names []func()          // how to undo changes of names, in their order
	last  int               // number of the last file in removed
	off   bool
	lost  int // blocks that were undone
}

var zeros = make([]byte, blockSize)

// state is what a loss of power leaves of a file at the least.
type state struct {
	size    int64            // synced
	resized bool             // since it was synced
	old     map[int64][]byte // blocks that changed since they were synced, as they were then
	path    string           // any of its names in the backing directory
}

// New makes a disk that is mounted at dir, which must exist, and keeps what it holds in scratch, which must be empty.
func New(dir, scratch string) (*Disk, error) {
	d := &Disk{dir: dir, backing: filepath.Join(scratch, "data"), removed: filepath.Join(scratch, "removed"), files: map[uint64]*state{}}
	for _, path := range []string{d.backing, d.removed} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
	}
	return d, d.mount()
}

func (d *Disk) mount() error {
	root := &fs.LoopbackRoot{Path: d.backing}
	root.RootNode = d.node(root)
	server, err := fs.Mount(d.dir, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{FsName: "lossy", Name: "lossy", DirectMount: true, MaxWrite: 1 << 20}})
	if err != nil {
		return fmt.Errorf("mounting a lossy directory at %s: %w", d.dir, err)
	}
	d.server = server
	return nil
}

func (d *Disk) node(root *fs.LoopbackRoot) *node {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: root}, d: d}
}

// Fail lets every write and sync from now on fail with EIO, or no more.
func (d *Disk) Fail(yes bool) { d.failing.Store(yes) }

// PowerOff is the loss of power: from now on every operation fails.
func (d *Disk) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// PowerOn undoes what the loss of power cost, as r decides, and mounts the directory again. Nobody may use it.
func (d *Disk) PowerOn(r *rand.Rand) error {
	if err := d.Close(); err != nil {
		return err
	}
	d.mu.Lock()
	err := d.lose(r)
	d.off = false
	d.mu.Unlock()
	d.failing.Store(false)
	if err != nil {
		return err
	}
	return d.mount()
}

// Lost is how many blocks were undone until now.
func (d *Disk) Lost() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// Close unmounts the directory, which nobody may use.
func (d *Disk) Close() error {
	if d.server == nil {
		return nil
	}
	if err := d.server.Unmount(); err != nil {
		return err
	}
	d.server = nil
	return nil
}

// lose undoes what was not synced.
func (d *Disk) lose(r *rand.Rand) error {
	whole := r.IntN(2) == 0 // all of it, or any sectors
	for _, s := range d.files {
		if err := d.loseOf(s, func() bool { return whole || r.IntN(2) == 0 }); err != nil {
			return err
		}
	}
	kept := 0
	if !whole && len(d.names) > 0 {
		kept = r.IntN(len(d.names) + 1)
	}
	for i := len(d.names) - 1; i >= kept; i-- {
		d.names[i]()
	}
	d.names, d.files = nil, map[uint64]*state{}
	return nil
}

// loseOf undoes what was not synced of one file; undo decides of each sector.
func (d *Disk) loseOf(s *state, undo func() bool) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return nil // its removal is durable
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	if size < s.size || size > s.size && undo() {
		size = s.size
	}
	now := make([]byte, blockSize)
	for b, old := range s.old {
		if n, err := f.ReadAt(now, b*blockSize); n < blockSize && !errors.Is(err, io.EOF) {
			return err
		} else if clear(now[n:]); bytes.Equal(now, old) {
			continue
		}
		d.lost++
		for at := int64(0); at < blockSize; at += sectorSize {
			if undo() {
				if _, err := f.WriteAt(old[at:at+sectorSize], b*blockSize+at); err != nil {
					return err
				}
			}
		}
	}
	return f.Truncate(size)
}

// change prepares the change of a range of a file: what it holds is remembered unless an earlier state is.
func (d *Disk) change(fd int, path string, off, size int64) (*state, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	s := d.files[st.Ino]
	if s == nil {
		s = &state{size: st.Size, old: map[int64][]byte{}}
		d.files[st.Ino] = s
	}
	s.path = path
	for b := off / blockSize; b*blockSize < off+size; b++ {
		switch {
		case s.old[b] != nil:
		case b*blockSize >= st.Size:
			s.old[b] = zeros
		default:
			old := make([]byte, blockSize)
			if _, err := unix.Pread(fd, old, b*blockSize); err != nil {
				return nil, err
			}
			s.old[b] = old
		}
	}
	if off+size > st.Size {
		s.resized = true
	}
	return s, nil
}

// changeData is change of what is not a hole between two offsets, whose holes stay such.
func (d *Disk) changeData(fd int, path string, from, to int64) error {
	for from < to {
		data, err := unix.Seek(fd, from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= to {
			return nil
		}
		if err != nil {
			return err
		}
		if from, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := d.change(fd, path, data, min(from, to)-data); err != nil {
			return err
		}
	}
	return nil
}

// synced forgets how a range of a file was; a size that was not durable, and names with it, become so. A negative size means all of the file.
func (d *Disk) synced(fd int, off, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	s := d.files[st.Ino]
	if s == nil {
		return nil
	}
	if size < 0 {
		s.old = map[int64][]byte{}
	}
	for b := off / blockSize; b*blockSize < off+size; b++ {
		if b*blockSize < off || (b+1)*blockSize > off+size && off+size < st.Size {
			continue // only a part of it was written: the rest stays unsynced, and it with that
		}
		delete(s.old, b)
	}
	if s.resized {
		d.names = nil
	}
	s.size, s.resized = st.Size, false
	return nil
}
