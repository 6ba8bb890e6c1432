package device

import (
	"container/list"
	"maps"
	"slices"
	"sync"

	"dfs/blockstore"
	"dfs/wal"
)

// lateRun is how many blocks of one chunk a record may change at most for them to be late.
const lateRun = 16

// lateMax is how many blocks may be late (4 MiB of memory) when Apply has come to an end with a chunk.
const lateMax = 1024

// lateKept of 4 parts of what may be late stay so when there is more: one sync of the double-write area is made for many blocks.
const lateKept = 3

// late is the blocks that are not in their file yet, nor are their sums: a block that changes with each record, as the inode of a file that
// grows does, is written once for many of them, and no small write waits for the host's lock on a file that long ones go to. The log holds
// them; after a crash the files are as if they had not been changed since they were written last.
//
// Blocks that are changed in part are late in any case: they are not written to their place before they are safe there (double.go).
//
// A chunk with late blocks is pinned. A checkpoint settles all.
type late struct {
	max int // blocks that may be late between two chunks of an Apply

	mu     sync.Mutex
	chunks list.List // of blockstore.ChunkID; front: changed last
	blocks int
	free   [][]byte // buffers of a block each
}

// lateBlocks is what a chunk knows of its own. Guarded by the chunk's lock.
type lateBlocks struct {
	data map[int][]byte // by slot
	elem *list.Element  // in late.chunks; nil: nothing is late
}

// putLate keeps the batch's blocks of slots [lo, hi) of c that are not to be written now. c is locked alone.
func (d *Device) putLate(c *chunk, lo, hi int) {
	if !slices.ContainsFunc(d.batch.late[lo:hi], func(late bool) bool { return late }) {
		return
	}
	if c.late.elem == nil {
		d.cache.pin(c.id)
		c.late.data = map[int][]byte{}
	}
	l := &d.late
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.late.elem == nil {
		c.late.elem = l.chunks.PushFront(c.id)
	} else {
		l.chunks.MoveToFront(c.late.elem)
	}
	for slot := lo; slot < hi; slot++ {
		if !d.batch.late[slot] {
			continue
		}
		buf := c.late.data[slot]
		if buf == nil {
			buf = l.buffer()
			c.late.data[slot] = buf
			l.blocks++
		}
		copy(buf, d.batch.data[slot])
	}
}

func (l *late) buffer() []byte {
	if n := len(l.free); n > 0 {
		buf := l.free[n-1]
		l.free = l.free[:n-1]
		return buf
	}
	return make([]byte, blockSize)
}

// forgetLate forgets what is late in c, which is locked alone: it is written, or given up with the chunk.
func (d *Device) forgetLate(c *chunk) {
	if c.late.elem == nil {
		return
	}
	l := &d.late
	l.mu.Lock()
	l.chunks.Remove(c.late.elem)
	l.blocks -= len(c.late.data)
	for _, buf := range c.late.data {
		l.free = append(l.free, buf)
	}
	l.mu.Unlock()
	c.late = lateBlocks{}
	d.cache.unpin(c)
}

// dropLate forgets what is late in slots [lo, hi) of c, which is locked alone: the blocks get another content at once.
func (d *Device) dropLate(c *chunk, lo, hi int) {
	if c.late.elem == nil {
		return
	}
	l := &d.late
	l.mu.Lock()
	for slot := lo; slot < hi; slot++ {
		if buf := c.late.data[slot]; buf != nil {
			delete(c.late.data, slot)
			l.free = append(l.free, buf)
			l.blocks--
		}
	}
	l.mu.Unlock()
	if len(c.late.data) == 0 {
		d.forgetLate(c)
	}
}

// unsafe returns images of the late blocks of c that cannot be written to their place without.
func (d *Device) unsafe(c *chunk) (images []image) {
	for _, slot := range slices.Sorted(maps.Keys(c.late.data)) {
		if !d.safe(c, slot) {
			images = append(images, image{
				Addr:  wal.Addr{VDisk: c.id.VDisk, Block: chunkFirst(c.id.Chunk) + uint64(slot)},
				entry: sumAt(c.sums, slot), data: c.late.data[slot],
			})
		}
	}
	return images
}

// writeLate writes what is late in c, which is locked alone: the sums first, as write does.
func (d *Device) writeLate(c *chunk) error {
	if c.late.elem == nil {
		return nil
	}
	round := d.double.round.Load()
	images := d.unsafe(c)
	if err := d.save(images); err != nil {
		return err
	}
	for i := range images {
		c.setSafe(int(images[i].Block-chunkFirst(c.id.Chunk)), round)
	}
	lo, hi := largeBlocks, 0
	for slot := range c.late.data {
		lo, hi = min(lo, slot), max(hi, slot+1)
	}
	if err := d.writeSums(c, lo, hi); err != nil {
		return err
	}
	var bufs [][]byte
	for slot := lo; slot < hi; slot += max(1, len(bufs)) {
		bufs = bufs[:0]
		for c.late.data[slot+len(bufs)] != nil {
			bufs = append(bufs, c.late.data[slot+len(bufs)])
		}
		if len(bufs) == 0 {
			continue
		}
		if err := d.writeData(c, slot, bufs); err != nil {
			return err
		}
	}
	d.forgetLate(c)
	return nil
}

// writeLateDown does nothing if at most max blocks are late; else it writes down to the part of max that is kept, the chunk that was
// changed longest ago first. No lock is held, and no Apply runs beside it.
func (d *Device) writeLateDown(max int) error {
	l := &d.late
	l.mu.Lock()
	over := l.blocks > max
	l.mu.Unlock()
	if !over {
		return nil
	}
	ids, err := d.saveOldest(max * lateKept / 4)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := d.lock(id)
		if err != nil {
			return err
		}
		d.unlock(c)
	}
	return nil
}

// saveOldest makes the late blocks of so many chunks safe at once that no more than keep blocks are late in the others, and returns the chunks.
func (d *Device) saveOldest(keep int) (ids []blockstore.ChunkID, err error) {
	l := &d.late
	l.mu.Lock()
	var oldest []blockstore.ChunkID
	for e := l.chunks.Back(); e != nil; e = e.Prev() {
		oldest = append(oldest, e.Value.(blockstore.ChunkID))
	}
	left := l.blocks
	l.mu.Unlock()
	round := d.double.round.Load() // no checkpoint begins meanwhile
	var images []image
	for _, id := range oldest {
		if left <= keep {
			break
		}
		c, err := d.lockAhead(id, 0, 0)
		if err != nil {
			return nil, err
		}
		left -= len(c.late.data)
		images = append(images, d.unsafe(c)...) // their buffers are used anew by Apply alone
		d.unlock(c)
		ids = append(ids, id)
	}
	if err := d.save(images); err != nil {
		return nil, err
	}
	for i := range images {
		id := chunkOf(images[i].VDisk, images[i].Block)
		c, err := d.lockAhead(id, 0, 0)
		if err != nil {
			return nil, err
		}
		if slot := int(images[i].Block - chunkFirst(id.Chunk)); c.late.data[slot] != nil { // else a repair came between: the image is of what was bad
			c.setSafe(slot, round)
		}
		d.unlock(c)
	}
	return ids, nil
}

// writeAll leaves nothing behind or late. No Apply runs. An error makes the device dead.
func (d *Device) writeAll() error {
	if err := d.writeLateDown(0); err != nil {
		return d.fail("write late blocks", err)
	}
	return d.awaitAll()
}
