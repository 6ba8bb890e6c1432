package fs

import (
	"context"
	"sync"

	"dfs/wal"
)

// The block cache.
//
// Contract. A frame holds the content of one block as the newest committed
// operation left it, and is valid as long as this session holds the lock of the
// inode that owns the block. Content changes only under that inode's ilock
// exclusive, is read under it shared, so content needs no lock of its own; the
// cache's mutex guards the lists and the reference counts.
//
// Invariants: a frame with refs > 0, or whose gen is not durable, is not
// evicted; a frame is in the table exactly once; frames beyond the limit exist
// only while dirty or referenced (dirty bytes are bounded by wal.Log.Admit).
//
// Replacement is 2Q: new data goes to the probation list; a frame that is used
// again after about half of that list passed it, and every metadata block, goes to the
// protected list. A long sequential read so passes through probation alone.
type cache struct {
	mu      sync.Mutex
	limit   int // frames
	durable func() wal.Gen
	table   frameTable
	vdisks  map[uint64]*frame // head of each vdisk's list
	probe   frameList         // probation, newest first
	prot    frameList         // protected, newest first
	dirty   frameList         // not yet durable, oldest at the tail
	inserts uint64
	arena   arena
}

type frame struct {
	addr         wal.Addr
	buf          []byte
	refs         int
	gen          wal.Gen // not evictable until durable; 0 clean
	stamp        uint64
	protected    bool
	gone         bool // dropped while referenced
	list         *frameList
	prev, next   *frame // in list
	vprev, vnext *frame // in the vdisk's list
	loading      *load  // being filled; nil when buf is valid
}

// load is a read under way for one or more frames; done is closed at its end.
type load struct {
	done chan struct{}
	err  error
}

type frameList struct {
	head, tail *frame
	n          int
}

func (l *frameList) pushFront(f *frame) {
	f.list, f.prev, f.next = l, nil, l.head
	if l.head != nil {
		l.head.prev = f
	} else {
		l.tail = f
	}
	l.head = f
	l.n++
}

func (l *frameList) remove(f *frame) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.head = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.tail = f.prev
	}
	f.list, f.prev, f.next = nil, nil, nil
	l.n--
}

func newCache(limit int, durable func() wal.Gen) *cache {
	return &cache{limit: max(limit, 1), durable: durable, table: newFrameTable(), vdisks: map[uint64]*frame{}}
}

// get returns the frame of a with a reference, or nil. It waits for a load under way.
func (c *cache) get(ctx context.Context, a wal.Addr) (*frame, error) {
	for {
		c.mu.Lock()
		f := c.table.get(a)
		if f == nil {
			c.mu.Unlock()
			return nil, nil
		}
		if l := f.loading; l != nil {
			c.mu.Unlock()
			select {
			case <-l.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if l.err != nil {
				return nil, nil // let the caller try for itself
			}
			continue
		}
		f.refs++
		c.touch(f)
		c.mu.Unlock()
		return f, nil
	}
}

// getRun fills frames with references to the valid frames of consecutive blocks from a on,
// nil where there is none (or it is being loaded), and returns how many there are.
func (c *cache) getRun(a wal.Addr, frames []*frame) (hits int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range frames {
		f := c.table.get(a)
		if f != nil && f.loading == nil {
			f.refs++
			c.touch(f)
			hits++
		} else {
			f = nil
		}
		frames[i] = f
		a.Block++
	}
	return hits
}

// has reports whether a is cached or being loaded.
func (c *cache) has(a wal.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.get(a) != nil
}

// unref gives references back.
func (c *cache) unref(frames ...*frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range frames {
		if f != nil {
			c.unrefLocked(f)
		}
	}
	c.shrink()
}

func (c *cache) unrefLocked(f *frame) {
	f.refs--
	if f.refs < 0 {
		panic("fs: frame reference count below zero")
	}
	if f.gone && f.refs == 0 {
		c.arena.put(f.buf)
		f.buf = nil
	}
}

// claim makes frames in the loading state for the blocks of the run [a, a+n) that are
// neither cached nor loading, up to the first one that is. It returns the frames (with a reference each).
func (c *cache) claim(a wal.Addr, n int, l *load) []*frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*frame
	for i := 0; i < n; i++ {
		if c.table.get(a) != nil {
			break
		}
		f := c.insert(a, false)
		f.loading, f.refs = l, 1
		out = append(out, f)
		a.Block++
	}
	return out
}

// loaded ends the load of frames: their buffers are valid now, or (err) they are dropped.
// The references taken by claim stay with the caller if there was no error.
func (c *cache) loaded(frames []*frame, l *load, err error) {
	c.mu.Lock()
	l.err = err
	for _, f := range frames {
		f.loading = nil
		if err != nil {
			c.removeLocked(f)
			c.unrefLocked(f)
		}
	}
	c.mu.Unlock()
	close(l.done)
}

// put makes content (one block; nil: zeros) the content of block a, dirty until gen is durable.
// The caller holds the owner's ilock exclusive and has no load of a under way.
func (c *cache) put(a wal.Addr, content []byte, gen wal.Gen, meta bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(a, content, gen, meta)
	c.shrink()
}

func (c *cache) putLocked(a wal.Addr, content []byte, gen wal.Gen, meta bool) *frame {
	f := c.table.get(a)
	if f == nil {
		f = c.insert(a, meta)
	}
	if content == nil {
		clear(f.buf)
	} else if len(content) > 0 {
		copy(f.buf, content)
	}
	f.gen = gen
	f.list.remove(f)
	c.dirty.pushFront(f)
	return f
}

