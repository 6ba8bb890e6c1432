package device

import (
	"sync"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/pagemem"
)

// behindMin is the least run of whole blocks, in bytes, that Apply does not wait for.
const behindMin = 128 << 10

// behindMax is how many buffers of behindSize bytes there are for such runs: so many are gathered or on their way at most.
const (
	behindMax  = 4
	behindSize = largeBlocks * blockSize
)

// behind is what Apply has not waited for: long runs of whole blocks are gathered into one buffer while one follows the other
// in their chunk (a file written in order), and go to the disk as one write, past the host's page cache. A gathered run
// is sent off when it cannot grow, or when somebody wants its chunk; nothing is lost meanwhile that the log does not hold.
//
// A chunk's lock, taken in any other way than by lockAhead, waits for what is behind in it (await). So
// only Apply ever goes ahead of such a run, and only with other blocks of the chunk.
type behind struct {
	inline bool        // write at once: a given volume sees the I/O in the order of the calls
	min    int         // the least run, in bytes
	free   chan []byte // buffers
	made   int         // of them; by the goroutine that applies alone, as the next
	memory []byte      // a mapping of what they are made from; nil: Go's heap

	mu  sync.Mutex
	run *behindRun // the one that is gathered, nil if none

	flying sync.WaitGroup // added to by the goroutine that applies alone
}

// behindRun is slots [lo, hi) of c, which is pinned.
type behindRun struct {
	c      *chunk
	f      *hostFile
	at     int64
	lo, hi int
	buf    []byte
}

// ahead is what a chunk knows of the runs behind.
type ahead struct {
	wg     sync.WaitGroup // of runs, gathered or on their way; added to with the chunk's lock held alone, waited for with it held at all
	lo, hi int            // the slots that may be behind; guarded by the chunk's lock, hi 0: none
}

// meets tells whether slots [lo, hi) may be behind.
func (a *ahead) meets(lo, hi int) bool { return lo < a.hi && a.lo < hi }

// writeBehind takes a copy of whole blocks, from slot on, to be written later. c is locked alone. A write that fails makes
// the device dead, and who waits for it finds that.
func (d *Device) writeBehind(c *chunk, slot int, bufs [][]byte) error {
	end := slot + len(bufs)
	if c.ahead.hi == 0 {
		c.ahead.lo, c.ahead.hi = slot, end
	}
	c.ahead.lo, c.ahead.hi = min(c.ahead.lo, slot), max(c.ahead.hi, end)
	d.behind.mu.Lock()
	r := d.behind.run
	if r != nil && (r.c != c || r.hi != slot) {
		d.send()
		r = nil
	}
	d.behind.mu.Unlock()
	if r == nil { // nobody but this goroutine makes one
		f, at, err := d.files.data(c.entry.win)
		if err != nil {
			return err
		}
		r = &behindRun{c: c, f: f, at: at + int64(slot)*blockSize, lo: slot, hi: slot, buf: d.behind.buffer()[:0]}
		d.cache.pin(c.id)
		c.ahead.wg.Add(1)
		d.behind.flying.Add(1)
	}
	for _, b := range bufs {
		r.buf = append(r.buf, b...)
	}
	r.hi = end
	d.behind.mu.Lock()
	d.behind.run = r
	if end == chunkBlocks(c.id.Chunk) {
		d.send()
	}
	d.behind.mu.Unlock()
	return nil
}

// buffer waits for a free buffer.
func (b *behind) buffer() []byte {
	select {
	case p := <-b.free:
		return p
	default:
	}
	if b.made == behindMax {
		return <-b.free
	}
	if b.made == 0 && !b.inline {
		b.memory, _ = pagemem.Map(behindMax * behindSize) // nil: the heap does
	}
	b.made++
	if b.memory != nil {
		return b.memory[(b.made-1)*behindSize : b.made*behindSize : b.made*behindSize]
	}
	return pagemem.Make(behindSize)
}

// drop gives the buffers' memory back; none is in use any more.
func (b *behind) drop() {
	pagemem.Unmap(b.memory)
	b.memory = nil
}

// send sends the gathered run off. behind.mu is held.
func (d *Device) send() {
	r := d.behind.run
	d.behind.run = nil
	if d.behind.inline {
		d.writeRun(r)
	} else {
		go d.writeRun(r)
	}
}

// writeRun writes a run that was sent off.
func (d *Device) writeRun(r *behindRun) {
	defer d.behind.flying.Done()
	if err := r.f.writeLong(r.buf, r.at); err != nil {
		_ = d.fail("apply", errors.New(errors.KindOf(err), "writing %d blocks of chunk %d of vdisk %d: %w", r.hi-r.lo, r.c.id.Chunk, r.c.id.VDisk, err))
	}
	d.behind.free <- r.buf
	r.c.ahead.wg.Done()
	d.cache.unpin(r.c)
}

// await waits until nothing is behind in c, which is locked, shared or alone, and tells whether the device is alive.
func (d *Device) await(c *chunk) error {
	if c.ahead.hi == 0 { // as most are: no need for the mutex that all reads share
		return d.alive()
	}
	d.behind.mu.Lock()
	if d.behind.run != nil && d.behind.run.c == c {
		d.send()
	}
	d.behind.mu.Unlock()
	c.ahead.wg.Wait()
	return d.alive()
}

// awaitAll waits until nothing is behind at all. No Apply runs.
func (d *Device) awaitAll() error {
	d.behind.mu.Lock()
	if d.behind.run != nil {
		d.send()
	}
	d.behind.mu.Unlock()
	d.behind.flying.Wait()
	return d.alive()
}

// lockAhead pins id and takes it for a change of slots [lo, hi): what is behind in the chunk is waited for only where
// it meets those. Release with unlock.
func (d *Device) lockAhead(id blockstore.ChunkID, lo, hi int) (*chunk, error) {
	c := d.cache.pin(id)
	c.mu.Lock()
	err := d.alive()
	if c.ahead.meets(lo, hi) {
		err = d.await(c)
		c.ahead.lo, c.ahead.hi = 0, 0
	}
	if err == nil {
		err = d.load(c)
	}
	if err != nil {
		d.unlock(c)
		return nil, err
	}
	return c, nil
}
