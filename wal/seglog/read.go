package seglog

import (
	"time"

	"dfs/internal/errors"
)

const (
	readAhead  = 256 << 10 // bytes read in one go when entries are read in order
	windowKeep = 1 << 20   // a greater window is dropped after use
)

// readWindow is a piece of one segment, read in one go. Under rmu. What it
// holds lies before the segment's end as it was, so it never changes.
type readWindow struct {
	buf    buffer
	seg    *segment
	off    int64
	data   []byte
	expect int64 // where the next read begins if they go in order
	used   time.Time
	idle   *time.Timer // nil when not armed
}

// drop forgets the piece and gives its memory back.
func (w *readWindow) drop() {
	w.buf.drop()
	w.seg, w.data = nil, nil
}

// close also stops the timer.
func (w *readWindow) close() {
	w.drop()
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
}

// releaseWindow gives the window back after it was idle long enough, or looks again later.
func (l *Log) releaseWindow() {
	l.rmu.Lock()
	defer l.rmu.Unlock()
	w := &l.window
	if w.idle == nil {
		return // closed
	}
	if left := l.opts.IdleRelease - time.Since(w.used); left > 0 {
		w.idle.Reset(left)
		return
	}
	w.idle = nil
	w.drop()
}

// Get returns a fresh slice with the bytes of the entry at index. KindNotExist: not
// in the log. KindCorrupt: its checksum does not fit.
func (l *Log) Get(index uint64) ([]byte, error) {
	if err := l.state(); err != nil {
		return nil, err
	}
	seg, ref, end := l.locate(index)
	if seg == nil {
		return nil, notFound(index)
	}
	return l.getFrom(seg, ref, index, end)
}

// getFrom reads what locate found; the segment may have been retired since.
func (l *Log) getFrom(seg *segment, ref entryRef, index uint64, end int64) ([]byte, error) {
	out := make([]byte, ref.len)
	l.rmu.Lock()
	defer l.rmu.Unlock()
	if seg.retired {
		return nil, notFound(index)
	}
	src, err := l.readSpan(seg, int64(ref.off), int64(ref.len), end)
	if err != nil {
		return nil, errors.New(errors.KindIO, "read entry %d at offset %d of log segment %s: %w", index, ref.off, seg.name, err)
	}
	copy(out, src)
	if entryCRC(seg.salt, index, out) != ref.crc {
		return nil, corrupt(seg.name, int64(ref.off), index, "entry checksum does not fit")
	}
	return out, nil
}

// Prefix returns a fresh slice with the first bytes, n at most, of the entry at index, not checked against its checksum: for a caller that
// can tell by them whether it needs the entry. KindNotExist: not in the log.
func (l *Log) Prefix(index uint64, n int) ([]byte, error) {
	if err := l.state(); err != nil {
		return nil, err
	}
	seg, ref, end := l.locate(index)
	if seg == nil {
		return nil, notFound(index)
	}
	out := make([]byte, min(int64(ref.len), int64(n)))
	l.rmu.Lock()
	defer l.rmu.Unlock()
	if seg.retired {
		return nil, notFound(index)
	}
	src, err := l.readSpan(seg, int64(ref.off), int64(len(out)), end)
	if err != nil {
		return nil, errors.New(errors.KindIO, "read entry %d at offset %d of log segment %s: %w", index, ref.off, seg.name, err)
	}
	copy(out, src)
	return out, nil
}

func notFound(index uint64) error {
	return errors.New(errors.KindNotExist, "entry %d is not in the log", index)
}

func corrupt(name string, off int64, index uint64, what string) error {
	return errors.New(errors.KindCorrupt, "log segment %s, offset %d, index %d: %s: this replica's log is damaged, fetch it anew from the others", name, off, index, what)
}

// readSpan returns n bytes at off of seg, valid until the next call. Under rmu.
func (l *Log) readSpan(seg *segment, off, n, end int64) ([]byte, error) {
	w := &l.window
	if w.seg != seg || off < w.off || off+n > w.off+int64(len(w.data)) {
		from := alignDown(off)
		size := alignUp(off+n) - from
		if w.expect == from || w.expect == from+Block || (w.seg == seg && w.expect > from-readAhead && w.expect <= from) {
			size = max(size, min(readAhead, end-from))
		}
		w.seg, w.data = nil, nil
		if len(w.buf.mem) > windowKeep {
			w.buf.drop()
		}
		buf, err := w.buf.grow(size)
		if err != nil {
			return nil, err
		}
		l.counts.fileReads.Add(1)
		if _, err := seg.file.ReadAt(buf, from); err != nil {
			return nil, err
		}
		w.seg, w.off, w.data = seg, from, buf
	}
	w.expect = alignDown(off + n)
	w.used = time.Now()
	if w.idle == nil {
		w.idle = time.AfterFunc(l.opts.IdleRelease, l.releaseWindow)
	}
	return w.data[off-w.off : off-w.off+n], nil
}
