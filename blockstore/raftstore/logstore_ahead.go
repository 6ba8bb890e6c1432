package raftstore

import (
	stderrors "errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// logAhead reads the log's files ahead of those who go through them in order: a follower that is behind by more than the cache, which raft
// serves entry by entry, 16 entries, then an exchange with the follower, and the redo after a start. While they use
// what they have, the next entries are read in large pieces.
//
// A reader is who asks for the entry behind the one it got. Entries are read ahead for its third one on, up to those that the cache has.
//
// Nothing that was removed is handed out: each removal, once done and before it is told, drops the readers whom it concerns, with what is
// being read for them. An error of a read is told to the reader when it comes to that entry.
type logAhead struct {
	// read gives entries from index on, below limit and of about bytes, one at least; raft.ErrLogNotFound. nil: nothing is read ahead.
	read     func(index, limit uint64, bytes int64) ([]raft.Log, error)
	limit    func() uint64 // the first entry that need not be read
	bytesMax int64
	idle     time.Duration

	mu      sync.Mutex
	readers []*aheadReader // who came last is last
	epoch   uint64         // of removals
	used    bool           // since the timer last fired
	timer   *time.Timer
	closed  bool
	fills   sync.WaitGroup
}

// aheadReader is one that goes through the log. All under logAhead.mu.
type aheadReader struct {
	prev    raft.Log      // what it got last: raft asks for that again, for its term
	next    uint64        // what it will ask for
	ready   []raft.Log    // from next on
	bytes   int64         // of ready
	err     error         // of the read of the entry behind ready
	filling chan struct{} // closed when the piece being read is there; nil: none is. Then next+len(ready) changes only with it
	gone    bool          // dropped: what is being read for it is too
	used    time.Time
}

const (
	aheadPiece   = 1 << 20     // bytes read in one go
	aheadReaders = 4           // at most
	aheadStale   = time.Second // a reader that was away for so long makes room for a new one
)

func (a *logAhead) init(bytesMax int64, idle time.Duration) { a.bytesMax, a.idle = bytesMax, idle }

// get gives the entry at index if it has been read ahead, or is being. ok false: it was not; epoch is then for note.
func (a *logAhead) get(index uint64, out *raft.Log) (ok bool, epoch uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		r := a.find(index)
		if r == nil {
			return false, a.epoch, nil
		}
		a.used, r.used = true, time.Now()
		switch {
		case r.got(index):
			*out = r.prev
			return true, a.epoch, nil
		case len(r.ready) > 0:
			r.take(out)
			a.fill(r)
			return true, a.epoch, nil
		case r.err != nil:
			err = r.err
			a.drop(r)
			return true, a.epoch, err
		}
		a.fill(r)
		if r.filling == nil {
			return false, a.epoch, nil
		}
		there := r.filling
		a.mu.Unlock()
		<-there
		a.mu.Lock()
	}
}

// find gives the reader that got index last, or asks for it next; rather one that has it.
func (a *logAhead) find(index uint64) (found *aheadReader) {
	for _, r := range a.readers {
		if r.got(index) || r.next == index && len(r.ready) > 0 {
			return r
		}
		if r.next == index {
			found = r
		}
	}
	return found
}

// got tells whether r got the entry at index last, and has it still.
func (r *aheadReader) got(index uint64) bool { return index != 0 && r.prev.Index == index }

// take hands the next entry out.
func (r *aheadReader) take(out *raft.Log) {
	*out = r.ready[0]
	r.bytes -= costOf(out)
	r.prev, r.ready[0] = *out, raft.Log{}
	r.ready = r.ready[1:]
	r.next++
}

// note tells of an entry that was read without us, since get told epoch: somebody may go on behind it.
func (a *logAhead) note(l *raft.Log, epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.read == nil || a.bytesMax <= 0 || a.closed || epoch != a.epoch {
		return
	}
	r := a.find(l.Index)
	switch {
	case r == nil:
		r = a.newReader()
	case r.next != l.Index || len(r.ready) > 0 || r.filling != nil:
		return // another one is as far as this one
	}
	r.prev, r.next, r.used, a.used = *l, l.Index+1, time.Now(), true
	if a.timer == nil {
		a.timer = time.AfterFunc(a.idle, a.expire)
	}
}

