package device

import (
	"container/list"
	"sync"

	"dfs/blockstore"
)

// chunk is a chunk in memory: where it lies, and its checksums. While it is
// pinned there is one object for its id, whose lock orders reads and changes.
//
// Invariant: sums is what the checksum file holds for the window, but for blocks that are late; entry is what
// the map (with what is not committed yet) says.
type chunk struct {
	id   blockstore.ChunkID
	pins int           // guarded by cache.mu
	elem *list.Element // guarded by cache.mu

	mu      sync.RWMutex
	known   bool   // entry is loaded
	entry   entry  // win == noWindow: there is none
	sums    []byte // nil: not loaded, or no window
	present int    // entries of sums that are present
	doubt   *doubt // nil: none
	ahead   ahead
	late    lateBlocks
	saved   saved
}

// ready tells whether c can be used; loading is needed otherwise.
func (c *chunk) ready() bool { return c.known && (c.entry.win == noWindow || c.sums != nil) }

// cache keeps chunk objects, the most recently used up to max; pinned ones stay beyond that.
type cache struct {
	mu  sync.Mutex
	max int
	m   map[blockstore.ChunkID]*chunk
	lru list.List // front: newest
}

func (k *cache) pin(id blockstore.ChunkID) *chunk {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.m[id]
	if ok {
		k.lru.MoveToFront(c.elem)
	} else {
		c = &chunk{id: id}
		c.elem = k.lru.PushFront(c)
		k.m[id] = c
	}
	c.pins++
	if !ok {
		k.shrink()
	}
	return c
}

func (k *cache) unpin(c *chunk) {
	k.mu.Lock()
	c.pins--
	k.mu.Unlock()
}

func (k *cache) shrink() {
	for e, tries := k.lru.Back(), 0; e != nil && len(k.m) > k.max && tries < 64; tries++ {
		c := e.Value.(*chunk)
		e = e.Prev()
		if c.pins == 0 {
			k.lru.Remove(c.elem)
			delete(k.m, c.id)
		}
	}
}

// load brings c's entry, and its sums if it has a window, into memory. c is locked.
func (d *Device) load(c *chunk) error {
	if !c.known {
		e, found, err := d.lookup(c.id)
		if err != nil {
			return err
		}
		if !found {
			e = entry{win: noWindow}
		}
		c.entry, c.known = e, true
	}
	if c.entry.win == noWindow || c.sums != nil {
		return nil
	}
	f, at, err := d.files.sums(c.entry.win)
	if err != nil {
		return err
	}
	sums := make([]byte, chunkBlocks(c.id.Chunk)*sumSize)
	if err := f.readAt(sums, at); err != nil {
		return err
	}
	c.sums, c.present = sums, countPresent(sums)
	if uint32(c.present) != c.entry.present {
		c.doubt = &doubt{missing: int(c.entry.present) - c.present}
	}
	return nil
}

// lockShared pins id and takes it for reading; release with unlockShared.
func (d *Device) lockShared(id blockstore.ChunkID) (*chunk, error) {
	c := d.cache.pin(id)
	for {
		c.mu.RLock()
		if c.ready() {
			if err := d.await(c); err != nil {
				d.unlockShared(c)
				return nil, err
			}
			return c, nil
		}
		c.mu.RUnlock()
		c.mu.Lock()
		err := d.load(c)
		c.mu.Unlock()
		if err != nil {
			d.cache.unpin(c)
			return nil, err
		}
	}
}

func (d *Device) unlockShared(c *chunk) {
	c.mu.RUnlock()
	d.cache.unpin(c)
}

// lock pins id and takes it for a change; nothing of it is behind or late then. Release with unlock.
func (d *Device) lock(id blockstore.ChunkID) (*chunk, error) {
	c, err := d.lockAhead(id, 0, largeBlocks)
	if err != nil {
		return nil, err
	}
	if err := d.writeLate(c); err != nil {
		d.unlock(c)
		return nil, err
	}
	return c, nil
}

func (d *Device) unlock(c *chunk) {
	c.mu.Unlock()
	d.cache.unpin(c)
}
