package fs

import (
	"context"
	"math/bits"
	"sync"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// presence is what is known of which blocks of an inode's vdisk are present, so
// that a record can carry its exact AllocDelta.
//
// Invariant: a chunk in the map tells the present blocks as of the last committed
// operation. A chunk that is not in it, and begins at or after absentFrom, has none. Any other is asked of
// the store, whose answer is right because no pending record touches that chunk: chunks are forgotten
// only once the inode is durable.
type presence struct {
	mu         sync.Mutex
	chunks     map[uint64]*presenceChunk
	absentFrom uint64 // in blocks
}

// presenceChunkBlocks is the number of blocks of a chunk (128 MiB of a file).
const presenceChunkBlocks = 1 << 15

type presenceChunk [presenceChunkBlocks / 64]uint64

const unknownFrom = ^uint64(0)

// reset forgets everything.
func (p *presence) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks, p.absentFrom = nil, unknownFrom
}

// allAbsent says that no block is present.
func (p *presence) allAbsent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks, p.absentFrom = nil, 0
}

// chunkOf returns chunk i. nil without an error: not known.
func (p *presence) chunkOf(i uint64) *presenceChunk {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.chunks[i]; c != nil {
		return c
	}
	if i*presenceChunkBlocks < p.absentFrom {
		return nil
	}
	return p.addLocked(i, new(presenceChunk))
}

func (p *presence) addLocked(i uint64, c *presenceChunk) *presenceChunk {
	if p.chunks == nil {
		p.chunks = map[uint64]*presenceChunk{}
	}
	if old := p.chunks[i]; old != nil {
		return old
	}
	p.chunks[i] = c
	return c
}

// presenceOf returns chunk i of n, asking the store if need be. n is pinned and locked.
func (ss *session) presenceOf(ctx context.Context, n *node, i uint64) (*presenceChunk, error) {
	if c := n.pres.chunkOf(i); c != nil {
		return c, nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	bitmap, _, err := ss.be.Store.Presence(bctx, blockstore.ReadSpan{VDisk: n.ino, Block: i * presenceChunkBlocks, Count: presenceChunkBlocks}, ss.minIndex(n.id()))
	if err != nil {
		return nil, ss.waited(ctx, err, "asking which blocks are present")
	}
	if len(bitmap) < presenceChunkBlocks/8 {
		return nil, errors.New(errors.KindIO, "the store answered a short presence bitmap of inode %d", n.ino)
	}
	c := new(presenceChunk)
	for j := range c {
		for k := range 8 {
			c[j] |= uint64(bitmap[j*8+k]) << (8 * k)
		}
	}
	n.pres.mu.Lock()
	defer n.pres.mu.Unlock()
	return n.pres.addLocked(i, c), nil
}

// nextPresent returns the first block at or after block, below end, that may be present; end if there is none. Chunks that are known
// are looked at, the store is asked about the others, and nothing is kept: what it costs is what is present, not how
// large the hole is.
func (ss *session) nextPresent(ctx context.Context, n *node, block, end uint64) (uint64, error) {
	for block < end {
		i := block / presenceChunkBlocks
		if c := n.pres.chunkIfKnown(i); c != nil {
			base := i * presenceChunkBlocks
			if b := c.next(block-base, presenceChunkBlocks, true); b < presenceChunkBlocks {
				return min(base+b, end), nil
			}
			block = base + presenceChunkBlocks
			continue
		}
		known := n.pres.nextKnown(i, end)
		if n.pres.knownAbsent(block) {
			block = known
			continue
		}
		bctx, cancel := ss.bound(ctx)
		next, err := ss.be.Store.SkipAbsent(bctx, n.ino, block, ss.minIndex(n.id()))
		cancel()
		if err != nil {
			return 0, ss.waited(ctx, err, "asking for the next present block")
		}
		if next < known {
			return next, nil
		}
		block = known
	}
	return end, nil
}

// eachPresence calls f for the parts of [first, first+count) by chunk, with the bit range in it.
func (ss *session) eachPresence(ctx context.Context, n *node, first, count uint64, f func(c *presenceChunk, from, to uint64)) error {
	for end := first + count; first < end; {
		i := first / presenceChunkBlocks
		c, err := ss.presenceOf(ctx, n, i)
		if err != nil {
			return err
		}
		from := first % presenceChunkBlocks
		to := min(presenceChunkBlocks, from+end-first)
		f(c, from, to)
		first += to - from
	}
	return nil
}

// present counts the present blocks of [first, first+count).
func (ss *session) present(ctx context.Context, n *node, first, count uint64) (uint64, error) {
	total := uint64(0)
	err := ss.eachPresence(ctx, n, first, count, func(c *presenceChunk, from, to uint64) { total += c.count(from, to) })
	return total, err
}

// isPresent tells of one block.
func (ss *session) isPresent(ctx context.Context, n *node, block uint64) (bool, error) {
	c, err := ss.presenceOf(ctx, n, block/presenceChunkBlocks)
	if err != nil {
		return false, err
	}
	b := block % presenceChunkBlocks
	return c[b/64]>>(b%64)&1 != 0, nil
}

func (c *presenceChunk) count(from, to uint64) uint64 {
	total := uint64(0)
	c.words(from, to, func(w *uint64, mask uint64) { total += uint64(bits.OnesCount64(*w & mask)) })
	return total
}

func (c *presenceChunk) set(from, to uint64, v bool) {
	c.words(from, to, func(w *uint64, mask uint64) {
		if v {
			*w |= mask
		} else {
			*w &^= mask
		}
	})
}

func (c *presenceChunk) words(from, to uint64, f func(w *uint64, mask uint64)) {
	for from < to {
		w := from / 64
		end := min(to, (w+1)*64)
		mask := ^uint64(0) << (from % 64)
		if end%64 != 0 {
			mask &= 1<<(end%64) - 1
		}
		f(&c[w], mask)
		from = end
	}
}

// next is the first bit at or after from, below to, that is v; to if none.
func (c *presenceChunk) next(from, to uint64, v bool) uint64 {
	for from < to {
		w := c[from/64]
		if !v {
			w = ^w
		}
		if w &= ^uint64(0) << (from % 64); w != 0 {
			return min(to, from/64*64+uint64(bits.TrailingZeros64(w)))
		}
		from = (from/64 + 1) * 64
	}
	return to
}

// mark notes a committed change of [first, first+count), whose chunks are known (or, with v
// false and open end, need not be).
func (p *presence) mark(first, count uint64, v bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := first + count
	if !v && count > 64*presenceChunkBlocks { // a trim to the end
		for i, c := range p.chunks {
			from, to := max(first, i*presenceChunkBlocks), min(end, (i+1)*presenceChunkBlocks)
			if from < to {
				c.set(from-i*presenceChunkBlocks, to-i*presenceChunkBlocks, false)
			}
		}
		return
	}
	for first < end {
		i := first / presenceChunkBlocks
		from := first % presenceChunkBlocks
		to := min(presenceChunkBlocks, from+end-first)
		c := p.chunks[i]
		if c == nil && i*presenceChunkBlocks >= p.absentFrom {
			c = p.addLocked(i, new(presenceChunk))
		}
		if c != nil {
			c.set(from, to, v)
		}
		first += to - from
	}
}

// trimmedFrom notes that no block at or after first is present any more.
func (p *presence) trimmedFrom(first uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.chunks {
		if first <= i*presenceChunkBlocks {
			delete(p.chunks, i)
		} else if from := first; from < (i+1)*presenceChunkBlocks {
			c.set(from-i*presenceChunkBlocks, presenceChunkBlocks, false)
		}
	}
	p.absentFrom = min(p.absentFrom, first)
}

// presenceKeep is how many chunks of one inode are kept while it is in use (64 GiB of a file).
const presenceKeep = 512

// forget drops the bitmaps of a durable inode, locked exclusive by the caller, if they are many.
func (p *presence) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.chunks) > presenceKeep {
		p.chunks, p.absentFrom = nil, unknownFrom
	}
}

