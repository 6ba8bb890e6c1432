package blockrpc

import (
	"context"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// pendingRecord is a record that is not acknowledged.
type pendingRecord struct {
	record  []byte
	done    func(index uint64, err error)
	streams int // that it was sent on
}

// writeQueue holds the records of the writer that are not acknowledged, and
// what the write goroutine and the sender of its stream share.
//
// Invariant: records[i] has number base+i; of them, the first sent were sent
// on the current stream; 0 <= sent <= len(records).
type writeQueue struct {
	mu      sync.Mutex
	changed sync.Cond // of everything below

	records []pendingRecord
	base    uint64
	sent    int
	epoch   blockstore.Epoch
	stale   blockstore.Epoch // epochs up to this one were refused

	lastIndex uint64
	progress  time.Time // of the last acknowledgement, or of the first record after none was pending
	final     error     // why nothing will ever be acknowledged again
	closed    bool
	stopped   bool // the write goroutine is gone

	stream *clientStream // the current one, nil if none

	release func(record []byte) // set before the first record, or nil
}

// clientStream is one Write stream as the client sees it.
type clientStream struct {
	addr   string
	epoch  blockstore.Epoch
	cancel context.CancelFunc
	ended  bool // the sender must stop
}

func (q *writeQueue) init(epoch blockstore.Epoch) {
	q.changed.L = &q.mu
	q.base, q.epoch = 1, epoch
}

// Submit implements blockstore.Sink. The epoch need not be known yet.
func (c *Client) Submit(record []byte, done func(index uint64, err error)) {
	q := &c.w
	q.mu.Lock()
	if q.stopped {
		err := q.final
		q.mu.Unlock()
		go done(0, err)
		return
	}
	if len(q.records) == 0 {
		q.progress = time.Now()
	}
	q.records = append(q.records, pendingRecord{record: record, done: done})
	q.mu.Unlock()
	q.changed.Broadcast()
}

// OnRelease implements wal.Releaser. A record is told that was sent on one stream alone and acknowledged there: so all of it was
// read, and nothing will read it again. Of an older stream, which may still hold parts of it, nobody knows that.
func (c *Client) OnRelease(f func(record []byte)) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.release = f
}

// released tells of r, which was acknowledged on the current stream, if nothing refers to it.
func (q *writeQueue) released(r *pendingRecord) {
	q.mu.Lock()
	f := q.release
	q.mu.Unlock()
	if f != nil && r.streams == 1 {
		f(r.record)
	}
}

func (q *writeQueue) setEpoch(epoch blockstore.Epoch) (changed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if epoch <= q.epoch {
		return false
	}
	q.epoch = epoch
	if q.stream != nil {
		q.stream.cancel() // its records would be refused
	}
	q.changed.Broadcast()
	return true
}

func (q *writeQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.final == nil {
		q.final = errors.New(errors.KindUnavailable, "block store: the client was closed; whether the record is durable is unknown")
	}
	q.changed.Broadcast()
}

// work is what the write goroutine is to do next.
type work int

const (
	workSend work = iota // there are records to send
	workFail             // there are records, and a final error
	workStop             // closed, and nothing is pending
)

// next waits until there is something to do. It does not wait for an epoch.
func (q *writeQueue) next() work {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.final != nil && len(q.records) > 0:
			return workFail
		case q.closed:
			q.stopped = true
			return workStop
		case len(q.records) > 0:
			return workSend
		}
		q.changed.Wait()
	}
}

// waitEpoch waits until the epoch is one that was not refused, the client
// closed, or patience is over: then the epoch told is tried once more.
func (q *writeQueue) waitEpoch(patience time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	over := false
	t := time.AfterFunc(patience, func() {
		q.mu.Lock()
		over = true
		q.mu.Unlock()
		q.changed.Broadcast()
	})
	defer t.Stop()
	for !q.closed && (q.epoch == 0 || (q.epoch <= q.stale && !over)) {
		q.changed.Wait()
	}
}

// begin makes st the current stream: nothing was sent on it.
func (q *writeQueue) begin(st *clientStream) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.epoch, q.sent, q.stream = q.epoch, 0, st
	q.progress = time.Now()
	if q.closed {
		st.cancel()
	}
}

// end tells the sender of st to stop.
func (q *writeQueue) end(st *clientStream) {
	q.mu.Lock()
	st.ended, q.stream = true, nil
	q.mu.Unlock()
	q.changed.Broadcast()
}

// take waits for the next record to be sent on st; false if the stream has ended.
func (q *writeQueue) take(st *clientStream) (seq uint64, record []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !st.ended && q.sent == len(q.records) {
		q.changed.Wait()
	}
	if st.ended {
		return 0, nil, false
	}
	seq, record = q.base+uint64(q.sent), q.records[q.sent].record
	q.records[q.sent].streams++
	q.sent++
	return seq, record, true
}

// acked takes the record of number seq off; false if it is not the one that must come next.
func (q *writeQueue) acked(seq, index uint64) (r pendingRecord, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sent == 0 || seq != q.base {
		return r, false
	}
	r = q.pop()
	q.sent--
	q.lastIndex = max(q.lastIndex, index)
	q.progress = time.Now()
	return r, true
}

// pop takes the first record off.
func (q *writeQueue) pop() pendingRecord {
	r := q.records[0]
	q.records[0] = pendingRecord{}
	q.records = q.records[1:]
	q.base++
	if len(q.records) == 0 {
		q.records = nil
	}
	return r
}

// fail makes err final.
func (q *writeQueue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.final == nil {
		q.final = err
	}
}

// failNext takes the first record off that a final error fails; false if there is none.
func (q *writeQueue) failNext() (pendingRecord, error, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.records) == 0 {
		return pendingRecord{}, nil, false
	}
	return q.pop(), q.final, true
}

// refused notes that the epoch of a stream was refused.
func (q *writeQueue) refused(epoch blockstore.Epoch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stale = max(q.stale, epoch)
}

// stalled tells whether records were sent and none was answered for d.
func (q *writeQueue) stalled(d time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sent > 0 && time.Since(q.progress) >= d
}
