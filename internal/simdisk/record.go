package simdisk

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// hostFiles are the files of a data directory that stay on the host: what they hold, by their path below it.
type hostFiles map[string][]byte

// unpack makes them anew below dir.
func (h hostFiles) unpack(dir string) error {
	for name, data := range h {
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

func readHost(dir string) (hostFiles, error) {
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

// Unpack makes the files that stay on the host anew below dir, where they are from now on: one Commit comes after the other then,
// and Clone finds them whole.
func (d *Disk) Unpack(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dir = dir
	return d.host.unpack(dir)
}

// Clone copies it, with the files on the host, under a power supply of its own that is on and draws from rng. What is recorded is
// not copied, nor where the host has its files. Without an rng it can do what draws nothing.
func (d *Disk) Clone(rng *rand.Rand) (*Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clone(rng)
}

func (d *Disk) clone(rng *rand.Rand) (*Disk, error) {
	c := &Disk{Power: NewPower(rng), files: map[int]*file{}, made: d.made, names: maps.Clone(d.names), durable: maps.Clone(d.durable),
		changes: slices.Clone(d.changes), blocks: maps.Clone(d.blocks), full: d.full, host: d.host}
	for id, f := range d.files {
		c.files[id] = f.clone()
	}
	if d.dir == "" {
		return c, nil
	}
	var err error
	c.host, err = readHost(d.dir)
	return c, err
}

// Record keeps every operation from here on, of a disk that is unpacked; before is a clone from before them.
func (d *Disk) Record() (before *Disk, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording = true
	return d.clone(nil)
}

// Recorded is how many operations there are so far.
func (d *Disk) Recorded() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.record)
}

// EndRecord records no more, and returns what was.
func (d *Disk) EndRecord() []Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording = false
	return d.record
}

// Redo does an operation that another disk has recorded.
func (d *Disk) Redo(o *Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.do(o, false)
}

// Crash makes of the disk what a loss leaves that comes within o, or before it if everything is lost; nil: after all that was done.
func (d *Disk) Crash(o *Op, l Loss) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o != nil && l != Everything {
		d.do(o, l == Torn)
	}
	if o != nil && o.kind == Commit && l == Torn && d.rng.IntN(2) == 0 {
		d.host = o.host
	}
	d.lose(l)
}

var hashSeed = maphash.MakeSeed()

// Sum is a checksum of all that is seen on the disk and of the files on the host, as Unpack would make them: to tell clones apart in
// one process.
func (d *Disk) Sum() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(hashSeed)
	for _, names := range []map[string]int{d.names, d.blocks} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			f := d.files[names[name]]
			fmt.Fprintf(&h, "%s %d\n", name, f.length)
			for _, pg := range slices.Sorted(maps.Keys(f.pages)) {
				if p := f.pages[pg]; p != zeroPage {
					fmt.Fprintf(&h, "%d", pg)
					h.Write(p[:])
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.host)) {
		h.WriteString(name)
		h.Write(d.host[name])
	}
	return h.Sum64()
}
