package device

import (
	"sync"

	"dfs/blockstore"
	"dfs/wal"
)

// suspectsMax bounds the suspects that are remembered in memory; the mark in the checksum
// file is there for all of them.
const suspectsMax = 1 << 16

// suspects remembers blocks that were changed in part while they did not fit their checksum: what
// the entry said when that was first seen. A crash tears in three ways: data older than its
// sum, sum older than its data, and the block itself torn. In the first, redo brings the data to exactly what
// the sum was made of: the block is whole then. That judgement is as sound as any
// check of a read: the sum was made of the block's full content at some index from the
// checkpoint on, and redo from there on is idempotent.
//
// A block that does not fit once the redo is over has rotted. A CRC is affine: what a change of a part adds to it depends on the bytes
// changed alone. So the sum that the block ought to have is known from then on, for as long as the device is open, and another
// replica's content can be compared with it (Fits). Where the change met the very bytes that had rotted, nothing fits.
type suspects struct {
	mu sync.Mutex
	m  map[blockstore.ChunkID]map[int]suspect
	n  int
}

type suspect struct {
	expected uint32 // the entry that stood when the slot was first seen unfit; sumAbsent: unknown
	whole    uint32 // the sum of what the block ought to hold now; sumAbsent: unknown
}

// judge returns the entry to store for a slot whose new content has sum s and whose old content compared
// with the entry old as was.
func (q *suspects) judge(id blockstore.ChunkID, slot int, old, s uint32, was fit) uint32 {
	switch was {
	case fits:
		q.forget(id, slot)
		return s
	case fitsInPart:
		if q.expected(id, slot) == s {
			q.forget(id, slot)
			return s
		}
		q.add(id, slot, sumAbsent)
		return s ^ suspectMask
	}
	if s == old {
		q.forget(id, slot)
		return s
	}
	if s^suspectMask == old {
		q.add(id, slot, sumAbsent)
		return old
	}
	q.add(id, slot, old)
	return s ^ suspectMask
}

// add remembers a suspect, keeping what was expected before unless there is something new.
func (q *suspects) add(id blockstore.ChunkID, slot int, expected uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	slots := q.m[id]
	have, ok := slots[slot]
	switch {
	case ok && expected == sumAbsent:
		expected = have.expected
	case !ok && q.n >= suspectsMax:
		return
	case !ok:
		q.n++
	}
	if q.m == nil {
		q.m = map[blockstore.ChunkID]map[int]suspect{}
	}
	if slots == nil {
		slots = map[int]suspect{}
		q.m[id] = slots
	}
	slots[slot] = suspect{expected, have.whole}
}

// carry notes that the content of a slot that is suspect has changed: its sum was before and is after. The stored entry was old, which it
// had come to be unfit for if rotten.
func (q *suspects) carry(id blockstore.ChunkID, slot int, old, before, after uint32, rotten bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, ok := q.m[id][slot]
	if !ok {
		return
	}
	from := s.whole
	if rotten {
		from = old
	}
	if from == sumAbsent {
		return
	}
	if s.whole = from ^ before ^ after; s.whole == sumAbsent || s.whole == suspectMask {
		s.whole = sumInstead
	}
	q.m[id][slot] = s
}

// whole returns the sum of what a suspect slot ought to hold; sumAbsent: unknown.
func (q *suspects) whole(id blockstore.ChunkID, slot int) uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.m[id][slot].whole
}

// expected returns the entry that stood when the slot was first seen unfit; sumAbsent: unknown.
func (q *suspects) expected(id blockstore.ChunkID, slot int) uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.m[id][slot].expected
}

func (q *suspects) forget(id blockstore.ChunkID, slot int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return
	}
	if slots := q.m[id]; slots != nil {
		if _, ok := slots[slot]; ok {
			delete(slots, slot)
			q.n--
		}
		if len(slots) == 0 {
			delete(q.m, id)
		}
	}
}

func (q *suspects) forgetChunk(id blockstore.ChunkID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n -= len(q.m[id])
	delete(q.m, id)
}

// Suspects returns up to max blocks that redo found damaged since the device was opened and that
// were not repaired, rewritten or trimmed since. Those of earlier processes are found by reads and by the scrubber.
func (d *Device) Suspects(max int) ([]BadBlock, error) {
	if err := d.enterComplete(); err != nil {
		return nil, err
	}
	defer d.leave()
	var at []wal.Addr
	d.suspects.mu.Lock()
	for id, slots := range d.suspects.m {
		for slot := range slots {
			if len(at) < max {
				at = append(at, wal.Addr{VDisk: id.VDisk, Block: chunkFirst(id.Chunk) + uint64(slot)})
			}
		}
	}
	d.suspects.mu.Unlock()
	var bad []BadBlock
	var dst [blockSize]byte
	for _, a := range at {
		b, err := d.readPiece(pieceIn(wal.Span{VDisk: a.VDisk, Block: a.Block, Count: 1}, chunkOf(a.VDisk, a.Block).Chunk), dst[:], nil, 0)
		if err != nil {
			return nil, err
		}
		bad = append(bad, b...)
	}
	return bad, nil
}
