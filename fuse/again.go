package fuse

import (
	"sync"
	"time"
)

// A rename has the kernel look up the old name and then the new one, each for itself, and another mount may change them in between. What the kernel
// then answers by itself, without asking, may be the answer to no state that there ever was: success where it finds one file under both names, EEXIST,
// EISDIR or ENOTDIR where the old name is gone by then. So where the directory of the name that a task looked up before may have been changed by others
// since, and the task is in a rename, its LOOKUP of a name that is there is answered with ESTALE, upon which the kernel begins the call again and asks
// for every name. Rules:
//
//   - Only a rename, and only the LOOKUP of its new name: mkdir, mknod, symlink, link and bind do not begin again. A LOOKUP does not say what it is for,
//     but /proc does, of a task that waits for an answer (caller.go). Where it may not be read all is as it would be without this.
//   - The kernel begins again once in a call: a second ESTALE would reach the program. So in the second pass none is given. It looks up
//     other names first, the old one at least, and ends with the new one, or with one that is missing, or with the RENAME.
//   - Where the old name may have changed in the second pass as well, the new one, unless it is a directory's or to be exchanged, is said to be missing:
//     the kernel then knows of nothing that it could answer by itself, and asks for the RENAME, which is right whatever there is. Not where the paths have
//     that name elsewhere, too: it might be the old one, or a link on the way.
//   - Where the kernel has an entry of that name, the LOOKUP revalidates it: any error, another inode, or none, only has it forget the entry and look up
//     again at once. That LOOKUP, of the same name, must be answered with ESTALE as well; and the old name is the one before both.
const (
	// tasksMax bounds the tasks remembered.
	tasksMax = 1 << 12
	// tookFor is how long after a revoke, or a time without a lease, a task may have gone on with a name that the kernel had, until its next LOOKUP
	// begins: it may have had to wait for a processor. (A time in which this process did not run is none: conn.awake.)
	tookFor = 10 * time.Second
)

// passes remembers the last LOOKUPs of each task.
type passes struct {
	mu     sync.Mutex
	tasks  map[uint32]task
	lapsed time.Time                                  // when there was last seen to be no lease
	call   func(pid uint32, name string) (how rename) // what a task is in
}

// rename is what a task that waits for an answer is in.
type rename uint8

const (
	noRename      rename = iota // as far as is known
	moves                       // a rename to the name, from another
	movesNamesake               // which the paths have elsewhere, too: a LOOKUP may be of either
	exchanges
)

// verdict is how a LOOKUP that found a name is answered.
type verdict uint8

const (
	tell  verdict = iota // with what was found
	stale                // with ESTALE
	hide                 // as if nothing had been found
)

// task is what is known of a task that looks names up.
type task struct {
	last, before looked // the name looked up last, and the one before that was another
	pass         pass
	to           entryName // the name whose LOOKUP was answered with ESTALE
	hidden       uint64    // the inode that was found there, and not told
}

// pass says where in a rename a task is.
type pass uint8

const (
	first   pass = iota // in the first pass, or in no rename
	refused             // to was answered with ESTALE
	retried             // and once more
	second              // other names were looked up since
	ending              // and then to again
)

func newPasses() *passes { return &passes{tasks: map[uint32]task{}, call: renameOf} }

// looked is a LOOKUP.
type looked struct {
	entryName
	since  time.Time     // it began
	lease  time.Duration // left then
	mark   uint64        // ledger mark of that
	sure   bool          // no revoke of the directory was under way
	until  time.Time     // when the lease at its end ends
	ino    uint64        // what was found; 0: nothing
	folder bool          // which is a directory
}

// changed reports whether what a LOOKUP said may have been changed by others until now.
func (n *looked) changed(l *ledger, now time.Time) bool {
	return n.name != "" && (!n.sure || now.After(n.until) || l.changedSince(n.dir, n.mark))
}

// answer notes a LOOKUP, and says how it is to be answered.
func (p *passes) answer(pid uint32, l *ledger, n looked) verdict {
	if pid == 0 {
		return tell // of another name space
	}
	now := time.Now()
	p.mu.Lock()
	t := p.tasks[pid]
	if n.lease <= 0 || now.Sub(n.since) > n.lease {
		p.lapsed = now
	}
	// The kernel may have gone on with an old name that it had, and has lost since.
	had := p.lapsed.After(n.since.Add(-tookFor)) || l.tookNames(n.since.Add(-tookFor))
	p.mu.Unlock()
	if t.last.entryName != n.entryName {
		t.before = t.last
	}
	t.last = n
	v := tell
	if n.ino == 0 {
		t.missing(n.entryName)
	} else {
		v = p.found(pid, &t, had, t.before.changed(l, now))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.tasks[pid]; !known && len(p.tasks) >= tasksMax {
		clear(p.tasks) // most of them have ended long ago
	}
	p.tasks[pid] = t
	return v
}

// found takes a task on with its last LOOKUP, which found something. The old name was one that the kernel had, and may have lost (had), or the
// one looked up before, which may have changed.
func (p *passes) found(pid uint32, t *task, had, changed bool) verdict {
	n := &t.last
	was := t.pass
	switch again := t.goOn(n.entryName); {
	case again:
		return stale
	case t.pass == first:
		if (had || changed) && p.call(pid, n.name) != noRename {
			t.pass, t.to = refused, n.entryName
			return stale
		}
	case t.pass == ending && !n.folder:
		// At the second look it may be another call, with an old name that the kernel had.
		if (changed || had && was == ending) && p.call(pid, n.name) == moves {
			t.hidden = n.ino
			return hide
		}
	}
	return tell
}

// goOn takes a task to the pass that a LOOKUP of n shows it in, and reports whether that is to be answered with ESTALE as the one before was.
func (t *task) goOn(n entryName) (again bool) {
	switch {
	case t.pass == refused && t.to == n:
		t.pass = retried
		return true
	case t.pass == refused || t.pass == retried && t.to != n:
		t.pass = second
	case t.pass == second && t.to == n:
		t.pass = ending
	case t.pass == ending && t.to.name != n.name, t.pass == retried: // the old name may be the same in another directory
		t.pass = first
	}
	return false
}

// missing takes a task on with a LOOKUP of n that found nothing: unless that is the new name, it ends the call.
func (t *task) missing(n entryName) {
	if t.to == n && (t.pass == second || t.pass == ending) {
		t.pass = ending
	} else {
		t.pass = first
	}
}

// takes is the directory for which the kernel of a task takes n, if that is not its second pass.
func (p *passes) takes(pid uint32, n entryName) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tasks[pid]; t.last.entryName == n && t.last.folder && t.pass == first {
		return t.last.ino
	}
	return 0
}

// stale notes that a task's request about n is answered with ESTALE: what it looks up now is its second pass.
func (p *passes) stale(pid uint32, n entryName, in pass) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks[pid] = task{pass: in, to: n}
}

// over notes that a task is at the end of a call, with its last request about n, and returns the inode that was found there and that its kernel was
// not told of; 0: none.
func (p *passes) over(pid uint32, n entryName) (hidden uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tasks[pid]; t.to == n {
		hidden = t.hidden
	}
	delete(p.tasks, pid)
	return hidden
}
