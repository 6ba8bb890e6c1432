package fstest

import (
	"maps"

	"dfs/blockstore"
	"dfs/wal"
)

// Keep makes the device keep what it holds now, and behind each record from now on, for Kept.
func (d *Disk) Keep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = []*Disk{d.cloneLocked()}
}

// Kept returns, for each record since Keep, what the device held behind it, as it is when all writers have crashed there and are fenced;
// the first is from before any record.
func (d *Disk) Kept() []*Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept[:len(d.kept):len(d.kept)]
}

// Clone copies what the device holds; its writers are fenced.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cloneLocked()
}

// cloneLocked copies what the device holds; its writers are fenced.
func (d *Disk) cloneLocked() *Disk {
	c := &Disk{blocks: make(map[wal.Addr]*[wal.BlockSize]byte, len(d.blocks)), index: d.index + 1, capacity: d.capacity, used: d.used, nextIno: d.nextIno,
		nextWr: d.nextWr, writers: map[blockstore.WriterID]*Store{}, retired: append([]blockstore.WriterID(nil), d.retired...), cutAfter: -1}
	for a, b := range d.blocks {
		data := *b
		c.blocks[a] = &data
	}
	for w := range maps.Keys(d.writers) {
		c.retired = append(c.retired, w)
	}
	return c
}
