package wal

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dfs/internal/errors"
)

// Writer implements Log on a Sink. Commit adds operations to the running
// transaction in memory; one goroutine finishes sealed records (their checksum) and
// hands them to the sink, in order, many in flight. All methods are safe for
// concurrent use.
//
// mu guards everything below it. It is held while bytes are copied into the
// running transaction, and never while the sink, OnDurable or a checksum is at work.
type Writer struct {
	sink Sink
	opt  Options

	durable   atomic.Uint64 // Gen
	lastIndex atomic.Uint64

	wake    chan struct{} // one token: the goroutine has something to look at
	stop    chan struct{}
	stopped chan struct{}

	mu       sync.Mutex
	err      error // final
	closed   bool
	gen      Gen // of the running transaction
	running  txn
	spares   [][]byte // for the next transactions
	queue    []sealed // not with the sink yet
	inFlight int      // sealed, not acknowledged
	pending  int64    // their bytes
	notified Gen      // OnDurable has returned for it
	wanted   bool     // somebody waits for the running transaction: seal it at the next acknowledgement
	flushes  map[Gen]chan struct{}
	gate     gate
	stats    Stats
}

var _ Log = (*Writer)(nil)

// NewWriter returns a Writer on sink. Close stops it.
func NewWriter(sink Sink, opt Options) (*Writer, error) {
	w, err := newWriter(sink, opt)
	if err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// newWriter builds a Writer without its goroutine; tests take its steps by hand.
func newWriter(sink Sink, opt Options) (*Writer, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	opt.setDefaults()
	w := &Writer{sink: sink, opt: opt, gen: 1, flushes: map[Gen]chan struct{}{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		gate: gate{max: opt.PendingBytesMax}}
	if r, ok := sink.(Releaser); ok {
		r.OnRelease(w.reuse)
	}
	return w, nil
}

// Commit adds op, whole, to the running transaction and returns its generation;
// for an empty op, that of the newest change. It copies what op refers to
// and never waits for the sink. Errors: KindInvalid for an op that is not valid or is
// above RecordBytesMax; the sink's final error; KindUnavailable once closed.
func (w *Writer) Commit(op *Op) (Gen, error) {
	if err := op.Validate(); err != nil {
		return 0, errors.New(errors.KindInvalid, "wal: operation refused: %w", err)
	}
	size := op.Bytes()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failed(); err != nil {
		return 0, err
	}
	if op.Empty() {
		return w.newest(), nil
	}
	if !w.running.empty() {
		if w.running.size()+size-recordHeaderLen > w.opt.RecordBytesTarget {
			w.seal(&w.stats.SealedFull)
		} else if w.running.conflicts(op) {
			w.seal(&w.stats.SealedConflict)
		}
	}
	if w.running.empty() {
		w.running.begin(w.buffer(size), time.Now())
		w.signal() // its age is to be watched
	}
	w.stats.Ops++
	w.stats.OpBytes += uint64(size)
	w.stats.AbsorbedBytes += uint64(w.running.add(op))
	gen := w.gen
	if w.running.size() > w.opt.RecordBytesTarget-w.opt.RecordBytesTarget/16 {
		w.seal(&w.stats.SealedFull)
	}
	w.gate.redeem()
	w.admitMore()
	return gen, nil
}

// buffer returns memory for a transaction whose first operation takes size bytes.
func (w *Writer) buffer(size int) []byte {
	n := max(size, w.opt.RecordBytesTarget)
	if last := len(w.spares) - 1; last >= 0 && cap(w.spares[last]) >= n {
		b := w.spares[last]
		w.spares[last] = nil
		w.spares = w.spares[:last]
		return b
	}
	return make([]byte, 0, n)
}

// sparesMax bounds the buffers that are kept for reuse while records are pending; about 8 MiB.
const sparesMax = 32

// reuse keeps the memory of a record, to which nothing refers, for another; beyond the pending ones only a single buffer is kept.
func (w *Writer) reuse(record []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	keep := sparesMax
	if w.pending == 0 {
		keep = 1
		clear(w.spares[min(keep, len(w.spares)):])
		w.spares = w.spares[:min(keep, len(w.spares))]
	}
	if len(w.spares) < keep && cap(record) >= w.opt.RecordBytesTarget && cap(record) <= 2*w.opt.RecordBytesTarget {
		w.spares = append(w.spares, record[:0])
	}
}

// Flush returns when every transaction up to gen is durable (gen 0: everything
// committed so far) and OnDurable has returned for it. Else ctx's error (the
// records stay pending), the sink's final error, KindUnavailable once
// closed, or KindInvalid for a generation that Commit has not given out yet.
func (w *Writer) Flush(ctx context.Context, gen Gen) error {
	w.mu.Lock()
	if gen != 0 && gen <= w.notified {
		w.mu.Unlock()
		return nil
	}
	if err := w.failed(); err != nil {
		w.mu.Unlock()
		return err
	}
	newest := w.newest()
	if gen == 0 {
		gen = newest
	}
	if gen > newest {
		w.mu.Unlock()
		return errors.New(errors.KindInvalid, "wal: flush of generation %d, the newest is %d; this is a defect of the caller", gen, newest)
	}
	if gen <= w.notified {
		w.mu.Unlock()
		return nil
	}
	if gen == w.gen {
		w.sealWanted(&w.stats.SealedWanted)
	}
	ch := w.flushes[gen]
	if ch == nil {
		ch = make(chan struct{})
		w.flushes[gen] = ch
	}
	w.mu.Unlock()

	select {
	case <-ch:
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if gen <= w.notified {
		return nil
	}
	return w.failed()
}

// Durable is the newest generation such that all up to it are durable.
func (w *Writer) Durable() Gen { return Gen(w.durable.Load()) }

// LastIndex is the greatest index that the sink has acknowledged, 0 before the first.
func (w *Writer) LastIndex() uint64 { return w.lastIndex.Load() }

// Err is the error for which the Writer takes nothing more, nil while it works.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed()
}

// Stats tells what the Writer has done and holds.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.PendingBytes = w.pendingBytes()
	s.InFlight = w.inFlight
	s.PromisedBytes = w.gate.promised()
	s.AdmitWaiters = len(w.gate.waiters)
	return s
}

// Close stops the Writer. It flushes nothing (call Flush first): what is not
// with the sink yet is dropped, and whoever waits gets KindUnavailable. It returns an
// error if something was committed that is not known to be durable: the
// sink's final one, else KindIO. A second Close does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.stopped
		return nil
	}
	err, left := w.err, w.pendingBytes()
	w.closed = true
	w.release()
	w.mu.Unlock()
	close(w.stop)
	<-w.stopped
	if err == nil && left > 0 {
		err = errors.New(errors.KindIO, "wal: closed with %d bytes that are not known to be durable; flush before closing", left)
	}
	return err
}

