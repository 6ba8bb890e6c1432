package device

import (
	"container/list"
	"sync"

	"dfs/blockstore"
)

// lateRun is how many blocks of one chunk a record may change at most for them to be late.
const lateRun = 16

// lateMax is how many blocks may be late (4 MiB of memory) when Apply returns.
const lateMax = 1024

// late is the blocks that are not in their file yet, nor are their sums: a block that changes with each record, as the inode of a file that
// grows does, is written once for many of them, and no small write waits for the host's lock on a file that long ones go to. The log holds
// them; after a crash the files are as if they had not been changed since they were written last.
//
// A chunk with late blocks is pinned. Changes other than small ones, and a checkpoint, settle them first.
type late struct {
	max int // blocks that may be late when Apply returns

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

// putLate keeps the batch's blocks of slots [lo, hi) of c, which is locked alone.
func (d *Device) putLate(c *chunk, lo, hi int) {
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
		if d.batch.data[slot] == nil {
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

// writeLate writes what is late in c, which is locked alone: the sums first, as write does.
func (d *Device) writeLate(c *chunk) error {
	if c.late.elem == nil {
		return nil
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

// writeLateDown writes what is late, the chunk that was changed longest ago first, until at most max blocks are. No lock is held, and no Apply
// runs beside it.
func (d *Device) writeLateDown(max int) error {
	for {
		d.late.mu.Lock()
		oldest := d.late.chunks.Back()
		if d.late.blocks <= max || oldest == nil {
			d.late.mu.Unlock()
			return nil
		}
		id := oldest.Value.(blockstore.ChunkID)
		d.late.mu.Unlock()
		c, err := d.lock(id)
		if err != nil {
			return err
		}
		d.unlock(c)
	}
}

// writeAll leaves nothing behind or late. No Apply runs. An error makes the device dead.
func (d *Device) writeAll() error {
	if err := d.writeLateDown(0); err != nil {
		return d.fail("write late blocks", err)
	}
	return d.awaitAll()
}
