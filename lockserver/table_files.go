package lockserver

import (
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// fileLocks are the byte-range locks and flocks of one inode.
type fileLocks struct {
	id    LockID
	held  []fileHold
	queue []*fileWait // in order of arrival
}

type fileOwner struct {
	s     *session
	owner uint64
}

type fileHold struct {
	fileOwner
	FileLock
}

type fileWait struct {
	fileOwner
	req FileRequest
}

// Files takes file requests of a session. Each is answered once, unless the
// stream breaks first; a cancel is answered by the answer of what it cancels.
func (t *Table) Files(id blockstore.WriterID, stream uint64, reqs []FileRequest) {
	s := t.live(id, stream)
	if s == nil || !s.ready {
		return
	}
	for _, r := range reqs {
		r.Lock = r.Lock.normal()
		switch r.Op {
		case FileCancel:
			t.cancelFile(s, r)
		case FileReleaseOwner:
			t.releaseOwner(s, r)
		case FileSet, FileTest:
			t.fileRequest(s, r)
		default:
			t.replyFile(s, FileReply{Ref: r.Ref, Kind: errors.KindInvalid})
		}
	}
}

// normal is l with a whole file's range if it is a flock.
func (l FileLock) normal() FileLock {
	if l.Flock {
		l.Start, l.End = 0, 1<<63-1
	}
	return l
}

func (l FileLock) overlaps(o FileLock) bool {
	return l.Flock == o.Flock && l.Start <= o.End && o.Start <= l.End
}

func (t *Table) replyFile(s *session, r FileReply) { t.emit(s, Output{File: &r}) }

func (t *Table) fileEntry(id LockID) *fileLocks {
	f := t.files[id]
	if f == nil {
		f = &fileLocks{id: id}
		t.files[id] = f
	}
	return f
}

func (t *Table) fileRequest(s *session, r FileRequest) {
	if r.Lock.Start > r.Lock.End || r.Lock.Type > FileUnlock {
		t.replyFile(s, FileReply{Ref: r.Ref, Kind: errors.KindInvalid})
		return
	}
	if s.fileCnt >= t.o.FileLocksMax && r.Lock.Type != FileUnlock {
		t.replyFile(s, FileReply{Ref: r.Ref, Kind: errors.KindNoLocks})
		return
	}
	f := t.fileEntry(r.ID)
	w := &fileWait{fileOwner{s, r.Lock.Owner}, r}
	if t.tryFile(f, w) {
		t.advanceFile(f)
		return
	}
	f.queue = append(f.queue, w)
	s.fileCnt++
	if !r.Lock.Flock {
		t.blocked[w.fileOwner] = append(t.blocked[w.fileOwner], w)
	}
}

// tryFile answers w now if it can be, and says whether it was answered.
func (t *Table) tryFile(f *fileLocks, w *fileWait) bool {
	if w.req.Op == FileSet && w.req.Lock.Type == FileUnlock {
		t.setFile(f, w.fileOwner, w.req.Lock)
		t.replyFile(w.s, FileReply{Ref: w.req.Ref, OK: true})
		return true
	}
	if t.awaited > 0 {
		return false
	}
	block := f.blocker(w.fileOwner, w.req.Lock)
	switch {
	case w.req.Op == FileTest:
		answer := w.req.Lock
		answer.Type = FileUnlock
		if block != nil {
			answer = block.FileLock
		}
		t.replyFile(w.s, FileReply{Ref: w.req.Ref, OK: true, Lock: answer})
	case block == nil:
		t.setFile(f, w.fileOwner, w.req.Lock)
		t.replyFile(w.s, FileReply{Ref: w.req.Ref, OK: true})
	case !w.req.Wait:
		t.replyFile(w.s, FileReply{Ref: w.req.Ref, Kind: errors.KindAgain})
	case !w.req.Lock.Flock && t.closesCircle(f, w):
		t.replyFile(w.s, FileReply{Ref: w.req.Ref, Kind: errors.KindDeadlock})
	default:
		return false
	}
	return true
}

// blocker is the first lock of another owner in the way of l.
func (f *fileLocks) blocker(o fileOwner, l FileLock) *fileHold {
	for i := range f.held {
		h := &f.held[i]
		if h.fileOwner != o && h.overlaps(l) && (h.Type == FileWrite || l.Type == FileWrite) {
			return h
		}
	}
	return nil
}

// closesCircle reports whether an owner in w's way waits, directly or through
// others, for w's owner.
func (t *Table) closesCircle(f *fileLocks, w *fileWait) bool {
	seen := map[fileOwner]bool{}
	var reaches func(f *fileLocks, w *fileWait) bool
	reaches = func(f *fileLocks, from *fileWait) bool {
		for _, h := range f.held {
			l := from.req.Lock
			if h.fileOwner == from.fileOwner || !h.overlaps(l) || h.Type != FileWrite && l.Type != FileWrite {
				continue
			}
			if h.fileOwner == w.fileOwner {
				return true
			}
			if seen[h.fileOwner] {
				continue
			}
			seen[h.fileOwner] = true
			for _, next := range t.blocked[h.fileOwner] {
				if g := t.files[next.req.ID]; g != nil && reaches(g, next) {
					return true
				}
			}
		}
		return false
	}
	return reaches(f, w)
}

// setFile makes l the owner's lock on its range, cutting or replacing what the
// owner had there.
func (t *Table) setFile(f *fileLocks, o fileOwner, l FileLock) {
	before := len(f.held)
	f.held = setRange(f.held, o, l)
	o.s.fileCnt += len(f.held) - before
	if len(f.held) == 0 && len(f.queue) == 0 {
		delete(t.files, f.id)
	} else {
		t.files[f.id] = f
	}
}

func setRange(held []fileHold, o fileOwner, l FileLock) []fileHold {
	var out []fileHold
	for _, h := range held {
		if h.fileOwner != o || !h.overlaps(l) {
			out = append(out, h)
			continue
		}
		if h.Start < l.Start {
			left := h
			left.End = l.Start - 1
			out = append(out, left)
		}
		if h.End > l.End {
			right := h
			right.Start = l.End + 1
			out = append(out, right)
		}
	}
	if l.Type != FileUnlock {
		out = append(out, fileHold{o, l})
	}
	return mergeRanges(out, o, l)
}

// mergeRanges joins the owner's neighbouring ranges of l's type, so that
// growing byte by byte does not grow the table.
func mergeRanges(held []fileHold, o fileOwner, l FileLock) []fileHold {
	if l.Type == FileUnlock || l.Flock {
		return held
	}
	mine := len(held) - 1
	for i := 0; i < mine; {
		h, m := held[i], &held[mine]
		adjacent := h.fileOwner == o && !h.Flock && h.Type == m.Type && (h.End < m.Start && h.End+1 == m.Start || m.End < h.Start && m.End+1 == h.Start)
		if !adjacent {
			i++
			continue
		}
		m.Start, m.End = min(m.Start, h.Start), max(m.End, h.End)
		held = append(held[:i], held[i+1:]...)
		mine--
	}
	return held
}

// advanceFile answers those of f's waiting requests that fit by now, in order.
func (t *Table) advanceFile(f *fileLocks) {
	t.endWaits(f, func(w *fileWait) bool { return t.tryFile(f, w) })
}

// endWaits strikes those of f's waiting requests that are over, asked in order, and forgets f if nothing is left of it.
func (t *Table) endWaits(f *fileLocks, over func(*fileWait) bool) {
	kept := f.queue[:0]
	for _, w := range f.queue {
		if over(w) {
			t.unblock(w)
		} else {
			kept = append(kept, w)
		}
	}
	clear(f.queue[len(kept):])
	f.queue = kept
	if len(f.held) == 0 && len(f.queue) == 0 {
		delete(t.files, f.id)
	}
}

func (t *Table) advanceFiles() {
	for _, f := range t.files {
		t.advanceFile(f)
	}
}

// unblock takes w, which left its queue, out of the books.
func (t *Table) unblock(w *fileWait) {
	w.s.fileCnt--
	waits := t.blocked[w.fileOwner]
	for i := range waits {
		if waits[i] == w {
			waits = append(waits[:i], waits[i+1:]...)
			break
		}
	}
	if len(waits) == 0 {
		delete(t.blocked, w.fileOwner)
	} else {
		t.blocked[w.fileOwner] = waits
	}
}

func (t *Table) cancelFile(s *session, r FileRequest) {
	f := t.files[r.ID]
	if f == nil {
		return
	}
	for i, w := range f.queue {
		if w.s == s && w.req.Ref == r.Ref {
			f.queue = append(f.queue[:i], f.queue[i+1:]...)
			t.unblock(w)
			t.replyFile(s, FileReply{Ref: r.Ref, Kind: errors.KindInterrupted})
			break
		}
	}
	t.advanceFile(f)
}

func (t *Table) releaseOwner(s *session, r FileRequest) {
	t.replyFile(s, FileReply{Ref: r.Ref, OK: true})
	f := t.files[r.ID]
	if f == nil {
		return
	}
	t.setFile(f, fileOwner{s, r.Lock.Owner}, FileLock{End: 1<<64 - 1, Type: FileUnlock, Flock: r.Lock.Flock})
	t.advanceFile(f)
}

// dropFileWaits forgets what a session's older stream waited for.
func (t *Table) dropFileWaits(s *session) {
	if s.fileCnt == 0 {
		return
	}
	for _, f := range t.files {
		t.endWaits(f, func(w *fileWait) bool { return w.s == s })
	}
}

func (t *Table) dropFileHolds(s *session) {
	if s.fileCnt == 0 {
		return
	}
	for _, f := range t.files {
		kept := f.held[:0]
		for _, h := range f.held {
			if h.s == s {
				s.fileCnt--
			} else {
				kept = append(kept, h)
			}
		}
		f.held = kept
	}
}

// takeFileClaims puts what the client tells in place of what the table had.
func (t *Table) takeFileClaims(s *session, claims []FileClaim) error {
	t.dropFileHolds(s)
	var conflict error
	for _, c := range claims {
		o, l := fileOwner{s, c.Lock.Owner}, c.Lock.normal()
		f := t.fileEntry(c.ID)
		if l.Start > l.End || l.Type >= FileUnlock || f.blocker(o, l) != nil {
			conflict = errors.New(errors.KindSessionEnded, "conflict: session %d claims a file lock of inode %d that another holds: it is ended", s.id, c.ID)
			t.setFile(f, o, FileLock{Start: 1, End: 0, Type: FileUnlock})
			continue
		}
		t.setFile(f, o, l)
	}
	t.advanceFiles()
	return conflict
}

func (t *Table) freeFiles(s *session) {
	t.dropFileWaits(s)
	t.dropFileHolds(s)
	t.advanceFiles()
}

// oldestRevoke tells how long a lock's oldest revoke has been out; for the
// server's metrics.
func (t *Table) oldestRevoke(now time.Time) time.Duration {
	var oldest time.Duration
	for l := range t.waiting {
		for _, h := range l.holders {
			if !h.since.IsZero() {
				oldest = max(oldest, now.Sub(h.since))
			}
		}
	}
	return oldest
}
