package seglog

import (
	"slices"

	"dfs/internal/errors"
)

// recover reads the directory; the steps are those of the package comment.
func (l *Log) recover() error {
	// Names first: a file whose new name could still be lost must not be used again.
	if err := l.fs.SyncDir(); err != nil {
		return errors.New(errors.KindIO, "sync the log directory: %w", err)
	}
	found, err := l.listDir()
	l.segs = found // so that they are closed if what follows fails
	if err != nil {
		return err
	}
	if err := l.checkNewest(found); err != nil {
		return err
	}
	reached, void := chainOf(found)
	if len(reached) == 0 {
		if err := l.startEmpty(); err != nil {
			return err
		}
	} else if err := l.scanAll(reached); err != nil {
		return err
	}
	if err := l.trimFree(); err != nil {
		return err
	}
	return l.retire(void)
}

func (l *Log) startEmpty() error {
	seg, err := l.newSegment(0, nil)
	if err != nil {
		return err
	}
	l.segs = []*segment{seg}
	return nil
}

// listDir opens the segments, ascending, notes the free files and removes unfinished ones.
func (l *Log) listDir() ([]*segment, error) {
	names, err := l.fs.List()
	if err != nil {
		return nil, errors.New(errors.KindIO, "list the log directory: %w", err)
	}
	slices.Sort(names)
	var segs []*segment
	for _, name := range names {
		prefix, n, ok := parseName(name)
		if !ok {
			l.log.Warn("a file in the log's directory is not the log's; it is left alone", "file", name)
			continue
		}
		l.free.counter = max(l.free.counter, n)
		switch prefix {
		case fillPrefix:
			if err := l.fs.Remove(name); err != nil {
				return segs, errors.New(errors.KindIO, "remove unfinished log segment %s: %w", name, err)
			}
		case newestPrefix:
			l.noted, l.newest = true, max(l.newest, n)
		case freePrefix:
			l.free.names = append(l.free.names, name)
		case segPrefix:
			seg, err := l.openSegment(name, n)
			if seg != nil {
				segs = append(segs, seg)
			}
			if err != nil {
				return segs, err
			}
		}
	}
	return segs, nil
}

// openSegment opens a segment and reads its header.
func (l *Log) openSegment(name string, n uint64) (*segment, error) {
	f, err := l.fs.Open(name, false)
	if err != nil {
		return nil, errors.New(errors.KindIO, "open log segment %s: %w", name, err)
	}
	seg := &segment{name: name, file: f, end: Block}
	size, err := f.Size()
	if err != nil {
		return seg, errors.New(errors.KindIO, "size of log segment %s: %w", name, err)
	}
	if size < Block {
		return seg, corrupt(name, 0, 0, "the file is too short for a header")
	}
	buf, err := l.window.buf.grow(Block)
	if err != nil {
		return seg, errors.New(errors.KindNoMemory, "buffer to read log segments: %w", err)
	}
	if _, err := f.ReadAt(buf, 0); err != nil {
		return seg, errors.New(errors.KindIO, "read the header of log segment %s: %w", name, err)
	}
	if seg.header, seg.chain, err = decodeHeader(name, buf); err != nil {
		return seg, err
	}
	if seg.seq != n {
		return seg, corrupt(name, 16, seg.first, "the header is that of another segment")
	}
	if size < int64(seg.segBytes) {
		return seg, corrupt(name, size, seg.first, "the file is shorter than its header says")
	}
	return seg, nil
}

// chainOf splits segments into those reached from the newest, oldest first, and the void ones.
func chainOf(found []*segment) (reached, void []*segment) {
	want := uint64(0)
	for i := len(found) - 1; i >= 0; i-- {
		seg := found[i]
		if i == len(found)-1 || seg.seq == want {
			reached = append(reached, seg)
			want = seg.prevSeq
			continue
		}
		void = append(void, seg)
	}
	slices.Reverse(reached)
	slices.Reverse(void)
	return reached, void
}

// scanAll builds the index from the groups of the reached segments.
func (l *Log) scanAll(segs []*segment) error {
	var sc scanner
	defer sc.buf.drop()
	var next, logFirst uint64
	for i, seg := range segs {
		if seg.first != 0 {
			if next != 0 && seg.first > next {
				return corrupt(seg.name, 40, seg.first, "entries before this segment are missing")
			}
			dropFrom(segs[:i], seg.first)
			next = seg.first
		}
		seg.base = seg.first
		logFirst = seg.logFirst
		sc.begin(l, seg, next)
		if i == len(segs)-1 {
			if err := seg.file.Sync(); err != nil {
				return errors.New(errors.KindIO, "sync log segment %s: %w", seg.name, err)
			}
			sc.active = true
		} else {
			sc.wantEnd, sc.wantChain = int64(segs[i+1].prevEnd), segs[i+1].prevChain
		}
		if err := sc.run(); err != nil {
			return err
		}
		next = sc.next
		if sc.groups > 0 {
			logFirst = sc.logFirst
		}
	}
	if err := l.setBounds(segs, logFirst, next); err != nil {
		return err
	}
	l.segs = segs
	return nil
}

// dropFrom forgets the entries from index first on, which a later segment overrides.
func dropFrom(segs []*segment, first uint64) {
	for _, seg := range segs {
		if seg.limit() > first {
			seg.ents = seg.ents[:max(first, seg.base)-seg.base]
		}
	}
}

// setBounds derives first and next, and checks that what is missing at the front was truncated.
func (l *Log) setBounds(segs []*segment, logFirst, next uint64) error {
	oldest := segs[0]
	if oldest.prevSeq != 0 && oldest.first > logFirst {
		return corrupt(segName(oldest.prevSeq), 0, logFirst, "the segment is missing, and its entries were not truncated")
	}
	if next == 0 {
		return nil // empty
	}
	for _, seg := range segs {
		if len(seg.ents) > 0 {
			if logFirst < seg.base || logFirst >= next {
				return corrupt(seg.name, 48, logFirst, "the log's first index is not in it")
			}
			l.first, l.next = logFirst, next
			return nil
		}
	}
	return corrupt(oldest.name, Block, logFirst, "no entries where some are named")
}

// trimFree removes free files that are too many or of another size, or for which there is no room.
func (l *Log) trimFree() error {
	names := l.free.names
	l.free.names = nil
	for _, name := range names {
		f, err := l.fs.Open(name, false)
		if err != nil {
			return errors.New(errors.KindIO, "open free log segment %s: %w", name, err)
		}
		size, err := f.Size()
		_ = f.Close()
		if err != nil {
			return errors.New(errors.KindIO, "size of free log segment %s: %w", name, err)
		}
		if size == l.opts.SegmentBytes && len(l.free.names) < l.opts.FreeMax {
			l.free.names = append(l.free.names, name)
			continue
		}
		if err := l.fs.Remove(name); err != nil {
			return errors.New(errors.KindIO, "remove free log segment %s: %w", name, err)
		}
	}
	return l.shed()
}