// putRun is put for consecutive data blocks from a on; data is a whole number of blocks.
func (c *cache) putRun(a wal.Addr, data []byte, gen wal.Gen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for off := 0; off < len(data); off += blockSize {
		c.putLocked(a, data[off:off+blockSize], gen, false)
		a.Block++
	}
	c.shrink()
}

// insert adds a frame with an undefined buffer.
func (c *cache) insert(a wal.Addr, meta bool) *frame {
	c.makeRoom()
	c.inserts++
	f := &frame{addr: a, buf: c.arena.get(), stamp: c.inserts, protected: meta}
	c.table.add(f)
	c.home(f).pushFront(f)
	if h := c.vdisks[a.VDisk]; h != nil {
		f.vnext, h.vprev = h, f
	}
	c.vdisks[a.VDisk] = f
	return f
}

func (c *cache) home(f *frame) *frameList {
	if f.protected {
		return &c.prot
	}
	return &c.probe
}

func (c *cache) touch(f *frame) {
	if f.list == &c.dirty {
		return
	}
	if !f.protected {
		if c.inserts-f.stamp < uint64(c.probe.n/2+1) {
			return
		}
		f.protected = true
	}
	if f.list.head != f {
		f.list.remove(f)
		c.prot.pushFront(f)
	} else if f.list == &c.probe {
		f.list.remove(f)
		c.prot.pushFront(f)
	}
}

// makeRoom evicts until one more frame fits, as far as something is evictable.
func (c *cache) makeRoom() {
	for c.table.n >= c.limit && c.evictOne() {
	}
}

// shrink evicts what is beyond the limit.
func (c *cache) shrink() {
	for c.table.n > c.limit && c.evictOne() {
	}
}

func (c *cache) evictOne() bool {
	c.settle()
	lists := [2]*frameList{&c.prot, &c.probe}
	if c.probe.n > c.limit/4 || c.prot.n == 0 {
		lists = [2]*frameList{&c.probe, &c.prot}
	}
	for _, l := range lists {
		for f := l.tail; f != nil; f = f.prev {
			if f.refs == 0 && f.loading == nil {
				c.removeLocked(f)
				c.arena.put(f.buf)
				f.buf = nil
				return true
			}
		}
	}
	return false
}

// settle moves frames that became durable to their clean lists.
func (c *cache) settle() {
	if c.dirty.tail == nil {
		return
	}
	d := c.durable()
	for f := c.dirty.tail; f != nil && f.gen <= d; f = c.dirty.tail {
		f.gen = 0
		c.dirty.remove(f)
		c.home(f).pushFront(f)
	}
}

// removeLocked takes f out of the table and lists; the caller gives the buffer back (or marks it gone).
func (c *cache) removeLocked(f *frame) {
	if !c.table.remove(f) {
		return
	}
	f.list.remove(f)
	if f.vprev != nil {
		f.vprev.vnext = f.vnext
	} else if f.vnext != nil {
		c.vdisks[f.addr.VDisk] = f.vnext
	} else {
		delete(c.vdisks, f.addr.VDisk)
	}
	if f.vnext != nil {
		f.vnext.vprev = f.vprev
	}
	f.vprev, f.vnext = nil, nil
	if f.refs > 0 {
		f.gone = true
	}
}

func (c *cache) dropFrame(f *frame) {
	c.removeLocked(f)
	if f.refs == 0 && f.buf != nil {
		c.arena.put(f.buf)
		f.buf = nil
	}
}

// drop forgets the blocks [from, to) of a vdisk, dirty or not: they were trimmed, or
// (from 0 to the end) the lock is given up after a flush. No load of them is under way.
func (c *cache) drop(vdisk, from, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to-from <= 64 {
		for b := from; b < to; b++ {
			if f := c.table.get(wal.Addr{VDisk: vdisk, Block: b}); f != nil {
				c.dropFrame(f)
			}
		}
		return
	}
	for f := c.vdisks[vdisk]; f != nil; {
		next := f.vnext
		if f.addr.Block >= from && f.addr.Block < to {
			c.dropFrame(f)
		}
		f = next
	}
}

// overfull reports whether dirty frames alone exceed the limit.
func (c *cache) overfull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table.n <= c.limit {
		return false
	}
	c.settle()
	c.shrink()
	return c.dirty.n > c.limit && c.dirty.n > 64
}

// close frees the arena. Nothing may use the cache any more.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arena.close()
	c.table, c.vdisks = newFrameTable(), map[uint64]*frame{}
}

// usage tells frames in use and how many of them are dirty.
func (c *cache) usage() (total, dirty int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	return c.table.n, c.dirty.n
}

// checkInvariants panics if the lists and the table disagree.
func (c *cache) checkInvariants() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, l := range []*frameList{&c.probe, &c.prot, &c.dirty} {
		for f := l.head; f != nil; f = f.next {
			if f.list != l || c.table.get(f.addr) != f {
				panic("fs: cache: a listed frame is not in the table")
			}
			n++
		}
	}
	if n != c.table.n {
		panic("fs: cache: frames in lists and in the table differ")
	}
	v := 0
	for id, h := range c.vdisks {
		for f := h; f != nil; f = f.vnext {
			if f.addr.VDisk != id {
				panic("fs: cache: a frame in the wrong vdisk list")
			}
			v++
		}
	}
	if v != n {
		panic("fs: cache: vdisk lists and table differ")
	}
}

// protect moves a frame, which the caller holds, to the protected list.
func (c *cache) protect(f *frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.protected {
		f.protected = true
		if f.list == &c.probe {
			f.list.remove(f)
			c.prot.pushFront(f)
		}
	}
}

// shrinkNow evicts what is beyond the limit.
func (c *cache) shrinkNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrink()
}
