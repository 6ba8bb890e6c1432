package seglog

import "dfs/internal/errors"

// TruncateFront removes the entries below before, durably. Beyond the last entry it empties the log.
func (l *Log) TruncateFront(before uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.state(); err != nil {
		return err
	}
	if l.first == l.next || before <= l.first {
		return nil
	}
	if before >= l.next {
		return l.resetLocked()
	}
	if err := l.recordFirst(before); err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	l.first = before
	n := 0
	for n < len(l.segs)-1 && l.segs[n].limit() <= before {
		n++
	}
	gone := l.segs[:n]
	l.segs = append([]*segment(nil), l.segs[n:]...)
	l.mu.Unlock()
	return l.retire(gone)
}

// recordFirst writes an empty group that carries the new first index. The
// segments before it may go only after that.
func (l *Log) recordFirst(first uint64) error {
	seg := l.active()
	if seg.end >= int64(seg.segBytes) {
		var err error
		if seg, err = l.rotate(l.next, seg); err != nil {
			return err
		}
	}
	_, err := l.writeGroup(seg, nil, groupHead{first: l.next, logFirst: first})
	return err
}

// TruncateBack removes the entries from index from on, durably: a new segment
// begins, whose header overrides them. At or below the first entry it empties the log.
func (l *Log) TruncateBack(from uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.state(); err != nil {
		return err
	}
	if l.first == l.next || from >= l.next {
		return nil
	}
	if from <= l.first {
		return l.resetLocked()
	}
	keep := len(l.segs) - 1
	for l.segs[keep].base >= from || len(l.segs[keep].ents) == 0 {
		keep--
	}
	gone := append([]*segment(nil), l.segs[keep+1:]...)
	seg, err := l.newSegment(from, l.segs[keep])
	if err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	last := l.segs[keep]
	last.ents = last.ents[:min(from-last.base, uint64(len(last.ents)))]
	l.segs = append(append([]*segment(nil), l.segs[:keep+1]...), seg)
	l.next = from
	l.mu.Unlock()
	return l.retire(gone)
}

// Reset empties the log, durably; the next Append may begin at any index.
func (l *Log) Reset() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.state(); err != nil {
		return err
	}
	if l.first == l.next {
		return nil
	}
	return l.resetLocked()
}

func (l *Log) resetLocked() error {
	seg, err := l.newSegment(0, nil)
	if err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	gone := l.segs
	l.segs = []*segment{seg}
	l.first, l.next = 0, 0
	l.mu.Unlock()
	return l.retire(gone)
}

// rotate seals the active segment and goes on in a new one.
func (l *Log) rotate(first uint64, prev *segment) (*segment, error) {
	if l.first == l.next {
		first = 0
	}
	seg, err := l.newSegment(first, prev)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs = append(l.segs, seg)
	if prev.ents != nil && cap(prev.ents) > len(prev.ents)+64 {
		prev.ents = append([]entryRef(nil), prev.ents...) // sealed: no room to grow is needed
	}
	return seg, nil
}

// newSegment makes the next segment, its header durable before it gets its name
// and the name durable before it is used. prev nil: all older segments are void.
func (l *Log) newSegment(first uint64, prev *segment) (*segment, error) {
	spare, err := l.free.take(l)
	if err != nil {
		return nil, err
	}
	h := header{seq: l.free.nextSeq(), salt: l.opts.Salt(), segBytes: uint64(l.opts.SegmentBytes), first: first, filled: spare.filled, noted: true}
	if first != 0 {
		h.logFirst = l.first
	}
	if prev != nil {
		h.prevSeq, h.prevEnd, h.prevChain = prev.seq, uint64(prev.end), prev.chain
	}
	seg := &segment{header: h, name: segName(h.seq), file: spare.file, base: first, end: Block}
	err = func() error {
		buf, err := l.wbuf.grow(Block)
		if err != nil {
			return err
		}
		clear(buf)
		seg.chain = h.encode(buf)
		if err := spare.file.WriteDurable(buf, 0); err != nil {
			return err
		}
		if err := l.fs.Rename(spare.name, seg.name); err != nil {
			return err
		}
		if err := l.noteNewest(h.seq); err != nil {
			return err
		}
		return l.fs.SyncDir()
	}()
	if err != nil {
		_ = spare.file.Close()
		return nil, errors.New(errors.KindOf(err), "begin log segment %s: %w", seg.name, err)
	}
	return seg, nil
}

// retire takes segments that are void away: to the free list, or removed.
func (l *Log) retire(gone []*segment) error {
	if len(gone) == 0 {
		return nil
	}
	l.rmu.Lock()
	l.window.drop()
	for _, seg := range gone {
		seg.retired = true
		_ = seg.file.Close() // nothing unsynced is in it that matters
	}
	l.rmu.Unlock()
	if err := l.shed(); err != nil {
		return l.fail(err)
	}
	for _, seg := range gone {
		if err := l.free.give(l, seg); err != nil {
			return l.fail(err)
		}
	}
	if err := l.fs.SyncDir(); err != nil {
		return l.fail(errors.New(errors.KindIO, "sync the log directory: %w", err))
	}
	l.free.publish()
	return nil
}
