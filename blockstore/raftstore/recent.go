package raftstore

import (
	"sync"

	"dfs/wal"
)

const (
	recentMax      = 256 // records remembered
	recentSpansMax = 16  // spans a record is summed up as; one with more counts as touching all
)

// recentWrites remembers what the last records touched, so that a read can tell
// afterwards whether what it saw is of one index.
type recentWrites struct {
	mu    sync.Mutex
	begun uint64 // records begun
	ended uint64 // records ended: begun, or begun-1
	ring  [recentMax]touched
}

// touched sums up which blocks a record changes.
type touched struct {
	all   bool
	spans []wal.Span
}

func (t *touched) add(s wal.Span) {
	if n := len(t.spans); n > 0 {
		last := &t.spans[n-1]
		if last.VDisk == s.VDisk && last.Block+last.Count == s.Block {
			last.Count += s.Count
			return
		}
		if last.VDisk == s.VDisk && s.Block >= last.Block && s.Block+s.Count <= last.Block+last.Count {
			return
		}
	}
	if len(t.spans) == recentSpansMax {
		t.all = true
		return
	}
	t.spans = append(t.spans, s)
}

func (t *touched) overlaps(spans []wal.Span) bool {
	if t.all {
		return true
	}
	for _, a := range t.spans {
		for _, b := range spans {
			if a.VDisk == b.VDisk && a.Block < b.Block+b.Count && b.Block < a.Block+a.Count {
				return true
			}
		}
	}
	return false
}

// begin notes what rec is about to change.
func (r *recentWrites) begin(rec *wal.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.ring[r.begun%recentMax]
	t.all, t.spans = false, t.spans[:0]
	for _, s := range rec.Trims {
		t.add(s)
	}
	for _, s := range rec.Zeros {
		t.add(s)
	}
	for i := range rec.Ranges {
		t.add(wal.Span{VDisk: rec.Ranges[i].VDisk, Block: rec.Ranges[i].Block, Count: 1})
		if t.all {
			break
		}
	}
	r.begun++
}

// end notes that the record begun last is on the device.
func (r *recentWrites) end() {
	r.mu.Lock()
	r.ended = r.begun
	r.mu.Unlock()
}

// start is called before a read; its result goes to disturbed afterwards.
func (r *recentWrites) start() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// disturbed tells whether any record since start may have touched the spans.
func (r *recentWrites) disturbed(since uint64, spans []wal.Span) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun-since > recentMax {
		return true
	}
	for i := since; i < r.begun; i++ {
		if r.ring[i%recentMax].overlaps(spans) {
			return true
		}
	}
	return false
}

// disturb spoils every read that is under way: the device's content is about to be replaced.
func (r *recentWrites) disturb() {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.ring[r.begun%recentMax]
	t.all, t.spans = true, t.spans[:0]
	r.begun++
	r.ended = r.begun
}
