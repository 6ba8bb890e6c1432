package sim

import (
	"slices"
	"time"

	"dfs/blockstore"
)

func (w *world) since() time.Duration { return time.Since(w.begun) }

// number draws a number that nobody has written yet.
func (w *world) number() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.numbers++
	return w.numbers
}

// add adds an operation to the history.
func (w *world) add(o op, err error) {
	w.mu.Lock()
	w.history = append(w.history, o)
	w.mu.Unlock()
	if err != nil {
		w.refused(err)
	}
}

// refused counts an operation that failed.
func (w *world) refused(error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors++
}

// owner is the number of a mount's life in the history.
func (m *mount) owner(life int) int {
	for i, o := range m.w.mounts {
		if o == m {
			return 100*(i+1) + life
		}
	}
	return 0
}

// loss is a session whose end is under way: opened is when it was last known to live.
type loss struct {
	owner  int
	since  time.Duration
	writer blockstore.WriterID
}

// kill is a process that was killed: what its session had not made durable may be lost.
type kill struct {
	m      *mount
	life   int
	writer blockstore.WriterID
	since  time.Duration // when the process began
}

// watchLosses notes the sessions that end, until end is closed. A session of a killed process ends when its writer is
// no longer in the state of some replica; one of a living process when it has another.
func (w *world) watchLosses(end <-chan struct{}) {
	type seen struct {
		life   int
		writer blockstore.WriterID
		alive  time.Duration
	}
	last := map[*mount]seen{}
	var dying []loss
	killed := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, k := range w.killed {
			if old := last[k.m]; old.life == k.life {
				k.since = old.alive
				if k.writer == 0 { // between two sessions
					k.writer = old.writer
				}
			}
			dying = append(dying, loss{k.m.owner(k.life), k.since, k.writer})
		}
		w.killed = nil
	}
	for {
		select {
		case <-end:
			killed()
			for _, l := range dying {
				w.add(op{kind: opLose, owner: l.owner, sure: true, call: l.since, ret: w.since()}, nil)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
		now := w.since()
		killed()
		for _, m := range w.mounts {
			old, known := last[m]
			s, life, _ := m.now()
			if s == nil {
				continue
			}
			c := s.Clerk()
			writer := c.Session().Writer
			switch {
			case known && old.life == life && old.writer != writer && writer != 0:
				w.note("%s: session %d is over, now %d", m.name, old.writer, writer)
				w.add(op{kind: opLose, owner: m.owner(life), sure: true, call: old.alive, ret: now}, nil)
			case known && old.life == life && c.LeaseLeft() <= 0:
				continue // as it was
			}
			if writer != 0 {
				last[m] = seen{life, writer, now}
			}
		}
		kept := dying[:0]
		for _, l := range dying {
			if w.ended(l.writer) {
				w.add(op{kind: opLose, owner: l.owner, sure: true, call: l.since, ret: now}, nil)
				continue
			}
			kept = append(kept, l)
		}
		dying = kept
	}
}

// ended tells whether some replica knows that the writer is no more: it knows a later one, and not this one.
func (w *world) ended(writer blockstore.WriterID) (ended bool) {
	for _, n := range w.members() {
		r := n.replica()
		if r == nil {
			continue
		}
		r.View(func(s *blockstore.State, _ uint64) {
			if _, ok := s.Writer(writer); ok {
				return
			}
			for _, other := range s.Writers() {
				ended = ended || other.ID > writer
			}
			for _, id := range s.Retired() {
				ended = ended || id >= writer
			}
		})
	}
	return ended
}

// settled is the history as it is checked: what was under way when its process was killed may happen until the session has ended.
func (w *world) settled() []op {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.history)
	for _, l := range out {
		if l.kind != opLose {
			continue
		}
		for i := range out {
			o := &out[i]
			if !o.sure && o.owner == l.owner && o.ret >= l.call && o.call <= l.ret {
				o.ret = max(o.ret, l.ret)
			}
		}
	}
	return out
}