// newReader makes room for a reader: those that are away go, and who came first if there are too many.
func (a *logAhead) newReader() *aheadReader {
	a.dropIf(func(r *aheadReader) bool { return time.Since(r.used) > aheadStale })
	if len(a.readers) == aheadReaders {
		a.drop(a.readers[0])
	}
	r := new(aheadReader)
	a.readers = append(a.readers, r)
	return r
}

// fill begins to read ahead for r if there is room for a piece, and anything to read.
func (a *logAhead) fill(r *aheadReader) {
	if r.filling != nil || a.closed || !a.wants(r) {
		return
	}
	r.filling = make(chan struct{})
	a.fills.Add(1)
	go a.fillUp(r)
}

// wants tells whether a piece should be read for r. What there is is shared by the readers.
func (a *logAhead) wants(r *aheadReader) bool {
	share := a.bytesMax / int64(max(1, len(a.readers)))
	return !r.gone && r.err == nil && (len(r.ready) == 0 || r.bytes+aheadPiece <= share) && r.next+uint64(len(r.ready)) < a.limit()
}

// fillUp reads pieces for r while it wants any.
func (a *logAhead) fillUp(r *aheadReader) {
	defer a.fills.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		from := r.next + uint64(len(r.ready))
		a.mu.Unlock()
		logs, err := a.read(from, a.limit(), aheadPiece)
		a.mu.Lock()
		there := r.filling
		a.add(r, logs, err)
		r.filling = nil
		if a.wants(r) && !a.closed {
			r.filling = make(chan struct{})
		}
		close(there)
		if r.filling == nil {
			return
		}
	}
}

// add puts what was read behind what r has, unless it was dropped meanwhile.
func (a *logAhead) add(r *aheadReader, logs []raft.Log, err error) {
	switch {
	case r.gone:
	case stderrors.Is(err, raft.ErrLogNotFound):
		a.drop(r)
	case err != nil:
		r.err = err
	default:
		for i := range logs {
			r.bytes += costOf(&logs[i])
		}
		r.ready = append(r.ready, logs...)
	}
}

func (a *logAhead) drop(gone *aheadReader) {
	a.dropIf(func(r *aheadReader) bool { return r == gone })
}

func (a *logAhead) dropIf(gone func(*aheadReader) bool) {
	a.readers = slices.DeleteFunc(a.readers, func(r *aheadReader) bool {
		if !gone(r) {
			return false
		}
		r.gone, r.ready, r.bytes, r.err = true, nil, 0, nil
		return true
	})
}

// dropAll forgets everything: entries were removed at the end of the log.
func (a *logAhead) dropAll() { a.dropBefore(^uint64(0)) }

// dropBefore forgets the entries below before: they were removed.
func (a *logAhead) dropBefore(before uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.epoch++
	a.dropIf(func(r *aheadReader) bool { return r.next < before })
	for _, r := range a.readers {
		if r.prev.Index < before {
			r.prev = raft.Log{}
		}
	}
}

// expire drops everything if nobody asked for a whole idle time.
func (a *logAhead) expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if a.used {
		a.used = false
		a.timer.Reset(a.idle)
		return
	}
	a.timer = nil
	a.dropIf(func(*aheadReader) bool { return true })
}

// size is the bytes of entries in memory.
func (a *logAhead) size() (n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.readers {
		n += r.bytes
	}
	return n
}

// close drops everything and waits for what is being read.
func (a *logAhead) close() {
	a.mu.Lock()
	a.closed = true
	a.dropIf(func(*aheadReader) bool { return true })
	if a.timer != nil {
		a.timer.Stop()
	}
	a.mu.Unlock()
	a.fills.Wait()
}