// The methods below are called with mu held.

func (w *Writer) failed() error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errors.New(errors.KindUnavailable, "wal: the log is closed")
	}
	return nil
}

// newest is the newest generation that holds a change.
func (w *Writer) newest() Gen {
	if w.running.empty() {
		return w.gen - 1
	}
	return w.gen
}

func (w *Writer) pendingBytes() int64 { return w.pending + int64(w.running.size()) }

// seal closes the running transaction, which is not empty, and queues it for the sink.
func (w *Writer) seal(reason *uint64) {
	*reason++
	s := w.running.seal(w.gen)
	w.queue = append(w.queue, s)
	w.inFlight++
	w.pending += int64(s.size)
	w.gen++
	w.wanted = false
	w.stats.Records++
	w.stats.RecordBytes += uint64(s.size)
	w.signal()
}

// sealWanted seals at once while few records are in flight; else the next
// acknowledgement does, and whoever comes until then shares the record.
func (w *Writer) sealWanted(reason *uint64) {
	if w.inFlight < w.opt.FlushesInFlight {
		w.seal(reason)
	} else {
		w.wanted = true
	}
}

// release wakes everybody who waits; they find out why by themselves.
func (w *Writer) release() {
	for gen, ch := range w.flushes {
		close(ch)
		delete(w.flushes, gen)
	}
	w.gate.release()
	w.queue = nil
}

// fail makes err final: what is not durable yet is lost.
func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
		w.release()
	}
}

// signal wakes the goroutine.
func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
