package lockserver

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// reign is everything a leader knows for as long as it leads. Its fields are
// guarded by Server.mu, but for the constant ones.
type reign struct {
	s     *Server
	epoch blockstore.Epoch
	ctx   context.Context // ends with the reign
	log   *slog.Logger

	table      *Table
	streams    map[blockstore.WriterID]*serverStream // each session's newest
	lastStream uint64
	nextInode  uint64                      // every range that lies below it is in the table
	applied    uint64                      // an index that is known to be applied here
	pending    map[*serverStream]keepAlive // the newest of each stream: its answer serves the older ones
	wakeProver chan struct{}
	wakeTimer  chan struct{}
	fences     sync.WaitGroup
}

// keepAlive is one that arrived and waits for a proof of leadership that
// begins after it.
type keepAlive struct {
	seq      uint64
	received time.Time
	urgent   bool
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refresh takes writers and ranges from the state and reports whether this
// epoch is still the state's. Writers that are new are entered; those
// that are gone have ended without the table's doing.
func (r *reign) refresh(now time.Time, begins bool) bool {
	var writers []blockstore.WriterInfo
	var epoch blockstore.Epoch
	r.s.p.View(func(st *blockstore.State, applied uint64) {
		writers, epoch, r.nextInode = st.Writers(), st.Epoch(), st.NextInode()
		r.applied = max(r.applied, applied)
	})
	live := make(map[blockstore.WriterID]bool, len(writers))
	for _, w := range writers {
		live[w.ID] = true
		r.table.Expect(now, w.ID, r.s.o.lease(time.Duration(w.TTLMilli)*time.Millisecond), begins)
		r.table.SetRanges(w.ID, w.Inodes)
	}
	var gone []blockstore.WriterID
	r.table.Sessions(func(id blockstore.WriterID) {
		if !live[id] {
			gone = append(gone, id)
		}
	})
	for _, id := range gone {
		r.table.Ended(now, id, r.applied, false)
	}
	return epoch == r.epoch
}

// flush hands on what the table wants sent, and starts the fences it wants.
// The caller holds mu, and s.reign is r.
func (r *reign) flush() {
	for _, o := range r.table.Drain() {
		if o.Fence {
			r.fences.Go(func() { r.fence(o.Session) })
			continue
		}
		st := r.streams[o.Session]
		if st == nil || st.number != o.Stream {
			continue
		}
		switch {
		case o.Grant != nil:
			st.out.Grants = append(st.out.Grants, *o.Grant)
		case o.Revoke != nil:
			st.out.Revokes = append(st.out.Revokes, *o.Revoke)
		case o.File != nil:
			st.out.Files = append(st.out.Files, *o.File)
		case o.Close != nil:
			r.log.Log(r.ctx, o.closeLevel(), "a lock session is ended", "session", o.Session, "why", o.Close)
			st.close(o.Close)
		}
		st.queued()
	}
}

// closeLevel is how much the end of a session matters to people: not at all when it asked for it, some when its lease ran out, and
// a session that is ended early has done what it should not.
func (o *Output) closeLevel() slog.Level {
	switch {
	case o.Quiet:
		return slog.LevelInfo
	case errors.Is(o.Close, errors.KindSessionEnded):
		return slog.LevelWarn
	}
	return slog.LevelError
}

// fence proposes the end of a session until the outcome is known.
func (r *reign) fence(id blockstore.WriterID) {
	r.log.Warn("a session's lease ran out: fencing its writer", "session", id)
	for {
		res, err := r.s.p.Propose(r.ctx, blockstore.Command{Kind: blockstore.CmdFenceWriter, Writer: id})
		if err == nil {
			r.do(func(now time.Time) { r.table.Ended(now, id, res.Index, false) })
			r.log.Warn("a session's writer is fenced", "session", id, "index", res.Index)
			return
		}
		if !sleep(r.ctx, 50*time.Millisecond) {
			return
		}
	}
}

// do runs f on the table if the reign still is.
func (r *reign) do(f func(now time.Time)) bool {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.reign != r {
		return false
	}
	f(time.Now())
	r.flush()
	wake(r.wakeTimer)
	return true
}

// timer ticks the table, and looks once a second for writers that ended
// without its doing.
func (r *reign) timer() {
	t := time.NewTimer(0)
	defer t.Stop()
	var refreshed, next, ticked time.Time
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.wakeTimer:
			// Something changed: what is due may be due earlier. Not more often than each millisecond.
			if d := time.Since(ticked); d < time.Millisecond {
				t.Reset(time.Millisecond - d)
				continue
			}
		case <-t.C:
		}
		r.s.mu.Lock()
		if r.s.reign != r {
			r.s.mu.Unlock()
			return
		}
		ticked = time.Now()
		if ticked.Sub(refreshed) >= time.Second {
			refreshed = ticked
			r.refresh(ticked, false)
		}
		next = r.table.Tick(ticked)
		r.flush()
		r.s.mu.Unlock()
		t.Reset(max(time.Until(next), time.Millisecond))
	}
}

// prover answers keep-alives: it takes those that have arrived, then begins a
// proof of leadership, and answers them if that succeeds. One proof in
// ProveEvery serves all, but for a stream's first keep-alive, which does not wait.
func (r *reign) prover() {
	var last time.Time
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.wakeProver:
		}
		r.s.mu.Lock()
		urgent := false
		for _, k := range r.pending {
			urgent = urgent || k.urgent
		}
		r.s.mu.Unlock()
		if wait := r.s.o.ProveEvery - time.Since(last); !urgent && wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-r.ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		r.s.mu.Lock()
		batch := r.pending
		r.pending = map[*serverStream]keepAlive{}
		r.s.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		last = time.Now()
		if err := r.s.p.ProveLeadership(r.ctx); err != nil {
			r.retry(batch)
			if !sleep(r.ctx, 50*time.Millisecond) {
				return
			}
			continue
		}
		r.renew(batch)
	}
}

// retry puts keep-alives back: a later proof serves them as well.
func (r *reign) retry(batch map[*serverStream]keepAlive) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	maps.Copy(batch, r.pending) // a newer one of the same stream serves the older
	maps.DeleteFunc(batch, func(st *serverStream, _ keepAlive) bool { return st.closed() })
	r.pending = batch
	wake(r.wakeProver)
}

func (r *reign) renew(batch map[*serverStream]keepAlive) {
	r.do(func(time.Time) {
		for st, k := range batch {
			if st.closed() || !r.table.Renew(k.received, st.writer, st.number) {
				continue
			}
			st.renewed = true
			st.out.Renewed = max(st.out.Renewed, k.seq)
			st.queued()
		}
	})
}
