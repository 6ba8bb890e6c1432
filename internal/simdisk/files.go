package simdisk

import (
	"io"
	"maps"
	"os"
	"slices"

	"dfs/blockstore/device"
	"dfs/wal/seglog"
)

// handle is an open file.
type handle struct {
	d *Disk
	f *file
}

func (h handle) change(o Op) error {
	if o.kind == Write || o.kind == WriteDurable || o.kind == Sync {
		h.d.wait()
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	o.file = h.f.id
	return h.d.change(o)
}

func (h handle) Sync() error           { return h.change(Op{kind: Sync}) }
func (h handle) Grow(size int64) error { return h.change(Op{kind: Grow, size: size}) }
func (h handle) Close() error          { return nil }

func (h handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return h.f.length, nil
}

// blockFile is a file of the device.
type blockFile struct{ handle }

func (b blockFile) WriteAt(p []byte, off int64) error {
	return b.change(Op{kind: Write, off: off, data: p})
}

func (b blockFile) Punch(off, n int64) error {
	return b.change(Op{kind: Punch, off: off, size: n})
}

func (b blockFile) ReadAt(p []byte, off int64) error {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	b.f.get(p, off)
	return nil
}

func (b blockFile) Used() (uint64, error) {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	return uint64(len(b.f.pages)) * page, nil
}

// Volume is the device's part of a disk.
type Volume struct{ *Disk }

var _ device.Volume = Volume{}

// Open is device.Volume's.
func (v Volume) Open(name string, create bool) (device.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.blocks[name]
	if !ok {
		if !create {
			return nil, os.ErrNotExist
		}
		id = v.made + 1
		if err := v.change(Op{kind: CreateBlocks, file: id, name: name}); err != nil {
			return nil, err
		}
	}
	return blockFile{handle{v.Disk, v.files[id]}}, nil
}

// Free is device.Volume's: more than any test needs.
func (v Volume) Free() (uint64, error) { return 1 << 40, nil }

// CommitMap is device.Volume's.
func (v Volume) CommitMap(commit func() error) error { return v.Commit(commit) }

// Log is the directory of the Raft log, on a disk.
type Log struct{ *Disk }

var _ seglog.FS = Log{}

// logFile is a file of the log.
type logFile struct{ handle }

func (l logFile) WriteDurable(p []byte, off int64) error {
	return l.change(Op{kind: WriteDurable, off: off, data: p})
}

func (l logFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), l.change(Op{kind: Write, off: off, data: p})
}

func (l logFile) Truncate(size int64) error { return l.Grow(size) }

func (l logFile) ReadAt(p []byte, off int64) (int, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if off+int64(len(p)) > l.f.length {
		return 0, io.ErrUnexpectedEOF
	}
	l.f.get(p, off)
	return len(p), nil
}

// Open is seglog.FS's.
func (d Log) Open(name string, create bool) (seglog.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, there := d.names[name]
	switch {
	case create && there:
		return nil, os.ErrExist
	case !create && !there:
		return nil, os.ErrNotExist
	case create:
		id = d.made + 1
		if err := d.change(Op{kind: Create, file: id, name: name}); err != nil {
			return nil, err
		}
	}
	return logFile{handle{d.Disk, d.files[id]}}, nil
}

// Rename is seglog.FS's.
func (d Log) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.names[from]; !there {
		return os.ErrNotExist
	}
	if _, there := d.names[to]; there {
		return os.ErrExist
	}
	return d.change(Op{kind: Rename, name: from, to: to})
}

// Remove is seglog.FS's.
func (d Log) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.names[name]; !there {
		return os.ErrNotExist
	}
	return d.change(Op{kind: Remove, name: name})
}

// List is seglog.FS's.
func (d Log) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

// SyncDir is seglog.FS's.
func (d Log) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.change(Op{kind: SyncDir})
}

// FreeBytes is seglog.FS's: more than any test needs.
func (d Log) FreeBytes() (int64, error) { return 1 << 40, nil }

// Close is seglog.FS's.
func (d Log) Close() error { return nil }
