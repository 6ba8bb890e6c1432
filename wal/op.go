package wal

import "slices"

// Op is the set of changes of one operation, to be added whole to the running
// transaction. Collect them with its methods, in the order in which they happen:
// they keep the Record such that its own order (trims, zeros, ranges) gives
// the same result. The zero Op is empty and ready for use. An Op refers to the
// bytes that it was given until it is committed. Not safe for concurrent use.
type Op struct {
	Record
}

// Trim makes the blocks of s absent. A count beyond the end of the vdisk is cut
// to it; an empty span is nothing.
func (o *Op) Trim(s Span) {
	if s = clipSpan(s); s.Count == 0 {
		return
	}
	o.dropRanges(s)
	o.Zeros = subtractSpan(o.Zeros, s)
	o.Trims = addSpan(o.Trims, s)
}

// Zero makes the blocks of s present, holding zeros. A count beyond the end of
// the vdisk is cut to it; an empty span is nothing.
func (o *Op) Zero(s Span) {
	if s = clipSpan(s); s.Count == 0 {
		return
	}
	o.dropRanges(s)
	o.Zeros = addSpan(o.Zeros, s)
}

// Write puts data at byte off of block a, off < BlockSize. What does not fit
// in that block goes on in the blocks behind it. data must stay unchanged until
// the Op is committed.
func (o *Op) Write(a Addr, off uint32, data []byte) {
	o.Ranges = slices.Grow(o.Ranges, len(data)/BlockSize+1)
	for len(data) > 0 {
		n := len(data)
		if off < BlockSize {
			n = min(n, BlockSize-int(off)) // a bad off is left for Validate to refuse
		}
		o.Ranges = append(o.Ranges, Range{Addr: a, Off: off, Data: data[:n]})
		data, off = data[n:], 0
		a.Block++
	}
}

// AddAlloc adds delta to the change in the number of present blocks.
func (o *Op) AddAlloc(delta int64) { o.AllocDelta += delta }

// Bytes is the most that the operation adds to the log, in bytes; above
// RecordBytesMax it must go in steps.
func (o *Op) Bytes() int { return o.EncodedSize() }

// Empty reports whether the operation changes nothing.
func (o *Op) Empty() bool {
	return len(o.Ranges) == 0 && len(o.Trims) == 0 && len(o.Zeros) == 0 && o.AllocDelta == 0
}

// Reset empties the operation for another use of its memory.
func (o *Op) Reset() {
	clear(o.Ranges) // let the caller's bytes go
	o.Record = Record{Trims: o.Trims[:0], Zeros: o.Zeros[:0], Ranges: o.Ranges[:0]}
}

func (o *Op) dropRanges(s Span) {
	kept := o.Ranges[:0]
	for _, g := range o.Ranges {
		if !spanHas(s, g.Addr) {
			kept = append(kept, g)
		}
	}
	clear(o.Ranges[len(kept):])
	o.Ranges = kept
}

func clipSpan(s Span) Span {
	if s.Block >= BlocksMax {
		return Span{}
	}
	s.Count = min(s.Count, BlocksMax-s.Block)
	return s
}

func spanHas(s Span, a Addr) bool {
	return a.VDisk == s.VDisk && a.Block >= s.Block && a.Block-s.Block < s.Count
}

func spansOverlap(a, b Span) bool {
	return a.VDisk == b.VDisk && a.Block < b.Block+b.Count && b.Block < a.Block+a.Count
}

// addSpan appends s, joined with the last span where they touch.
func addSpan(list []Span, s Span) []Span {
	if n := len(list); n > 0 {
		l := &list[n-1]
		if l.VDisk == s.VDisk && s.Block <= l.Block+l.Count && l.Block <= s.Block+s.Count {
			end := max(l.Block+l.Count, s.Block+s.Count)
			l.Block = min(l.Block, s.Block)
			l.Count = end - l.Block
			return list
		}
	}
	return append(list, s)
}

// subtractSpan takes the blocks of s out of every span of list.
func subtractSpan(list []Span, s Span) []Span {
	for i := 0; i < len(list); i++ {
		l := list[i]
		if !spansOverlap(l, s) {
			continue
		}
		head := Span{l.VDisk, l.Block, 0}
		if s.Block > l.Block {
			head.Count = s.Block - l.Block
		}
		tail := Span{VDisk: l.VDisk, Block: s.Block + s.Count}
		if end := l.Block + l.Count; end > tail.Block {
			tail.Count = end - tail.Block
		}
		switch {
		case head.Count > 0 && tail.Count > 0:
			list[i] = head
			list = append(list, tail)
		case head.Count > 0:
			list[i] = head
		case tail.Count > 0:
			list[i] = tail
		default:
			list = append(list[:i], list[i+1:]...)
			i--
		}
	}
	return list
}
