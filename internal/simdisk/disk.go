package simdisk

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
)

// Kind is that of an operation.
type Kind uint8

// The kinds of operations. Create, Rename, Remove and SyncDir are of the log's directory, CreateBlocks of the device's files,
// Commit of the files that stay on the host.
const (
	Write Kind = iota // durable after a Sync
	WriteDurable
	Sync
	Grow
	Punch
	Create
	CreateBlocks
	Rename
	Remove
	SyncDir
	Commit
)

// String names it for people.
func (k Kind) String() string {
	return [...]string{"write", "durable write", "sync", "change of a size", "punch", "create", "create of a block file", "rename", "remove", "sync of the directory", "commit"}[k]
}

// Op is one operation.
type Op struct {
	kind Kind
	file int // its id
	off  int64
	size int64
	data []byte
	name string
	to   string
	host hostFiles // all of them, after the commit
}

// String names it for people.
func (o *Op) String() string {
	return fmt.Sprintf("%v file %d %s%s at %d, %d bytes", o.kind, o.file, o.name, o.to, o.off, max(int64(len(o.data)), o.size))
}

// Loss says what is left of what was not synced.
type Loss uint8

// Everything is lost, or Nothing (only the process died), or sectors, sizes and names as drawn.
const (
	Everything Loss = iota
	Nothing
	Torn
)

// String names it for people.
func (l Loss) String() string { return [...]string{"all lost", "nothing lost", "torn"}[l] }

// Disk is a machine's disk, under a power supply, whose lock guards it. Safe for concurrent use.
type Disk struct {
	*Power
	files   map[int]*file
	made    int            // of files, ever
	names   map[string]int // of the log's directory, as seen
	durable map[string]int // likewise, as they are on the disk for certain
	changes []Op           // of names since the last sync of the directory
	blocks  map[string]int // the device's
	full    int            // no more pages than so many; 0: any number

	host      hostFiles // as of the clone, or of the last Commit of what was redone
	dir       string    // where the host has them; "": somewhere
	recording bool
	record    []Op
}

// New returns an empty disk.
func New(p *Power) *Disk {
	return &Disk{Power: p, files: map[int]*file{}, names: map[string]int{}, durable: map[string]int{}, blocks: map[string]int{}}
}

// SetRoom lets the disk have room for so many more pages of 4 KiB; negative: for any number.
func (d *Disk) SetRoom(pages int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = 0
	if pages >= 0 {
		d.full = d.used() + pages
	}
}

// used is how many pages the files have that have a name.
func (d *Disk) used() (n int) {
	for _, names := range []map[string]int{d.names, d.blocks} {
		for _, id := range names {
			n += len(d.files[id].pages)
		}
	}
	return n
}

// Commit makes one change of files that stay on the host, whole or not at all: raftstore.Power's.
func (d *Disk) Commit(change func() error) error {
	d.wait()
	d.mu.Lock()
	within, err := d.step(Commit)
	made := err == nil || within && d.rng.IntN(2) == 0
	alone := d.dir != "" // the host's files are read beside it
	if alone {
		defer d.mu.Unlock()
	} else {
		d.mu.Unlock()
	}
	if !made {
		return err
	}
	if cerr := change(); cerr != nil {
		return cerr
	}
	if alone && d.recording {
		host, herr := readHost(d.dir)
		if herr != nil {
			return herr
		}
		d.record = append(d.record, Op{kind: Commit, host: host})
	}
	return err
}

// change counts an operation and does it, or begins it if the power fails within it. mu is held.
func (d *Disk) change(o Op) error {
	if f := d.files[o.file]; f == nil && o.kind <= Punch {
		return os.ErrClosed // it was lost, and who had opened it should be gone
	}
	within, err := d.step(o.kind)
	if err != nil && !within {
		return err
	}
	if d.full > 0 && (o.kind == Write || o.kind == WriteDurable) && d.used()+d.files[o.file].missing(o.off, int64(len(o.data))) > d.full {
		return syscall.ENOSPC
	}
	d.do(&o, within)
	if d.recording {
		o.data = slices.Clone(o.data)
		d.record = append(d.record, o)
	}
	return err
}

// do does an operation, or begins it: within.
func (d *Disk) do(o *Op, within bool) {
	f := d.files[o.file]
	switch o.kind {
	case Write, WriteDurable:
		f.write(o.data, o.off, o.kind == WriteDurable && !within)
	case Sync:
		if !within {
			f.synced()
		}
	case Grow:
		f.grow(o.size)
	case Punch:
		f.punch(o.off, o.size)
	case CreateBlocks:
		if !within {
			d.create(o.file)
			d.blocks[o.name] = o.file
		}
	case Create, Rename, Remove:
		if o.kind == Create {
			d.create(o.file)
		}
		rename(d.names, o)
		d.changes = append(d.changes, *o)
	case SyncDir:
		if !within {
			for i := range d.changes {
				rename(d.durable, &d.changes[i])
			}
			d.changes = nil
		}
	case Commit:
		if !within {
			d.host = o.host
		}
	}
}

func (d *Disk) create(id int) {
	d.files[id] = newFile(id)
	d.made = id
}

// rename changes names as o does.
func rename(names map[string]int, o *Op) {
	switch o.kind {
	case Create:
		names[o.name] = o.file
	case Rename:
		names[o.to] = names[o.name]
		delete(names, o.name)
	case Remove:
		delete(names, o.name)
	}
}

// Lose makes of the disk what a loss leaves: of power, or with Nothing of a process. What used it must be gone.
func (d *Disk) Lose(l Loss) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lose(l)
}

func (d *Disk) lose(l Loss) {
	for i := range d.draw(l, len(d.changes)) {
		rename(d.durable, &d.changes[i])
	}
	d.changes, d.names = nil, maps.Clone(d.durable)
	left := map[int]*file{}
	for _, names := range []map[string]int{d.names, d.blocks} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			f := d.files[names[name]]
			f.lose(l, d.draw)
			left[f.id] = f
		}
	}
	d.files = left
}

// draw says how many of n are left, from the oldest on.
func (d *Disk) draw(l Loss, n int) int {
	switch l {
	case Everything:
		return 0
	case Nothing:
		return n
	}
	return d.rng.IntN(n + 1)
}

// Rot turns over a bit of a page of the device's files that is synced; false: there is none.
func (d *Disk) Rot() (what string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range 20 {
		names := slices.Sorted(maps.Keys(d.blocks))
		if len(names) == 0 {
			return "", false
		}
		name := names[d.rng.IntN(len(names))]
		f := d.files[d.blocks[name]]
		pages := slices.Sorted(maps.Keys(f.pages))
		if len(pages) == 0 {
			continue
		}
		pg := pages[d.rng.IntN(len(pages))]
		if slices.ContainsFunc(slices.Collect(maps.Keys(f.versions)), func(s int64) bool { return s*sector/page == pg }) {
			continue
		}
		off := pg*page + int64(d.rng.IntN(page))
		f.rot(off, d.rng.IntN(8))
		return fmt.Sprintf("%s, byte %d", name, off), true
	}
	return "", false
}
