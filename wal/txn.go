package wal

import (
	"encoding/binary"
	"slices"
	"time"
)

// txn is the running transaction: a record in the making. Bytes are copied
// once, into the encoding itself. An index of the blocks in it lets a change of
// bytes that stand there already be made in place, so a block that is changed
// a hundred times is logged once.
//
// Invariant: index names, for every byte of a block that some extent in buf
// holds, the newest extent that does. So a change made in place is never hidden
// by an older one that is redone later.
type txn struct {
	buf     []byte // room for the header, then extents; its capacity is never exceeded
	extents uint32
	trims   []Span
	zeros   []Span
	spans   int // encoded bytes of trims and zeros
	alloc   int64
	ops     int
	born    time.Time

	last   Range // the last extent's end: the address and offset of the byte behind it; Data unused
	lastAt int   // where its length stands in buf, 0: no extent yet

	index  map[Addr]int // to blocks
	blocks [][]piece    // by offset, disjoint; memory is used again by the next transaction
}

// piece is a run of bytes of one block, [off, end), that stands at buf[pos:].
type piece struct {
	off, end uint32
	pos      int
}

// clipMin is the least number of bytes for whose sake a range is cut: what is
// saved must pay for an extent header that the cut may cost.
const clipMin = 32

// indexKeepMax is the number of blocks up to which a sealed transaction's index is used again.
const indexKeepMax = 4096

func (t *txn) empty() bool { return t.ops == 0 }

// size is the encoded size of the transaction as it is, in bytes; 0 if empty.
func (t *txn) size() int {
	if t.empty() {
		return 0
	}
	return len(t.buf) + t.spans
}

// begin readies an empty transaction whose encoding goes to buf.
func (t *txn) begin(buf []byte, now time.Time) {
	t.buf = buf[:recordHeaderLen]
	t.born = now
	if t.index == nil {
		t.index = map[Addr]int{}
	}
}

// conflicts reports whether op cannot join: it trims or zeroes a block of
// which the transaction holds bytes, or trims one that it zeroes, and the order of
// a record (trims, zeros, ranges) would turn that round. It may err on the side of yes.
func (t *txn) conflicts(op *Op) bool {
	for _, s := range op.Trims {
		for _, z := range t.zeros {
			if spansOverlap(s, z) {
				return true
			}
		}
	}
	if (len(op.Trims)+len(op.Zeros))*len(t.index) > 1<<14 {
		return true // finding out would take longer than a record more
	}
	return slices.ContainsFunc(op.Trims, t.holdsAny) || slices.ContainsFunc(op.Zeros, t.holdsAny)
}

// holdsAny reports whether the transaction holds bytes of a block of s.
func (t *txn) holdsAny(s Span) bool {
	if s.Count > uint64(len(t.index)) {
		for a := range t.index {
			if spanHas(s, a) {
				return true
			}
		}
		return false
	}
	for i := range s.Count {
		if _, ok := t.index[Addr{s.VDisk, s.Block + i}]; ok {
			return true
		}
	}
	return false
}

// add takes op in and returns how many of its bytes were absorbed, made in
// place. It adds at most op.Bytes() - recordHeaderLen to size.
func (t *txn) add(op *Op) (absorbed int) {
	t.ops++
	t.alloc += op.AllocDelta
	if len(op.Trims)+len(op.Zeros) > 0 {
		t.spans = 0
		for _, s := range op.Trims {
			t.trims = addSpan(t.trims, s)
		}
		for _, s := range op.Zeros {
			t.zeros = addSpan(t.zeros, s)
		}
		for _, s := range t.trims {
			t.spans += spanLen(s)
		}
		for _, s := range t.zeros {
			t.spans += spanLen(s)
		}
	}
	for i := range op.Ranges {
		absorbed += t.put(&op.Ranges[i])
	}
	return absorbed
}

// put takes one range in: bytes that are there already are changed in place,
// the others appended.
func (t *txn) put(g *Range) (absorbed int) {
	at, ok := t.index[g.Addr]
	if !ok {
		at = len(t.blocks)
		if at < cap(t.blocks) {
			t.blocks = t.blocks[:at+1]
			t.blocks[at] = t.blocks[at][:0]
		} else {
			t.blocks = append(t.blocks, nil)
		}
		t.index[g.Addr] = at
		t.blocks[at] = append(t.blocks[at], t.append(g.Addr, g.Off, g.Data))
		return 0
	}
	off, end := g.Off, g.Off+uint32(len(g.Data))
	covered, gaps, gap := cover(t.blocks[at], off, end)
	if gaps > 1 || gaps == 1 && covered < clipMin {
		p := t.append(g.Addr, g.Off, g.Data)
		t.blocks[at] = insertPiece(cutPieces(t.blocks[at], off, end), p)
		return 0
	}
	for _, p := range t.blocks[at] {
		if lo, hi := max(p.off, off), min(p.end, end); lo < hi {
			copy(t.buf[p.pos+int(lo-p.off):], g.Data[lo-off:hi-off])
		}
	}
	if gaps == 1 {
		p := t.append(g.Addr, gap.off, g.Data[gap.off-off:gap.end-off])
		t.blocks[at] = insertPiece(t.blocks[at], p)
	}
	return int(covered)
}

