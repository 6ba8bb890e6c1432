package lockserver

import "fmt"

// Check verifies the table's invariants; tests call it after every step.
func (t *Table) Check() error {
	awaited := 0
	for id, s := range t.sessions {
		if s.id != id {
			return fmt.Errorf("session %d stands under %d", s.id, id)
		}
		if s.awaited {
			awaited++
		}
		for lid, l := range s.locks {
			if t.locks[lid] != l {
				return fmt.Errorf("session %d has lock %d, which is not the table's", id, lid)
			}
			if l.holdOf(s) == nil && !l.waits(s) && !l.isOpen(s) {
				return fmt.Errorf("session %d has lock %d but nothing to do with it", id, lid)
			}
		}
	}
	if awaited != t.awaited {
		return fmt.Errorf("%d sessions are awaited, the table counts %d", awaited, t.awaited)
	}
	for id, l := range t.locks {
		if err := t.checkLock(id, l); err != nil {
			return err
		}
	}
	for e := t.idle.Front(); e != nil; e = e.Next() {
		if l := e.Value.(*lock); t.locks[l.id] != l || l.idle != e {
			return fmt.Errorf("idle lock %d is not the table's", l.id)
		}
	}
	if t.idle.Len() > t.o.RememberMax {
		return fmt.Errorf("%d idle locks are remembered, over the bound", t.idle.Len())
	}
	return t.checkFiles()
}

func (t *Table) checkLock(id LockID, l *lock) error {
	seen := map[*session]bool{}
	for _, h := range l.holders {
		switch {
		case t.sessions[h.s.id] != h.s:
			return fmt.Errorf("lock %d is held by session %d, which is gone", id, h.s.id)
		case seen[h.s]:
			return fmt.Errorf("lock %d is held twice by session %d", id, h.s.id)
		case h.mode == Exclusive && len(l.holders) > 1:
			return fmt.Errorf("lock %d is held exclusive by session %d and by %d in all", id, h.s.id, len(l.holders))
		case h.mode != Shared && h.mode != Exclusive:
			return fmt.Errorf("lock %d is held in mode %d", id, h.mode)
		case h.number > t.number:
			return fmt.Errorf("lock %d has grant %d, above the newest %d", id, h.number, t.number)
		case (h.age != nil) != (h.number != 0):
			return fmt.Errorf("lock %d: grant %d and the age list disagree", id, h.number)
		case h.s.locks[id] != l:
			return fmt.Errorf("lock %d is not among those of its holder %d", id, h.s.id)
		}
		seen[h.s] = true
	}
	for _, w := range l.queue {
		if w.s.locks[id] != l {
			return fmt.Errorf("lock %d is not among those of its waiter %d", id, w.s.id)
		}
	}
	unused := len(l.holders) == 0 && len(l.queue) == 0 && len(l.open) == 0
	if unused != (l.idle != nil) {
		return fmt.Errorf("lock %d: unused %v, but on the idle list %v", id, unused, l.idle != nil)
	}
	if _, waiting := t.waiting[l]; waiting != (len(l.queue) > 0) {
		return fmt.Errorf("lock %d: queue of %d, but among the waiting %v", id, len(l.queue), waiting)
	}
	if r := t.owner(id); r != nil && r.s.ready && len(l.holders) > 0 && !r.given.has(uint64(id)-r.First) && l.holders[0].s != r.s {
		if r.s.doomed == "" {
			return fmt.Errorf("lock %d lies in session %d's range, which did not give it up, but is held by %d", id, r.s.id, l.holders[0].s.id)
		}
	}
	return nil
}

func (t *Table) checkFiles() error {
	count := map[*session]int{}
	for id, f := range t.files {
		for i, h := range f.held {
			count[h.s]++
			for _, o := range f.held[:i] {
				if o.overlaps(h.FileLock) && (o.fileOwner == h.fileOwner || o.Type == FileWrite || h.Type == FileWrite) {
					return fmt.Errorf("inode %d: file locks %+v and %+v conflict", id, o.FileLock, h.FileLock)
				}
			}
		}
		for _, w := range f.queue {
			count[w.s]++
		}
		if len(f.held) == 0 && len(f.queue) == 0 {
			return fmt.Errorf("inode %d: an empty table of file locks is kept", id)
		}
	}
	for _, s := range t.sessions {
		if s.fileCnt != count[s] {
			return fmt.Errorf("session %d: %d file locks counted, %d kept", s.id, count[s], s.fileCnt)
		}
	}
	return nil
}
