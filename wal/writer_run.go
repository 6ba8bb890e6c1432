package wal

import (
	"context"
	"time"

	"dfs/internal/errors"
)

// run is the Writer's goroutine: it hands sealed records to the sink and seals
// the running transaction when it is old.
func (w *Writer) run() {
	defer close(w.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, more := w.step()
		if more {
			continue
		}
		timer.Reset(next)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-w.stop:
			return
		}
	}
}

// step submits what is sealed. It returns whether there may be more to do at once, and
// if not after what time there is.
func (w *Writer) step() (next time.Duration, more bool) {
	w.mu.Lock()
	if w.failed() != nil {
		w.mu.Unlock()
		return time.Hour, false
	}
	next = w.ripen(time.Now())
	batch := w.queue
	w.queue = nil
	needSpare := len(w.spares) == 0 && len(batch) > 0
	w.mu.Unlock()
	if len(batch) == 0 {
		return next, false
	}
	var spare []byte
	for i := range batch {
		s := &batch[i]
		record, left := s.finish()
		if left != nil {
			spare = left
		}
		gen, size := s.gen, int64(s.size)
		w.sink.Submit(record, func(index uint64, err error) { w.acknowledge(gen, size, index, err) })
	}
	if needSpare && spare == nil {
		spare = make([]byte, 0, w.opt.RecordBytesTarget)
	}
	if spare != nil {
		w.mu.Lock()
		if len(w.spares) < sparesMax {
			w.spares = append(w.spares, spare)
		}
		w.mu.Unlock()
	}
	return 0, true
}

// ripen seals the running transaction if it is old, lets promises run out, and
// returns when to look again. Called with mu held.
func (w *Writer) ripen(now time.Time) time.Duration {
	next := time.Hour
	if len(w.gate.waiters) > 0 {
		w.admitMore()
		if w.gate.promised() > 0 {
			next = promiseFor
		}
	}
	if w.running.empty() || w.wanted {
		return next
	}
	left := w.opt.FlushAfter - now.Sub(w.running.born)
	if left <= 0 {
		w.sealWanted(&w.stats.SealedOld)
		return next
	}
	return min(next, left)
}

// acknowledge is the sink's answer to the record of gen.
func (w *Writer) acknowledge(gen Gen, size int64, index uint64, err error) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	if err == nil && uint64(gen) != w.durable.Load()+1 {
		err = errors.New(errors.KindIO, "wal: the sink acknowledged record %d after record %d; this is a defect of the sink", gen, w.durable.Load())
	}
	if err != nil {
		w.fail(err)
		w.mu.Unlock()
		return
	}
	w.lastIndex.Store(max(index, w.lastIndex.Load()))
	w.durable.Store(uint64(gen))
	w.inFlight--
	w.pending -= size
	if !w.closed {
		if w.wanted && !w.running.empty() {
			w.seal(&w.stats.SealedWanted)
		}
		w.admitMore()
	}
	closed := w.closed
	w.mu.Unlock()

	if w.opt.OnDurable != nil && !closed {
		w.opt.OnDurable(gen)
	}
	w.mu.Lock()
	w.notified = gen
	if ch := w.flushes[gen]; ch != nil {
		close(ch)
		delete(w.flushes, gen)
	}
	w.mu.Unlock()
}

// Admit waits until `bytes` more may be pending; callers are served in the
// order of their coming. The bytes are promised to the caller until its Commit
// (the next one by anybody is taken for it), but not longer than promiseFor allows. More
// than PendingBytesMax is admitted when nothing else is pending. It returns
// ctx's error, the sink's final one, or KindUnavailable once closed.
func (w *Writer) Admit(ctx context.Context, bytes int) error {
	n := int64(max(bytes, 0))
	w.mu.Lock()
	if err := w.failed(); err != nil {
		w.mu.Unlock()
		return err
	}
	if w.gate.try(n, w.pendingBytes(), time.Now()) {
		w.mu.Unlock()
		return nil
	}
	me := w.gate.enter(n)
	w.admitMore()
	if me.granted {
		w.mu.Unlock()
		return nil
	}
	w.signal() // promises in the way are to be let run out
	w.mu.Unlock()

	select {
	case <-me.ready:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failed(); err != nil {
		return err
	}
	if me.granted {
		return nil
	}
	w.gate.leave(me)
	w.admitMore()
	return ctx.Err()
}

// admitMore lets in, in order, those whom there is room for. If somebody waits
// on, and only the running transaction is in the way, it is sealed. Called with mu held.
func (w *Writer) admitMore() {
	if len(w.gate.waiters) == 0 {
		return
	}
	w.gate.admit(w.pendingBytes(), time.Now())
	if len(w.gate.waiters) > 0 && w.inFlight == 0 && !w.running.empty() {
		w.seal(&w.stats.SealedWanted)
	}
}