// knownAbsent reports whether a block is known to be absent, asking nobody.
func (p *presence) knownAbsent(block uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := block / presenceChunkBlocks
	if c := p.chunks[i]; c != nil {
		b := block % presenceChunkBlocks
		return c[b/64]>>(b%64)&1 == 0
	}
	return i*presenceChunkBlocks >= p.absentFrom
}

// countPresent counts the present blocks of [first, first+count) without keeping what it learns.
func (ss *session) countPresent(ctx context.Context, n *node, first, count uint64) (uint64, error) {
	total := uint64(0)
	for end := first + count; first < end; {
		i := first / presenceChunkBlocks
		stop := min(end, (i+1)*presenceChunkBlocks)
		if c := n.pres.chunkIfKnown(i); c != nil {
			total += c.count(first-i*presenceChunkBlocks, stop-i*presenceChunkBlocks)
			first = stop
			continue
		}
		if n.pres.knownAbsent(first) { // and all behind it that are in no chunk
			if stop = n.pres.nextKnown(i, end); stop >= end {
				return total, nil
			}
			first = stop
			continue
		}
		stop = min(n.pres.nextKnown(i, end), first+1<<20)
		bctx, cancel := ss.bound(ctx)
		bitmap, _, err := ss.be.Store.Presence(bctx, blockstore.ReadSpan{VDisk: n.ino, Block: first, Count: stop - first}, ss.minIndex(n.id()))
		cancel()
		if err != nil {
			return 0, ss.waited(ctx, err, "asking which blocks are present")
		}
		there := uint64(0)
		for _, b := range bitmap {
			there += uint64(bits.OnesCount8(b))
		}
		total += there
		if first = stop; there == 0 {
			if first, err = ss.nextPresent(ctx, n, first, end); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (p *presence) chunkIfKnown(i uint64) *presenceChunk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chunks[i]
}

// nextKnown is the first block after chunk i that is in a known chunk or at absentFrom, at most end.
func (p *presence) nextKnown(i, end uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := end
	for j := range p.chunks {
		if j > i {
			next = min(next, j*presenceChunkBlocks)
		}
	}
	if a := p.absentFrom; a != unknownFrom && a > i*presenceChunkBlocks {
		a = (a + presenceChunkBlocks - 1) / presenceChunkBlocks * presenceChunkBlocks
		if a > i*presenceChunkBlocks {
			next = min(next, a)
		}
	}
	return next
}
