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
//   - Where the kernel has an entry of that name, the LOOKUP revalidates it: any error only has it forget the entry and look up
//     again at once. It is that LOOKUP, of the same name, that must be answered with ESTALE as well.
const (
	// tasksMax bounds the tasks remembered.
	tasksMax = 1 << 12
	// tookFor is how long after a revoke a task may have gone on with a name that the kernel had, until its next LOOKUP begins.
	tookFor = 50 * time.Millisecond
)

// passes remembers the last LOOKUP of each task.
type passes struct {
	mu      sync.Mutex
	tasks   map[uint32]task
	renames func(pid uint32, name string) bool // tells whether a task is in a rename to name
}

// task is what is known of a task that looks names up.
type task struct {
	last  entryName // the name looked up last
	mark  uint64    // ledger mark of that
	sure  bool      // no revoke of its directory was under way
	until time.Time // when the lease of that time ends
	child uint64    // the directory that was found; 0: none
	pass  pass
	to    entryName // the name whose LOOKUP was answered with ESTALE
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

func newPasses() *passes { return &passes{tasks: map[uint32]task{}, renames: renamesTo} }

// looked is a LOOKUP that found a name.
type looked struct {
	entryName
	sure   bool          // no revoke of the directory was under way
	lapsed bool          // there was no lease when it began
	left   time.Duration // of the lease
	child  uint64        // the directory that was found; 0: none
}

// there notes a LOOKUP that found a name, and reports whether it is to be answered with ESTALE.
func (p *passes) there(r *inflight, l *ledger, n looked) bool {
	pid := r.caller.PID
	if pid == 0 {
		return false // of another name space
	}
	now := time.Now()
	p.mu.Lock()
	t, known := p.tasks[pid]
	p.mu.Unlock()
	again := t.goOn(n.entryName)
	if t.pass == first {
		// The old name is the one that was looked up before, or the kernel had it, and has lost it since.
		suspect := n.lapsed || l.tookNames(r.since.Add(-tookFor)) ||
			known && t.last != n.entryName && (!t.sure || now.After(t.until) || l.changedSince(t.last.dir, t.mark))
		if again = suspect && p.renames(pid, n.name); again {
			t.pass, t.to = refused, n.entryName
		}
	}
	t.last, t.mark, t.sure, t.until = n.entryName, r.mark, n.sure, now.Add(n.left)
	t.child = n.child
	p.mu.Lock()
	defer p.mu.Unlock()
	if !known && len(p.tasks) >= tasksMax {
		clear(p.tasks) // most of them have ended long ago
	}
	p.tasks[pid] = t
	return again
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

// takes is the directory for which the kernel of a task takes n, if that is not its second pass.
func (p *passes) takes(pid uint32, n entryName) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tasks[pid]; t.last == n && t.pass == first {
		return t.child
	}
	return 0
}

// stale notes that a task's request about n is answered with ESTALE: what it looks up now is its second pass.
func (p *passes) stale(pid uint32, n entryName, in pass) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks[pid] = task{pass: in, to: n}
}

// over notes that a task is at the end of a pass: it is told that a name is missing, or asks for the RENAME.
func (p *passes) over(pid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tasks, pid)
}