// append puts data behind the others, joined to the last extent if it goes on there.
func (t *txn) append(a Addr, off uint32, data []byte) piece {
	if t.lastAt == 0 || t.last.Addr != a || t.last.Off != off {
		t.buf = appendExtentHeader(t.buf, a, off, 0)
		t.lastAt = len(t.buf) - 4
		t.extents++
	}
	p := piece{off: off, end: off + uint32(len(data)), pos: len(t.buf)}
	t.buf = append(t.buf, data...)
	length := t.buf[t.lastAt:]
	binary.LittleEndian.PutUint32(length, binary.LittleEndian.Uint32(length)+uint32(len(data)))
	t.last = Range{Addr: a, Off: p.end}
	if p.end == BlockSize {
		t.last = Range{Addr: Addr{a.VDisk, a.Block + 1}}
	}
	return p
}

// cover tells how many bytes of [off, end) the pieces hold, in how many
// gaps the others lie, and the last gap.
func cover(list []piece, off, end uint32) (covered uint32, gaps int, gap piece) {
	at := off
	for _, p := range list {
		if p.end <= at {
			continue
		}
		if p.off >= end {
			break
		}
		if p.off > at {
			gaps, gap = gaps+1, piece{off: at, end: p.off}
			at = p.off
		}
		next := min(p.end, end)
		covered += next - at
		at = next
	}
	if at < end {
		gaps, gap = gaps+1, piece{off: at, end: end}
	}
	return covered, gaps, gap
}

// cutPieces takes [off, end) out of the pieces.
func cutPieces(list []piece, off, end uint32) []piece {
	for i := 0; i < len(list); i++ {
		p := list[i]
		if p.end <= off || p.off >= end {
			continue
		}
		tail := piece{off: end, end: p.end, pos: p.pos + int(end) - int(p.off)}
		switch {
		case p.off < off && p.end > end:
			list[i].end = off
			return slices.Insert(list, i+1, tail)
		case p.off < off:
			list[i].end = off
		case p.end > end:
			list[i] = tail
		default:
			list = slices.Delete(list, i, i+1)
			i--
		}
	}
	return list
}

// insertPiece puts p, which overlaps none, in its place, joined to the one before it
// if both stand together in buf as well.
func insertPiece(list []piece, p piece) []piece {
	i := 0
	for i < len(list) && list[i].off < p.off {
		i++
	}
	if i > 0 && list[i-1].end == p.off && list[i-1].pos+int(p.off-list[i-1].off) == p.pos {
		list[i-1].end = p.end
		return list
	}
	return slices.Insert(list, i, p)
}

// seal takes the record out and leaves the transaction empty.
func (t *txn) seal(gen Gen) sealed {
	s := sealed{gen: gen, size: t.size(), buf: t.buf, extents: t.extents, trims: t.trims, zeros: t.zeros, alloc: t.alloc}
	if len(t.index) > indexKeepMax {
		*t = txn{} // a map never shrinks, and clearing a huge one takes time
		return s
	}
	clear(t.index)
	*t = txn{index: t.index, blocks: t.blocks[:0]}
	return s
}

// sealed is a transaction that is closed but not yet wholly encoded: what is
// left takes time and needs no lock.
type sealed struct {
	gen          Gen
	size         int
	buf          []byte
	extents      uint32
	trims, zeros []Span
	alloc        int64
}

// finish returns the encoded record. Where the record fills less than half of
// its buffer it is copied to one of its size, and the buffer returned for another use.
func (s *sealed) finish() (record, spare []byte) {
	b := appendSpans(s.buf, s.trims)
	b = appendSpans(b, s.zeros)
	putRecordHeader(b, s.alloc, s.extents, uint32(len(s.trims)), uint32(len(s.zeros)))
	if len(b) < cap(b)/2 {
		return append(make([]byte, 0, len(b)), b...), b[:0]
	}
	return b, nil
}
